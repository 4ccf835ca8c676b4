"""Tokenizers in the published format give the reference's tokens and values."""

from __future__ import annotations

import json

import pytest
import torch

from open4m.files import read_json
from open4m.tokenizers.config import DiffusionConfig, TokenizerConfig
from open4m.tokenizers.io import build_tokenizer
from tests.reference import golden, verified

CASES = {
    "vq_image": 2,
    "vq_feature_map": 2,
    "vq_semseg": 1,
    "vq_out_conv": 1,
    "vq_sam_instance": 1,
    "vq_global_memcodes": 1,
    "vq_human_poses_memcodes": 1,
}
"""Inputs of each folder."""


@pytest.mark.parametrize("name", CASES)
def test_tokens_and_values_equal_the_reference(name: str) -> None:
    report = verified(name)
    assert report.kind == "tokenizer" and not report.unread
    assert list(report.checks) == ["encoder output", "latent", "tokens", "quantized", "decoded", "code loss"]
    assert report.checks["code loss"].parts == CASES[name]
    exact = report.checks["quantized"].tolerance == "equal"
    assert exact == (not name.endswith("memcodes"))


def test_codebook_training_equals_the_reference() -> None:
    report = verified("vq_quantizer_training")
    assert not report.unread
    assert {item: check.parts for item, check in report.checks.items()} == dict.fromkeys(
        ("tokens", "quantized", "loss", "gradient", "codes after the step", "counts after the step"), 2
    )


def test_position_tables_equal_the_reference() -> None:
    checks = verified("position_embeddings").checks
    assert set(checks) >= {"vit_2d.h4_w4_dim16", "vit_2d.h4_w4_dim16.bicubic_to_6x8"}


@pytest.mark.parametrize(("name", "millions"), [("edge_8k_224-512", 196.20), ("rgb_16k_224-448", 196.35)])
def test_size_of_the_published_diffusion_decoders(name: str, millions: float) -> None:
    """The reference says 196.4 M for three channels."""
    layout = read_json(golden(f"published_layouts/tokenizer_{name}.json"))
    config = TokenizerConfig.from_dict(layout["config"], name)
    with torch.device("meta"):
        decoder = build_tokenizer(config).decoder
    assert sum(p.numel() for p in decoder.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)  # type: ignore[union-attr]
    assert config == TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict())))


@pytest.mark.parametrize(("name", "diffusion"), [("VQVAE", False), ("DiVAE", True)])
def test_silent_configurations_mean_the_published_defaults(name: str, diffusion: bool) -> None:
    tables = read_json(golden("published_layouts/tokenizer_constructor_defaults.json"))
    config = TokenizerConfig.from_dict(tables["VQ"] | tables[name])
    assert isinstance(config, DiffusionConfig) == diffusion
    assert config == (DiffusionConfig() if diffusion else TokenizerConfig())
