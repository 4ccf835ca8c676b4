"""Tokenizer files: exact round trips, published headers and names, everything that does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from open4m.errors import CheckpointError
from open4m.files import read_json, write_json
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import load_tokenizer, save_tokenizer
from open4m.tokenizers.vqvae import VQVAE

CONFIG = TokenizerConfig(
    image_size=32,
    patch_size=8,
    latent_dim=8,
    codebook_size=16,
    n_labels=None,
    enc_type="ViT/B_1-Wi_16-H_2",
    dec_type="Conv/B_1-Wi_32",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_tokenizer(VQVAE(CONFIG), tmp_path)
    return tmp_path


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Rewrite the weights with some entries replaced (None = dropped)."""
    state = {**load_file(folder / "model.safetensors"), **changes}
    save_file({key: value for key, value in state.items() if value is not None}, folder / "model.safetensors")


def test_round_trip_is_exact(folder: Path) -> None:
    torch.manual_seed(0)
    original, loaded = VQVAE(CONFIG), load_tokenizer(folder)
    assert loaded.config == CONFIG and not loaded.training
    for key, value in original.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key]), key
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision(folder: Path) -> None:
    model = load_tokenizer(folder)
    save_tokenizer(model, folder / "half", torch.bfloat16)
    stored = load_file(folder / "half" / "model.safetensors")
    assert stored["quant_proj.weight"].dtype == torch.bfloat16
    assert torch.equal(stored["quantize._codebook.embed"], model.state_dict()["quantize._codebook.embed"])
    widened = load_tokenizer(folder / "half")
    assert {p.dtype for p in widened.parameters()} == {torch.float32}
    narrow = load_tokenizer(folder / "half", dtype=torch.bfloat16)
    codes = narrow.quantize.state_dict()["_codebook.embed"]
    assert codes.dtype == torch.float32 and torch.equal(codes, stored["quantize._codebook.embed"])
    assert narrow.quant_proj.weight.dtype == torch.bfloat16
    x = torch.randn(2, 3, 32, 32)
    assert narrow.autoencode(x).dtype == torch.bfloat16
    assert (narrow.tokenize(x) == widened.tokenize(x)).float().mean() > 0.7


def test_configuration_from_the_header(folder: Path) -> None:
    values = {key: str(value) for key, value in read_json(folder / "config.json").items()}
    assert values["n_labels"] == "None" and values["norm_codes"] == "True"
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", values | {"format": "pt"})
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).config == CONFIG


def test_legacy_names_and_foreign_configuration_keys(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    renamed = {
        key.replace("post_quant_proj.", "post_quant_conv.0.").replace("quant_proj.", "quant_conv."): value
        for key, value in state.items()
    }
    assert renamed.keys() != state.keys()
    save_file(renamed, folder / "model.safetensors")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"sync_codebook": False, "ckpt_path": None})
    assert load_tokenizer(folder).config == CONFIG


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("quant_proj.bias", None, "missing quant_proj.bias"),
        ("stray.weight", torch.zeros(2), "unexpected stray.weight"),
        ("quant_proj.bias", torch.zeros(3), r"quant_proj.bias has shape \(3,\), expected \(8,\)"),
        ("quant_proj.bias", torch.full((8,), float("nan")), "not finite: quant_proj.bias"),
        ("quantize._codebook.embed", torch.full((16, 8), float("inf")), "not finite: quantize._codebook.embed"),
    ],
)
def test_what_does_not_fit_is_named(folder: Path, key: str, value: torch.Tensor | None, message: str) -> None:
    change(folder, **{key: value})
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)


def test_damaged_and_missing_files(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    for damaged in (data[:-10], data[:100], b"", b"\xff" * 200):
        weights.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_tokenizer(folder)
        (folder / "config.json").rename(folder / "aside.json")
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_tokenizer(folder)
        (folder / "aside.json").rename(folder / "config.json")
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"there is no model\.safetensors"):
        load_tokenizer(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: not a JSON file"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ([], "expected a JSON object"),
        ({"latent_dim": "eight"}, "latent_dim is 'eight', expected int"),
        ({"latent_dim": True}, "latent_dim is True, expected int"),
        ({"patch_size": 0}, "expected 1"),
        ({"dec_type": None}, "dec_type is None, expected str"),
        ({"dec_type": "unet_patched"}, "do not fit the model: missing encoder.blocks.1"),
        ({"dec_type": "unet_patched", "scheduler": "pndm"}, "Expected ddim or ddpm"),
        ({"beta_schedule": "linear", "conditioning": "xattn"}, "only 'concat'"),
        ({"dec_type": "unet_patched", "beta_schedule": "lineal"}, "beta_schedule 'lineal' is unknown"),
        ({"latnt_dim": 8, "colour": "red"}, "unknown keys colour, latnt_dim"),
        ({"dec_type": "vit_b_dec", "thresholding": True}, "unknown keys thresholding"),
        ({"enc_type": "unet_patched"}, "not an encoder"),
    ],
)
def test_wrong_configurations(folder: Path, config: object, message: str) -> None:
    write_json(folder / "config.json", config)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder)
