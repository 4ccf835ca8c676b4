"""ModelConfig and the named sizes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import STREAMS, tiny_config

from open4m.errors import CheckpointError, UnknownNameError
from open4m.model import FourM, ModelConfig
from recipes.models import MODEL_SIZES, model_config


def test_json_round_trip() -> None:
    config = tiny_config(qk_norm=True, act="gelu")
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert json.loads(json.dumps(config.to_dict()["streams"])) == config.to_dict()["streams"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 3}, "unknown keys depth"),
        ({"dim": 18}, "multiple of num_heads"),
        ({"act": "relu"}, "act must be"),
        ({"streams": [{"name": "x"}]}, "missing"),
        ({"streams": [{**STREAMS[1].to_dict(), "colour": 1}]}, "colour"),
        ({"streams": [{**STREAMS[1].to_dict(), "max_tokens": 15}]}, r"grid of \(4, 4\) does not hold 15"),
    ],
)
def test_impossible_configurations_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ModelConfig.from_dict(tiny_config().to_dict() | changes)


def test_streams_must_fit_together() -> None:
    with pytest.raises(ValueError, match="named twice: caption"):
        replace(tiny_config(), streams=(*STREAMS, STREAMS[2]))
    other = replace(STREAMS[2], name="long", vocab_size=21)
    with pytest.raises(ValueError, match="cannot share the table 'text'"):
        replace(tiny_config(), streams=(*STREAMS, other))


@pytest.mark.parametrize(
    ("name", "millions", "hidden"),
    [
        ("fm_tiny_6e_6d_swiglu_nobias", 24.9, 1024),
        ("fm_small_8e_8d_swiglu_nobias", 59.0, 1365),
        ("fm_base_12e_12d_swiglu_nobias", 198.8, 2048),
        ("fm_large_24e_24d_swiglu_nobias", 705.7, 2730),
        ("fm_xlarge_24e_24d_swiglu_nobias", 2823.0, 5461),
    ],
)
def test_named_sizes_have_the_published_trunks(name: str, millions: float, hidden: int) -> None:
    config = model_config(name, ())
    assert config.mlp_hidden == hidden
    with torch.device("meta"):
        trunk = sum(p.numel() for p in FourM(config).parameters())
    assert trunk / 1e6 == pytest.approx(millions, abs=0.051)


def test_sizes_are_listed() -> None:
    assert len(MODEL_SIZES) == 5 + 5 + 3
    assert model_config("fm_base_12e_12d_swiglu_qknorm_nobias", STREAMS).qk_norm
    gelu = model_config("fm_tiny_6e_6d_gelu", STREAMS, encoder_depth=1)
    assert (gelu.mlp_hidden, gelu.qkv_bias, gelu.gated_mlp, gelu.encoder_depth) == (1536, True, False, 1)
    with pytest.raises(UnknownNameError, match="Did you mean"):
        model_config("fm_base_12e_12d_swiglu", STREAMS)
