"""Verification finds what is wrong: every recorded value matters, every damage is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from open4m.errors import CheckpointError, DataError
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import save_tokenizer
from open4m.tokenizers.vqvae import VQVAE
from open4m.verify import Options, Report, verify
from open4m.verify.recorded import unpack
from tests.reference import golden

EXPECTED, WEIGHTS = "expected.safetensors", "model.safetensors"


def copy(name: str, target: Path) -> Path:
    """A copy of a folder under another name, in which files can be changed."""
    unpack(golden(name), target)
    return target


def edit(file: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(file)
    change(tensors)
    file.unlink()
    save_file(tensors, file)


def disturb(value: Tensor) -> None:
    """Change the first entry by little more than rounding; of ids and masks by as little as possible."""
    first = value.view(-1)[:1]
    if value.dtype == torch.bool:
        first.logical_not_()
    elif value.is_floating_point():
        first.add_(0.003 + 0.003 * first.abs())
    else:
        first.add_(1)


def failures(report: Report) -> set[str]:
    return {check.item for check in report.failed}


SMALL = ("vq_out_conv", "vq_human_poses_memcodes", "vq_quantizer_training", "position_embeddings")


@pytest.mark.parametrize("name", SMALL)
def test_every_recorded_tensor_matters(name: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path / "case")
    original = load_file(folder / EXPECTED)
    unread = set(verify(folder).unread)
    for key in set(original) - unread:
        changed = {k: v.clone() for k, v in original.items()}
        disturb(changed[key])
        save_file(changed, folder / EXPECTED)
        assert verify(folder).failed, key


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy("fm_qknorm", tmp_path_factory.mktemp("transformer") / "some-name")


@pytest.mark.parametrize(
    ("file", "key", "item"),
    [
        ("expected", "encoder_input", "encoder input"),
        ("expected", "encoder_output", "encoder states"),
        ("expected", "decoder_context", "decoder context"),
        ("expected", "encoder_mod_ids", "encoder mask"),
        ("expected", "dec.caption.input", "decoder input"),
        ("expected", "dec.caption.output", "decoder output"),
        ("expected", "dec.caption.target_ids", "target ids"),
        ("expected", "dec.caption.top5_ids", "likeliest ids"),
        ("expected", "dec.tok_semseg@224.logsumexp", "logits tok_semseg@224"),
        ("expected", "dec.tok_semseg@224.logits_every_101st", "logits tok_semseg@224"),
        ("expected", "decoder_self_attention_mask_order_seed0", "decoder mask"),
        ("expected_grads", "grad.encoder.1.mlp.fc2.weight", "gradients"),
    ],
)
def test_a_wrong_output_is_named(transformer: Path, tmp_path: Path, file: str, key: str, item: str) -> None:
    folder = shutil.copytree(transformer, tmp_path / "case")
    edit(folder / f"{file}.safetensors", lambda tensors: disturb(tensors[key]))
    assert failures(verify(folder)) == {item}


@pytest.mark.parametrize(
    ("key", "items"),
    [
        ("encoder.0.attn.qkv.weight", {"encoder states", "decoder context", "logits caption", "gradients"}),
        ("decoder_norm.weight", {"decoder output", "logits caption", "logits tok_semseg@224"}),
        ("decoder_embeddings.caption.to_logits.weight", {"logits caption"}),
    ],
)
def test_a_wrong_weight_is_found(transformer: Path, tmp_path: Path, key: str, items: set[str]) -> None:
    folder = shutil.copytree(transformer, tmp_path / "case")
    edit(folder / WEIGHTS, lambda tensors: tensors[key].view(-1)[:1].add_(0.5))
    found = failures(verify(folder))
    assert items <= found and "encoder input" not in found


@pytest.mark.parametrize(("path", "item"), [(["loss", "mod"], "loss mod"), (["loss", "token"], "loss token")])
def test_a_wrong_loss_is_found(transformer: Path, tmp_path: Path, path: list[str], item: str) -> None:
    folder = shutil.copytree(transformer, tmp_path / "case")
    change_json(folder / "expected.json", path, lambda value: value * 1.0001)
    assert failures(verify(folder)) == {item}


def change_json(file: Path, path: list[Any], change: Callable[[Any], Any]) -> None:
    values = json.loads(file.read_text())
    *parents, last = path
    inner = values
    for key in parents:
        inner = inner[key]
    inner[last] = change(inner[last])
    file.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("name", "file", "path", "item"),
    [
        ("masking", "masking.json", ["span_masking", 2, "target", 1], "span masking"),
        ("masking", "masking.json", ["sequence_mask", 4, "tensor", 1], "sequence masking"),
        ("published_layouts", "fm_4m-7_B.json", ["state_dict", 3, 1], "fm_4m-7_B"),
        ("published_layouts", "tokenizer_semseg_4k_224-448.json", ["parameters"], "tokenizer_semseg_4k_224-448"),
    ],
)
def test_wrong_entries_are_found(name: str, file: str, path: list[Any], item: str, tmp_path: Path) -> None:
    folder = copy(name, tmp_path / "case")
    if name == "published_layouts":
        for other in folder.glob("*_*.json"):
            if other.name != file:
                other.unlink()
    change_json(folder / file, path, lambda value: [*value, 1] if isinstance(value, list) else value - 1)
    assert failures(verify(folder)) == {item}


def test_one_wrong_token_of_a_generation_is_found(tmp_path: Path) -> None:
    folder = copy("generation", tmp_path / "case")
    edit(folder / EXPECTED, lambda tensors: disturb(tensors["palette_ar_greedy.color_palette.tensor"]))
    change_json(folder / "schedules.json", ["cosine_schedule", "8,196", 0], lambda value: value + 1)
    edit(folder / "sampling_units.safetensors", lambda tensors: disturb(tensors["filtered.k5"]))
    keep = {"palette_ar_greedy", "depth_1step"}
    numbers = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").write_text(json.dumps({k: v for k, v in numbers.items() if k in keep}))
    with pytest.raises(DataError, match="--weights DIR"):
        verify(folder)
    report = verify(folder, Options(weights=golden("fm_mod21_swiglu")))
    assert failures(report) == {"palette_ar_greedy", "token schedules", "sampling filters"}
    assert report.checks["palette_ar_greedy"].worst == "merged row 0"


@pytest.mark.parametrize(
    ("name", "keys", "items"),
    [
        (
            "diffusion_schedules",
            ("alphas_cumprod.linear.zero_snr=True", "step.epsilon.threshold=False.linear.t499.pred_x0"),
            {"signal levels", "predicted values"},
        ),
        (
            "divae_unet",
            ("big.tokens", "denoiser.t499", "ddim10.decoded", "ddim5.step2.pred_x0", "train.velocity"),
            {"tokens", "forward passes", "DDIM chains", "DDIM step by step", "velocities"},
        ),
    ],
)
def test_wrong_diffusion_is_found(name: str, keys: tuple[str, ...], items: set[str], tmp_path: Path) -> None:
    folder = copy(name, tmp_path / "case")
    for key in keys:
        edit(folder / EXPECTED, lambda tensors, key=key: disturb(tensors[key]))
    assert failures(verify(folder)) == items


# -- folders of other sizes ------------------------------------------------------------------------------------------
def test_tokenizers_of_other_sizes_are_verified(tmp_path: Path) -> None:
    """A folder as the same writer would make it, with another width, depth and number of codes."""
    torch.manual_seed(3)
    config = TokenizerConfig(
        image_size=32, n_channels=2, enc_type="ViT/B_1-Wi_32-H_2-E_2", dec_type="ViT/B_1-Wi_32-H_2-E_2",
        patch_size=8, codebook_size=40, latent_dim=6,
    )  # fmt: skip
    model, x = VQVAE(config).eval(), torch.randn(3, 2, 32, 40)
    save_tokenizer(model, tmp_path)
    change_json(tmp_path / "config.json", ["enc_type"], lambda _: "vit_t_enc")
    change_json(tmp_path / "config.json", ["dec_type"], lambda _: "vit_t_dec")
    size = {"dim_tokens": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2, "qkv_bias": True}
    (tmp_path / "expected.json").write_text(json.dumps({"vit_t": size}))
    with torch.no_grad():
        ids = model.tokenize(x)
        outputs = {
            "input": x,
            "encoder_output": model.encoder(x),
            "latent_before_quantizer": model.encode(x),
            "tokens": ids,
            "quantized": model.quantize.lookup(ids),
            "decoded": model.decode_tokens(ids),
        }
    save_file({f"wide.{key}": value.contiguous() for key, value in outputs.items()}, tmp_path / EXPECTED)
    report = verify(tmp_path)
    assert report.kind == "tokenizer" and not report.failed and not report.unread


# -- damaged folders -------------------------------------------------------------------------------------------------
def test_folders_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"it holds nothing. Known kinds: transformer, generation"):
        verify(tmp_path)
    save_file({"something": torch.zeros(2)}, tmp_path / EXPECTED)
    with pytest.raises(DataError, match=r"it holds expected\.safetensors"):
        verify(tmp_path)


def test_missing_and_damaged_files_are_named(transformer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(transformer, tmp_path / "case")
    (folder / "expected.json").unlink()
    with pytest.raises(DataError, match=r"case: there is no expected\.json"):
        verify(folder)
    (folder / "expected.json").write_text('{"num_encoder_tokens": 160}')
    with pytest.raises(DataError, match=r"expected\.json: there is no entry 'num_decoder_tokens'"):
        verify(folder)
    (folder / "expected.json").write_text("{")
    with pytest.raises(DataError, match=r"expected\.json: not a JSON file"):
        verify(folder)
    shutil.copyfile(transformer / "expected.json", folder / "expected.json")
    edit(folder / "batch.safetensors", lambda tensors: tensors.pop("caption.input_mask"))
    with pytest.raises(DataError, match=r"batch\.safetensors: there is no entry 'input_mask'"):
        verify(folder)
    edit(folder / WEIGHTS, lambda tensors: tensors.pop("mask_token"))
    with pytest.raises(CheckpointError, match="missing mask_token"):
        verify(folder)
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a readable safetensors file"):
        verify(folder)


def test_entries_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    folder = copy("vq_out_conv", tmp_path / "case")
    edit(folder / EXPECTED, lambda tensors: tensors["a.tokens"].fill_(10_000))
    with pytest.raises(DataError, match=r"case: this tokenizer could not be recomputed \(IndexError.*of one run\?"):
        verify(folder)


def test_damaged_packed_files_are_named(tmp_path: Path) -> None:
    packed = golden("vq_semseg") / f"{WEIGHTS}.xz"
    (tmp_path / packed.name).write_bytes(packed.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"model\.safetensors\.xz: not a readable xz file"):
        verify(tmp_path)


def test_texts_need_their_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPEN4M_TEXT_TOKENIZER", str(tmp_path / "nowhere.json"))
    with pytest.raises(CheckpointError, match=r"nowhere\.json: there is no such text tokenizer\. Download"):
        verify(golden("text"))


def test_another_shape_is_a_difference(transformer: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(transformer, tmp_path / "case")
    edit(folder / EXPECTED, lambda tensors: tensors.update(encoder_input=torch.zeros(2, 160, 23)))
    (check,) = verify(folder).failed
    assert check.item == "encoder input" and "shape" in check.worst
