"""Tokenizers in the published format give the reference's tokens and values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from open4m.files import read_json
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.config import Backbone, DiffusionConfig, TokenizerConfig
from open4m.tokenizers.io import build_tokenizer, load_tokenizer
from open4m.tokenizers.quantizers import CosineQuantizer
from open4m.tokenizers.vit import ViTEncoder, sincos_2d
from tests.conftest import golden

FOLDERS = [
    "vq_image",
    "vq_feature_map",
    "vq_semseg",
    "vq_out_conv",
    "vq_sam_instance",
    "vq_global_memcodes",
    "vq_human_poses_memcodes",
]
VIT_T = "ViT/B_2-Wi_48-H_3"  # what the reference data calls vit_t


def read_reference(folder: Path) -> Tokenizer:
    config = read_json(folder / "config.json")
    sizes = {"vit_t_enc": VIT_T, "vit_t_dec": VIT_T}
    config |= {key: sizes.get(config[key], config[key]) for key in ("enc_type", "dec_type")}
    return load_tokenizer(folder, config=config)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_and_values_equal_the_reference(name: str) -> None:
    folder = golden(name)
    model = read_reference(folder)
    expected = load_file(folder / "expected.safetensors")
    cases = {key.partition(".")[0] for key in expected}
    assert cases
    for case in cases:
        want = {key.partition(".")[2]: value for key, value in expected.items() if key.startswith(f"{case}.")}
        x = want["input"]
        if model.cls_emb is None:
            assert_close(model.encoder(x), want["encoder_output"], atol=1e-4, rtol=0)
        assert_close(model.encode(x), want["latent_before_quantizer"], atol=1e-4, rtol=0)
        ids = model.tokenize(x)
        assert torch.equal(ids, want["tokens"])
        codes = model.quantize.lookup(ids)
        exact = 0.0 if model.config.quant_type == "lucid" else 1e-4
        assert_close(codes, want["quantized"], atol=exact, rtol=0)
        assert_close(model.decode_tokens(ids), want["decoded"], atol=1e-4, rtol=0)
        assert_close(model.autoencode(x), want["decoded"], atol=1e-4, rtol=0)
        output = model(x)
        assert output.ids is not None
        assert torch.equal(output.ids, ids)
        assert output.code_loss == 0
        assert_close(output.reconstruction, want["decoded"], atol=1e-4, rtol=0)


def test_codebook_training_equals_the_reference() -> None:
    expected = load_file(golden("vq_quantizer_training") / "expected.safetensors")
    size, width = expected["embed_before"].shape
    quantizer = CosineQuantizer(
        size, width, decay=0.99, dead_below=0.0, commitment=1.0, norm_latents=False, started=True
    ).train()
    book = quantizer._codebook
    book.embed.copy_(expected["embed_before"])
    book.cluster_size.copy_(expected["cluster_size_before"])
    for step in ("step0", "step1"):
        x = expected[f"{step}.x"].requires_grad_()
        codes, loss, ids = quantizer(x)
        assert ids is not None
        (0.1 * codes.square().sum() + loss).backward()
        assert torch.equal(ids, expected[f"{step}.tokens"])
        assert_close(codes.detach(), expected[f"{step}.quantized"], atol=1e-5, rtol=0)
        assert_close(loss.detach().view(1), expected[f"{step}.loss"], atol=1e-5, rtol=0)
        assert_close(x.grad, expected[f"{step}.grad_x_of_0.1*sum(q^2)+loss"], atol=1e-5, rtol=0)
        assert_close(book.embed, expected[f"{step}.embed_after"], atol=1e-5, rtol=0)
        assert_close(book.cluster_size, expected[f"{step}.cluster_size_after"], atol=1e-5, rtol=0)


def test_position_table_equals_the_reference() -> None:
    tables = load_file(golden("position_embeddings") / "expected.safetensors")
    table = sincos_2d(width=16, side=4)
    assert_close(table, tables["vit_2d.h4_w4_dim16"], atol=1e-6, rtol=0)
    trunk = ViTEncoder(Backbone("ViT", 0, 16), channels=1, patch=1, grid=4, post_mlp=False)
    resized = trunk.trunk(torch.zeros(1, 16, 6, 8)).transpose(1, 2).unflatten(2, (6, 8))
    assert_close(resized, tables["vit_2d.h4_w4_dim16.bicubic_to_6x8"], atol=1e-6, rtol=0)


LAYOUTS = {
    "CLIP-B16_8k_224-448",
    "DINOv2-B14-global_8k_16_224",
    "DINOv2-B14_8k_224-448",
    "ImageBind-H14-global_8k_16_224",
    "ImageBind-H14_8k_224-448",
    "depth_8k_224-448",
    "edge_8k_224-512",
    "human-poses_1k_8",
    "normal_8k_224-448",
    "rgb_16k_224-448",
    "sam-instance_1k_64",
    "semseg_4k_224-448",
}


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layout_equals_the_published_tokenizers(name: str) -> None:
    layout = json.loads(golden(f"published_layouts/tokenizer_{name}.json").read_text())
    config = TokenizerConfig.from_dict(layout["config"], name)
    with torch.device("meta"):
        model = build_tokenizer(config)
    ours = {key: [list(value.shape), str(value.dtype)] for key, value in model.state_dict().items()}
    assert ours == {key: [shape, f"torch.{dtype}"] for key, shape, dtype in layout["state_dict"]}
    assert sum(p.numel() for p in model.parameters()) == layout["parameters"]
    assert sorted(name for name, p in model.named_parameters() if not p.requires_grad) == layout["non_trainable"]
    assert sorted(name for name, _ in model.named_buffers()) == sorted(layout["buffers"])
    shared = [names for names in _names_by_parameter(model) if len(names) > 1]
    assert shared == layout["shared"]
    if layout["class_"] == "DiVAE":  # the reference says 196.4 M for three channels
        millions = sum(p.numel() for p in model.decoder.parameters()) / 1e6
        assert f"{millions:.2f}" == {1: "196.20", 3: "196.35"}[config.n_channels]
    assert config == TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict())))


def _names_by_parameter(model: torch.nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return list(names.values())


def test_every_layout_is_checked() -> None:
    files = golden("published_layouts").glob("tokenizer_*_*.json")
    assert {file.stem.removeprefix("tokenizer_") for file in files} - {"constructor_defaults"} == LAYOUTS


@pytest.mark.parametrize(("name", "diffusion"), [("VQVAE", False), ("DiVAE", True)])
def test_silent_configurations_mean_the_published_defaults(name: str, diffusion: bool) -> None:
    tables = read_json(golden("published_layouts/tokenizer_constructor_defaults.json"))
    config = TokenizerConfig.from_dict(tables["VQ"] | tables[name])
    assert isinstance(config, DiffusionConfig) == diffusion
    assert config == (DiffusionConfig() if diffusion else TokenizerConfig())
