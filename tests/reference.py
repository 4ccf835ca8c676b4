"""Recorded outputs of the reference implementation, for tests."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from open4m.verify import Options, Report, verify

HERE = Path(__file__).parent


def golden(name: str) -> Path:
    """Folder or file ``name`` of reference outputs: in the repository, else in ``OPEN4M_GOLDEN``."""
    candidates = [HERE / "golden" / name, HERE.parent.parent / "shared" / "golden" / name]
    if "OPEN4M_GOLDEN" in os.environ:
        candidates.append(Path(os.environ["OPEN4M_GOLDEN"]) / name)
    for folder in candidates:
        if folder.exists():
            return folder
    pytest.skip(f"reference outputs {name!r} are not in tests/golden; set OPEN4M_GOLDEN to the folder that has them")


@cache
def verified(name: str, options: Options = Options()) -> Report:  # noqa: B008
    """Report of recomputing a folder of reference outputs; fails unless every item is within its tolerance."""
    report = verify(golden(name), options)
    assert not report.failed, report.failed
    return report
