"""The transformer computes what the published implementation computes, from its own checkpoint files."""

from __future__ import annotations

import pytest

from tests.reference import verified

ITEMS = {
    *("published keys and back", "encoder mask", "encoder input", "encoder states", "decoder context"),
    *("target streams", "decoder input", "decoder output", "target ids", "likeliest ids", "decoder mask"),
    *("loss mod", "loss token", "losses of the streams", "numbers of targets"),
    *("gradients", "gradient norms of tables", "parameters without gradient"),
}
STREAMS = {"fm_mod21_swiglu": 15, "fm_qknorm": 2, "fm_gelu_bias": 2}
"""Streams with targets in the recorded batch."""


@pytest.mark.parametrize("name", STREAMS)
def test_every_output_equals_the_reference(name: str) -> None:
    report = verified(name)
    assert report.kind == "transformer" and not report.unread
    logits = [item for item in report.checks if item.startswith("logits ")]
    assert len(logits) == STREAMS[name] == report.checks["decoder output"].parts
    assert set(report.checks) - set(logits) - {"configuration in the header"} == ITEMS
    assert report.checks["gradients"].parts > 40


def test_header_carries_the_configuration() -> None:
    assert "configuration in the header" in verified("fm_gelu_bias").checks
