"""VQVAE: shapes of every network, late start, class maps, training on small pictures, losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from open4m.errors import CheckpointError, UnknownNameError
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.losses import LOSSES, loss_by_name
from open4m.tokenizers.vit import attend
from open4m.tokenizers.vqvae import VQVAE

SMALL = TokenizerConfig(image_size=32, patch_size=8, latent_dim=8, codebook_size=16, threshold_ema_dead_code=0.0)
VIT, CONV, MLP = "ViT/B_1-Wi_16-H_2", "Conv/B_1-Wi_32", "BottleneckMLP/B_1-Wi_16"


def small(backbone: str, **options: object) -> VQVAE:
    torch.manual_seed(0)
    return VQVAE(replace(SMALL, enc_type=backbone, dec_type=backbone, **options))


@pytest.mark.parametrize("backbone", [VIT, CONV])
@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
def test_pictures_to_tokens_and_back(backbone: str, size: tuple[int, int]) -> None:
    model = small(backbone).eval()
    x = torch.randn(2, 3, *size)
    ids = model.tokenize(x)
    assert ids.shape == (2, size[0] // 8, size[1] // 8) and ids.dtype == torch.int64
    assert model.decode_tokens(ids).shape == x.shape
    assert_close(model.autoencode(x), model.decode_tokens(ids))
    certain = model.expected_codes(F.one_hot(ids, 16).float())
    assert_close(model.decode_codes(certain), model.decode_tokens(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", [VIT, MLP])
def test_feature_maps(backbone: str) -> None:
    model = small(backbone, n_channels=5, patch_proj=False, input_scale=7.0).eval()
    x = 7 * torch.randn(2, 5, 4, 4)
    assert model.tokenize(x).shape == (2, *model.config.token_shape) == (2, 4, 4)
    assert model.autoencode(x).shape == x.shape
    unscaled = small(backbone, n_channels=5, patch_proj=False).eval()
    assert_close(model.autoencode(x), 7 * unscaled.autoencode(x / 7))


def test_vectors_have_one_id_per_head() -> None:
    model = small(MLP, n_channels=6, patch_proj=False, quant_type="memcodes", num_codebooks=4).eval()
    x = torch.randn(3, 6, 1, 1)
    ids = model.tokenize(x)
    assert ids.shape == (3, *model.config.token_shape) == (3, 4, 1, 1)
    assert model.autoencode(x).shape == x.shape
    assert 0 < model.codebook_usage(ids).used <= 3 / 16


@pytest.mark.parametrize("tied", [False, True])
def test_class_maps_give_logits(tied: bool) -> None:
    model = small(VIT, n_channels=4, n_labels=9, tied_labels=tied, loss="cross_entropy")
    x = torch.randint(9, (2, 32, 32))
    output = model(x)
    assert output.reconstruction.shape == (2, 9, 32, 32)
    loss = model.loss(output)
    assert_close(loss, F.cross_entropy(output.reconstruction, x))
    loss.backward()
    assert model.cls_emb is not None and model.cls_emb.weight.grad is not None


def test_undo_std_equals_minus_one_to_one_input() -> None:
    plain, standardised = small(CONV).eval(), small(CONV, undo_std=True).eval()
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = torch.from_numpy(IMAGENET_MEAN), torch.from_numpy(IMAGENET_STD)
    assert_close(standardised.encode(((x + 1) / 2 - mean) / std), plain.encode(x), atol=1e-5, rtol=1e-5)


def test_late_start() -> None:
    model = small(CONV, kmeans_init=True, norm_latents=True).train()
    x = torch.randn(4, 3, 32, 32)
    assert not model.quantizing and model(x).ids is None
    with pytest.raises(CheckpointError, match="not fitted"):
        model.tokenize(x)
    model.begin_quantization([x, torch.randn_like(x)])
    assert model.quantizing and model.training
    assert model.tokenize(x).unique().numel() > 8
    assert not small(CONV, kmeans_init=True).state_dict()["quantize._codebook.initted"].item()


def blobs(count: int) -> torch.Tensor:
    """(count, 1, 32, 32) ramps with a box each, in [-1, 1]."""
    axis = torch.linspace(-1, 1, 32)
    slope = torch.rand(count, 2, 1, 1) - 0.5
    pictures = slope[:, :1] * axis + slope[:, 1:] * axis[:, None]
    corner, side = torch.randint(20, (count, 2)), torch.randint(4, 12, (count,))
    for picture, (top, left), s in zip(pictures, corner.tolist(), side.tolist(), strict=True):
        picture[:, top : top + s, left : left + s] = 1.0
    return pictures


def test_training_uses_the_codebook_and_the_error_falls() -> None:
    model = small(
        CONV, n_channels=1, codebook_size=64, kmeans_init=True, norm_latents=True, ema_decay=0.95,
        threshold_ema_dead_code=0.05, commitment_weight=0.25,
    ).train()  # fmt: skip
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-3)
    held_out = blobs(64)

    def step(x: torch.Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        loss = model.loss(output) + output.code_loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for index in range(80):
        if index == 25:
            model.begin_quantization([blobs(16) for _ in range(8)])
        step(blobs(16))
    model.eval()
    error = F.mse_loss(model.autoencode(held_out), held_out)
    assert error < 0.5 * held_out.var()
    assert model.codebook_usage(model.tokenize(held_out)).used > 0.8


def test_attention_forms_agree() -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 8).bfloat16().unbind()
    fused = attend(q, k, v)
    plain = attend(q.clone().requires_grad_(), k, v)
    assert_close(plain, fused, atol=2e-2, rtol=2e-2)


def test_backbone_names() -> None:
    assert Backbone.parse("vit_l_dec") == Backbone("ViT", 24, 1024, 16)
    assert Backbone.parse("BottleneckMLP/B_6-Wi_1024-E_2") == Backbone("BottleneckMLP", 6, 1024, 1, 2)
    assert Backbone.parse("unet_patched") == Backbone.parse("UNet/B_3-Wi_256-L_4") == Backbone("UNet", 3, 256)
    assert Backbone.parse("UNet/B_1-Wi_64-L_3").levels == 3
    names = "uvit_b_p4_f16 ViT/B_2 ViT/B_2-Wi_50-H_3 ViT/B_1-Wi_8-H_0 ViT/B_9999999-Wi_16"
    for wrong in f"{names} UNet/B_1-Wi_48 UNet/B_1-Wi_0 UNet/B_1-Wi_32-L_5".split():
        with pytest.raises(CheckpointError, match=wrong.split("/")[0]):
            Backbone.parse(wrong)
    for patch in (14, 2):
        with pytest.raises(CheckpointError, match=f"patch_size {patch}"):
            small(CONV, patch_size=patch)
    with pytest.raises(CheckpointError, match="patch_size 1,"):
        small(CONV, patch_proj=False)


@pytest.mark.parametrize(
    "options",
    [{"quant_type": "fsq"}, {"norm_codes": False}, {"num_codebooks": 3}, {"tied_labels": True}, {"input_scale": 0.0}],
)
def test_impossible_configurations_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(CheckpointError):
        replace(SMALL, **options)


def test_losses() -> None:
    prediction, target = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert_close(
        loss_by_name("mse+l1")(prediction, target), F.mse_loss(prediction, target) + F.l1_loss(prediction, target)
    )
    p = prediction.sigmoid()
    likelihood = -(target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert_close(loss_by_name("binary_cross_entropy")(prediction, target), likelihood)
    assert_close(loss_by_name("cosine")(2 * target, target), torch.tensor(0.0), atol=1e-6, rtol=0)
    for name in LOSSES.keys() - {"cross_entropy", "binary_cross_entropy"}:
        assert loss_by_name(name)(target, target) < 1e-6 < loss_by_name(name)(prediction, target), name
    with pytest.raises(UnknownNameError, match="smooth_l1"):
        loss_by_name("mse+smoth_l1")
