"""Published checkpoints from folders and single files: strict, mapped, one copy."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from published_folder import CONFIGURATION, published_weights, write_published
from safetensors.torch import load_file, save_file

from open4m.errors import CheckpointError, CheckpointWarning, GenerationError
from open4m.hub import Bundle, describe, load_bundle, save_bundle
from open4m.hub.published import from_published, model_config
from open4m.model.int8 import Int8Linear
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import build_tokenizer, save_tokenizer
from open4m.weights import CONFIG, WEIGHTS, read_layout, read_weights


def same_weights(bundle: Bundle) -> bool:
    expected = from_published(published_weights(), model_config(CONFIGURATION, "test"))
    found = bundle.model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


# -- where the configuration is ---------------------------------------------------------------------------------------
def test_a_folder(tmp_path: Path) -> None:
    bundle = load_bundle(write_published(tmp_path / "4M-tiny"))
    assert same_weights(bundle) and bundle.model.trained and bundle.info.name == "4M-tiny"
    assert (bundle.info.image_size, bundle.info.patch_size) == (224, 16)


def test_a_folder_whose_configuration_is_in_the_header(tmp_path: Path) -> None:
    bundle = load_bundle(write_published(tmp_path / "4M-tiny", header=True))
    assert same_weights(bundle) and bundle.config == model_config(CONFIGURATION, "test")


def test_a_single_file(tmp_path: Path) -> None:
    file = write_published(tmp_path, header=True) / WEIGHTS
    file = file.rename(tmp_path / "fine-tuned.safetensors")
    assert same_weights(load_bundle(file)) and same_weights(load_bundle(str(file)))
    assert load_bundle(file).info.name == describe(file).info.name == "fine-tuned"
    with pytest.raises(CheckpointError, match=r"no such folder, nor such a \.safetensors"):
        load_bundle(str(tmp_path / "missing.safetensors"))


def test_a_single_file_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no configuration"):
        load_bundle(write_published(tmp_path) / WEIGHTS)


# -- strictness -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_one_of_a_shared_pair_may_be_absent(tmp_path: Path, side: str) -> None:
    weights = published_weights()
    for stream in CONFIGURATION["domains_out"]:
        del weights[f"{side}_embeddings.{stream}.mod_emb"]
    assert same_weights(load_bundle(write_published(tmp_path, weights)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("encoder.0.attn.qkv.weight", None, r"missing encoder\.0\.attn\.qkv\.weight \(24, 8\)"),
        ("decoder_embeddings.caption.to_logits.weight", None, r"missing heads\.caption\.weight"),
        ("encoder.1.attn.qkv.weight", torch.zeros(24, 8), r"unexpected encoder\.1\.attn\.qkv\.weight"),
        ("encoder_embeddings.det.mod_emb", torch.zeros(1, 1, 8), r"unexpected encoder_embeddings\.det\.mod_emb"),
        ("mask_token", torch.zeros(1, 1, 4), r"mask_token has shape \(1, 1, 4\), expected \(1, 1, 8\)"),
        ("mask_token", torch.full((1, 1, 8), torch.nan), "not finite: mask_token"),
        ("encoder.0.attn.qkv.weight", torch.full((24, 8), torch.inf), r"not finite: encoder\.0\.attn\.qkv\.weight"),
        ("mask_token", torch.tensor([[[0.0] * 7 + [-torch.inf]]]), "not finite: mask_token"),
        ("mask_token", torch.zeros(1, 1, 8, dtype=torch.complex64), "mask_token is stored as C64"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, key: str, value: torch.Tensor | None, message: str) -> None:
    changed = {k: v for k, v in {**published_weights(), key: value}.items() if v is not None}
    save_file(changed, tmp_path / WEIGHTS)
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURATION))
    for dtype in (torch.float32, torch.int8):
        with pytest.raises(CheckpointError, match=message):
            load_bundle(tmp_path, dtype)


def test_unknown_configuration_keys_are_reported(tmp_path: Path) -> None:
    folder = write_published(tmp_path, values=CONFIGURATION | {"colour": "red", "training_hours": 7})
    with pytest.warns(CheckpointWarning, match=r"config\.json: unknown keys are ignored: colour, training_hours\."):
        assert same_weights(load_bundle(folder))


# -- memory -----------------------------------------------------------------------------------------------------------
def test_weights_are_the_mapped_file_and_the_file_never_changes(tmp_path: Path) -> None:
    folder = write_published(tmp_path)
    before = (folder / WEIGHTS).read_bytes()
    bundle = load_bundle(folder)
    if sys.platform == "linux":  # every weight lies inside of the mapped file: nothing was copied
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [[int(end, 16) for end in m[0].split("-")] for m in maps if m[-1] == str(folder / WEIGHTS)]
        for key, value in bundle.model.state_dict().items():
            assert any(start <= value.data_ptr() < end for start, end in spans), key
    with torch.no_grad():
        for parameter in bundle.model.parameters():
            parameter.add_(1.0)
    assert (folder / WEIGHTS).read_bytes() == before


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("wanted", [torch.bfloat16, torch.float32])
def test_conversion(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    folder = write_published(tmp_path, dtype=stored)
    model = load_bundle(folder, dtype=wanted).model
    assert {p.dtype for p in model.parameters()} == {wanted}
    expected = published_weights()["encoder.0.mlp.fc1.weight"].to(stored).to(wanted)
    assert torch.equal(model.state_dict()["encoder.0.mlp.fc1.weight"], expected)


def test_layouts_are_known_before_anything_is_read(tmp_path: Path) -> None:
    weights = published_weights()
    layout = read_layout(write_published(tmp_path, dtype=torch.float16) / WEIGHTS)
    assert {key: value.shape for key, value in layout.items()} == {key: value.shape for key, value in weights.items()}
    assert all(value.is_meta and value.dtype == torch.float16 for value in layout.values())


def test_numbers_that_are_no_floats_are_kept(tmp_path: Path) -> None:
    stored = {"a": torch.tensor([1, 2]), "b": torch.tensor([True]), "c": torch.ones(2), "d": torch.empty(0)}
    save_file(stored, tmp_path / WEIGHTS)
    found = read_weights(tmp_path / WEIGHTS, dtype=torch.bfloat16)
    assert [found[k].dtype for k in "abcd"] == [torch.int64, torch.bool, torch.bfloat16, torch.bfloat16]
    assert all(torch.equal(found[k], stored[k].to(found[k].dtype)) for k in stored)


@pytest.mark.parametrize("stored", [torch.float16, torch.float32])
def test_int8_weights_are_rounded_once_and_neither_saved_nor_moved(tmp_path: Path, stored: torch.dtype) -> None:
    folder = write_published(tmp_path / "model", dtype=stored)
    bundle = load_bundle(folder, dtype=torch.int8)
    layer, linear = bundle.model.get_submodule("encoder.0.mlp.fc1"), torch.nn.Linear(8, 21, bias=False)
    linear.weight.data = published_weights()["encoder.0.mlp.fc1.weight"].to(stored).float()
    assert isinstance(layer, Int8Linear) and torch.equal(layer.weight, Int8Linear(linear).weight)
    assert bundle.model.mask_token.dtype == torch.bfloat16 and bundle.model.trained and not bundle.model.training
    with pytest.raises(CheckpointError, match="int8 weights are not saved"):
        save_bundle(bundle, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(GenerationError, match="int8 weights are for a CPU, not for cuda"):
        load_bundle(folder, dtype=torch.int8, device="cuda")


# -- tokenizers and licence -------------------------------------------------------------------------------------------
def test_tokenizers_come_from_beside_when_needed_and_can_be_released(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = {"n_channels": 1, "enc_type": "ViT/B_1-Wi_16", "dec_type": "ViT/B_1-Wi_16", "codebook_size": 64}
    tokenizer = build_tokenizer(TokenizerConfig.from_dict(small, "test"))
    bundle = load_bundle(write_published(tmp_path / "4M-tiny"))  # before the tokenizer is there
    save_tokenizer(tokenizer, tmp_path / "4M_tokenizers_depth_8k_224-448")
    first = bundle.tokenizer("tok_depth@224")
    assert first.config == tokenizer.config and bundle.tokenizer("tok_depth@224") is first
    bundle.release()
    again = bundle.tokenizer("tok_depth@224")
    assert again is not first
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in first.state_dict().items())


def test_the_licence_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_published(tmp_path / "4M-said-once")
    with caplog.at_level(logging.INFO):
        load_bundle(folder)
        load_bundle(folder)
    (record,) = [r for r in caplog.records if "4M-said-once" in r.getMessage()]
    assert record.levelno == logging.WARNING and "non-commercial" in record.getMessage()
    assert "LICENSE_WEIGHTS" in record.getMessage()
    assert load_file(folder / WEIGHTS)  # the file is as it was
