"""Tokenizers in the published format give the reference's tokens and values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from open4m.files import read_json
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.quantizers import CosineQuantizer
from open4m.tokenizers.vit import ViTEncoder, sincos_2d
from open4m.tokenizers.vqvae import VQVAE
from open4m.weights import WEIGHTS, check_weights, read_weights
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


def read_reference(folder: Path) -> VQVAE:
    config = TokenizerConfig.from_dict(read_json(folder / "config.json"))
    if config.enc_type.startswith("vit_t"):
        config = replace(config, enc_type=VIT_T, dec_type=VIT_T)
    model = VQVAE(config)
    weights = read_weights(folder / WEIGHTS)
    check_weights(weights, model.state_dict(), str(folder))
    model.load_state_dict(weights)
    return model.eval()


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


def test_layout_equals_the_published_tokenizers() -> None:
    checked = 0
    for file in sorted(golden("published_layouts").glob("tokenizer_*.json")):
        layout = json.loads(file.read_text())
        config = layout.get("config", {})
        if config.get("dec_type", "unet").startswith("unet"):
            continue  # diffusion decoders are not VQ-VAEs
        with torch.device("meta"):
            model = VQVAE(TokenizerConfig.from_dict(config))
        ours = {key: list(value.shape) for key, value in model.state_dict().items()}
        assert ours == {key: shape for key, shape, _ in layout["state_dict"]}, file.name
        assert sum(p.numel() for p in model.parameters()) == layout["parameters"]
        frozen = sorted(name for name, p in model.named_parameters() if not p.requires_grad)
        assert frozen == layout["non_trainable"]
        checked += 1
    assert checked == 8
