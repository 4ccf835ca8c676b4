"""Every key and shape of the published sizes, on the meta device."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.errors import CheckpointError
from open4m.hub.published import from_published, model_config, published_config, to_published
from open4m.modalities.registry import get_modality
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamKind
from open4m.weights import check_weights
from tests.reference import golden, verified


def test_layouts_equal_the_published_ones() -> None:
    report = verified("published_layouts")
    models = {f"fm_4m-{family}_{size}" for family in (7, 21) for size in ("B", "L", "XL")}
    tokenizers = {name for name in report.checks if name.startswith("tokenizer_")}
    assert set(report.checks) == models | tokenizers
    assert len(tokenizers) == 12 and not report.unread
    assert report.checks["tokenizer_semseg_4k_224-448"].parts > 300


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_of_a_shared_pair_is_enough(side: str) -> None:
    layout = json.loads(golden("published_layouts/fm_4m-7_B.json").read_text())
    config = model_config(layout["config"], "layout")
    dropped = {pair[0 if side == "encoder" else 1] for pair in layout["shared"]}
    trunk = {k: torch.zeros(s) for k, s, _ in layout["state_dict"] if k not in dropped and k.endswith("mod_emb")}
    names = {f"modality_embeddings.{name}" for name in config.names}
    assert set(from_published(trunk, config)) == names


def test_copies_that_differ_are_refused() -> None:
    config = small_config()
    copies = {f"{side}_embeddings.caption.mod_emb": torch.full((1, 1, 8), v) for side, v in SIDES}
    with pytest.raises(CheckpointError, match="differs from its copy"):
        from_published(copies, config)


SIDES = (("encoder", 1.0), ("decoder", 2.0))
PUBLISHED = {
    "domains_in": ["rgb@224", "caption", "tok_depth@224"],
    "domains_out": ["caption", "tok_depth@224"],
    "dim": 8,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "num_heads": 2,
    "norm_bias": False,
}


def small_config() -> Any:
    return model_config(PUBLISHED, "test")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder_norm.bias", torch.ones(8), "norms have no bias"),
        ("encoder_embeddings.tok_depth@224.pos_emb", torch.zeros(1, 196, 8), "sine-cosine table"),
        ("encoder_embeddings.tok_depth@224.pos_emb", torch.zeros(1, 64, 8), "sine-cosine table"),
    ],
)
def test_constants_are_checked(key: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        from_published({key: value}, small_config())


def test_unknown_keys_reach_the_strict_loader() -> None:
    weights = from_published({"surprise": torch.zeros(1)}, small_config())
    with pytest.raises(CheckpointError, match="unexpected surprise"):
        check_weights(weights, {}, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_register_tokens": 4}, "num_register_tokens = 4 is not supported"),
        ({"domains_in": ["tok_dept@224"]}, "Did you mean 'tok_depth@224'"),
        ({"domains_out": ["rgb@224"]}, "rgb@224"),
        ({"act_layer": "ReLU"}, "act must be"),
    ],
)
def test_configurations_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_config(PUBLISHED | change, "test")


@torch.no_grad()
@pytest.mark.parametrize("tied_input", [False, True])
def test_own_models_with_shared_tables_can_be_exported(tied_input: bool) -> None:
    streams = [s for name in ("rgb", "depth", "caption", "det") for s in get_modality(name).streams(112, 8)]
    shared = [replace(s, table="text") if s.kind is StreamKind.SEQUENCE else s for s in streams]
    own = FourM(ModelConfig(tuple(shared), dim=8, encoder_depth=1, decoder_depth=1, num_heads=2, tied_input=tied_input))
    config = model_config(published_config(own.config, 112, 8), "export")
    exported = FourM(config)
    exported.load_weights(from_published(to_published(own.state_dict(), own.config), config))
    assert config.names == own.config.names
    index = torch.tensor([[config.index(n) for n in ("tok_rgb@112", "caption", "det")]])
    position, ids, valid = torch.tensor([[5, 0, 0]]), torch.tensor([[9, 77, 4]]), torch.ones(1, 3, dtype=torch.bool)
    inputs = TokenInputs(index, position, ids, valid, {})
    targets = TokenTargets(index, position, ids, ids, position * 0, valid)
    batch = TokenBatch(config.names, inputs, targets)
    for ours, theirs in zip(own(batch), exported(batch), strict=True):
        assert ours.stream == theirs.stream
        assert torch.equal(ours.logits, theirs.logits)
