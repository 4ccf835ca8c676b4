"""Settings of the tokenizers of the embedded scenes: 112 px, patch 8, 14 × 14 tokens, 6.4 M parameters in all.

What they rest on (measured on two CPU cores): small batches, quantization from k-means after a while without it, few
wide attention heads; convolutions for pictures, depth, normals and edges, a ViT for class maps, feature maps and
masks; higher learning rates for the small networks of features and masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any

from open4m.errors import UnknownNameError
from open4m.tokenizers.config import DiffusionConfig, TokenizerConfig
from open4m.training.recipe import TokenizerRecipe

DEAD_CODE_COEFFICIENT = 32
"""A code is dead when it is used this many times less often than the average code (spec: tokenizers §3.1)."""


def _lucid(batch_size: int, codebook_size: int, **options: Any) -> TokenizerConfig:
    """A cosine codebook whose death threshold fits the number of latents per step."""
    defaults: dict[str, Any] = {"image_size": 112, "patch_size": 8, "latent_dim": 16}
    config = TokenizerConfig(
        codebook_size=codebook_size,
        norm_latents=True,
        kmeans_init=True,
        ema_decay=0.98,
        commitment_weight=0.25,
        **(defaults | options),
    )
    latents = batch_size * (config.image_size // config.patch_size) ** 2
    return replace(config, threshold_ema_dead_code=latents / codebook_size / DEAD_CODE_COEFFICIENT)


def _dense(name: str, modalities: tuple[str, ...], codebook_size: int, **options: Any) -> TokenizerRecipe:
    return TokenizerRecipe(name, modalities, _lucid(8, codebook_size, **options))


def _feature_map(name: str) -> TokenizerRecipe:
    size = "ViT/B_1-Wi_96-H_2"
    options = {"n_channels": 64, "patch_proj": False, "enc_type": size, "dec_type": size, "loss": "mse"}
    return replace(_dense(name, (name,), 512, **options), learning_rate=3e-3, minutes=3.0)


def _vector(name: str, channels: int, size: str, heads: int, codebook_size: int) -> TokenizerRecipe:
    config = TokenizerConfig(
        image_size=112,
        n_channels=channels,
        patch_proj=False,
        enc_type=size,
        dec_type=size,
        quant_type="memcodes",
        num_codebooks=heads,
        codebook_size=codebook_size,
        latent_dim=64,
        loss="mse",
    )
    return TokenizerRecipe(name, (name,), config, batch_size=64, learning_rate=3e-3, late_start=0, minutes=2.0)


def _conv(encoder_blocks: int, decoder_blocks: int, width: int) -> dict[str, str]:
    return {"enc_type": f"Conv/B_{encoder_blocks}-Wi_{width}", "dec_type": f"Conv/B_{decoder_blocks}-Wi_{width}"}


def _with_diffusion_decoder(recipe: TokenizerRecipe, minutes: float) -> TokenizerRecipe:
    """The same tokens, decoded by a small denoiser: the settings of the published ones (spec: tokenizers §5).

    Values are not clipped to [-1, 1], because standardised depth goes beyond.
    """
    config = asdict(recipe.config) | {"dec_type": "UNet/B_1-Wi_64-L_3", "freeze_enc": True, "kmeans_init": False}
    return replace(
        recipe,
        name=f"{recipe.name}-diffusion",
        config=DiffusionConfig(
            **config, scheduler="ddim", beta_schedule="linear", prediction_type="sample", thresholding=False
        ),
        encoder_of=recipe.name,
        late_start=0,
        average=0.99,  # of short runs: an average over 1000 steps would still hold the random start
        minutes=minutes,
    )


_RECIPES = (
    _dense("rgb", ("rgb",), 1024, n_channels=3, loss="mse+l1", **_conv(1, 2, 128)),
    _dense("depth", ("depth",), 512, n_channels=1, loss="smooth_l1", **_conv(1, 1, 112)),
    _dense("normal", ("normal",), 512, n_channels=3, loss="mse+l1", **_conv(1, 1, 112)),
    _dense("edge", ("canny_edge", "sam_edge"), 512, n_channels=1, loss="mse+l1", **_conv(1, 1, 96)),
    _dense(
        "semseg",
        ("semseg",),
        512,
        n_channels=12,
        n_labels=134,
        tied_labels=True,
        loss="cross_entropy",
        enc_type="ViT/B_2-Wi_128-H_2",
        dec_type="ViT/B_2-Wi_128-H_2",
    ),
    _feature_map("clip"),
    _feature_map("dinov2"),
    _feature_map("imagebind"),
    _vector("dinov2_global", 512, "BottleneckMLP/B_1-Wi_96", heads=16, codebook_size=512),
    _vector("imagebind_global", 512, "BottleneckMLP/B_1-Wi_96", heads=16, codebook_size=512),
    _vector("human_poses", 207, "BottleneckMLP/B_1-Wi_128", heads=8, codebook_size=512),
    TokenizerRecipe(
        "sam_instance",
        ("sam_instance",),
        _lucid(
            32,
            512,
            image_size=64,
            patch_size=16,
            n_channels=1,
            loss="binary_cross_entropy",
            enc_type="ViT/B_1-Wi_96-H_2",
            dec_type="ViT/B_2-Wi_96-H_2",
        ),
        batch_size=32,
        learning_rate=2e-3,
        late_start=300,
        minutes=2.0,
    ),
)

SCENES_TOKENIZERS: Mapping[str, TokenizerRecipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})
"""Every tokenizer of the embedded scenes by name."""

DIFFUSION_TOKENIZERS: Mapping[str, TokenizerRecipe] = MappingProxyType(
    {recipe.name: recipe for recipe in (_with_diffusion_decoder(SCENES_TOKENIZERS["depth"], minutes=15.0),)}
)
"""Diffusion decoders for tokens that are there already; the bundled model does without them."""

TOKENIZER_OF: Mapping[str, str] = MappingProxyType({m: recipe.name for recipe in _RECIPES for m in recipe.modalities})
"""Modality → name of the tokenizer that serves it."""


def tokenizer_recipe(name: str) -> TokenizerRecipe:
    """The recipe called ``name``; raises :class:`UnknownNameError` with suggestions."""
    known = {**SCENES_TOKENIZERS, **DIFFUSION_TOKENIZERS}
    if name not in known:
        raise UnknownNameError("tokenizer recipe", name, known)
    return known[name]
