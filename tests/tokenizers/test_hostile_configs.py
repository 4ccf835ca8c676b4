"""A configuration may come from anywhere: it is refused with a reason, or it can be built, within memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.errors import CheckpointError
from open4m.tokenizers.config import DiffusionConfig, TokenizerConfig
from open4m.tokenizers.io import build_tokenizer, load_tokenizer
from open4m.weights import CONFIG

ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)
LIKELY = st.sampled_from(
    [0, -1, 1, 3, 7, 2**31, 10**30, 1e400, float("nan"), True, "8", None, 224, "vit_l_enc", "conv_8"]
)
KNOWN = {
    "grid": TokenizerConfig(image_size=32, patch_size=8, enc_type="vit_s_enc", dec_type="vit_s_dec").to_dict(),
    "classes": TokenizerConfig(image_size=32, patch_size=8, n_labels=5, n_channels=16, tied_labels=True).to_dict(),
    "vector": TokenizerConfig(image_size=1, patch_size=1, quant_type="memcodes", num_codebooks=4).to_dict(),
    "diffusion": DiffusionConfig(image_size=32, patch_size=8).to_dict(),
}


def accept_or_explain(values: dict[str, Any]) -> None:
    try:
        config = TokenizerConfig.from_dict(values, "a/folder")
        with torch.device("meta"):
            model = build_tokenizer(config)
    except CheckpointError as error:
        assert len(str(error)) < 5000
    else:
        assert model.config is config


@given(st.sampled_from(sorted(KNOWN)), st.data())
@settings(max_examples=250, deadline=None)
def test_changed_configurations(kind: str, data: st.DataObject) -> None:
    keys = st.sampled_from(sorted(KNOWN[kind]))
    accept_or_explain(KNOWN[kind] | data.draw(st.dictionaries(keys, LIKELY | ANY_JSON, min_size=1, max_size=3)))


@given(st.dictionaries(st.text(max_size=12) | st.sampled_from(sorted(KNOWN["diffusion"])), ANY_JSON, max_size=5))
@settings(deadline=None)
def test_any_configuration(values: dict[str, Any]) -> None:
    accept_or_explain(values)


@pytest.mark.parametrize("values", [[], 5, None, "x"])
def test_files_that_hold_no_configuration(tmp_path: Path, values: Any) -> None:
    (tmp_path / CONFIG).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=CONFIG):
        load_tokenizer(tmp_path)
