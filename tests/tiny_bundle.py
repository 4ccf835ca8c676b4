"""A complete but tiny system with random weights: 32 px, patch 8, all 19 streams."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from open4m.hub.bundle import Bundle, BundleInfo
from open4m.modalities.registry import get_modality
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.text import TextTokenizer
from open4m.tokenizers.vqvae import VQVAE

SIZE, PATCH, GRID, CODES = 32, 8, (4, 4), 24
FEATURES, WIDTH = 6, 12
MODALITIES = (
    *("rgb", "depth", "normal", "semseg", "canny_edge", "sam_edge", "clip", "dinov2", "imagebind"),
    *("dinov2_global", "imagebind_global", "caption", "t5_caption", "det", "metadata", "human_poses"),
    *("color_palette", "sam_instance"),
)
SENTENCES = ["a red ball on a wooden floor", "two dogs and a green chair near the window", "a person in a bright room"]
VIT = "ViT/B_1-Wi_16-H_1"
MLP = "BottleneckMLP/B_1-Wi_16"


@cache
def text_tokenizer() -> TextTokenizer:
    words = ["human pose global camera shape point polygon none", *SENTENCES]
    return TextTokenizer.train(words * 3, vocab_size=4600)


def tokenizers() -> dict[str, VQVAE]:
    def vit(channels: int, **options: object) -> TokenizerConfig:
        base = {"image_size": SIZE, "patch_size": PATCH, "latent_dim": 8, "codebook_size": CODES}
        return TokenizerConfig(n_channels=channels, enc_type=VIT, dec_type=VIT, **(base | options))  # type: ignore[arg-type]

    def vector(channels: int, heads: int) -> TokenizerConfig:
        return TokenizerConfig(
            n_channels=channels,
            enc_type=MLP,
            dec_type=MLP,
            patch_proj=False,
            quant_type="memcodes",
            num_codebooks=heads,
            latent_dim=4 * heads,
            codebook_size=CODES,
        )

    configs = {
        "rgb": vit(3),
        "depth": vit(1),
        "normal": vit(3),
        "edge": vit(1),
        "semseg": vit(5, n_labels=134),
        "features": vit(FEATURES, patch_proj=False),
        "vector": vector(FEATURES, 16),
        "human_poses": vector(207, 8),
        "sam_instance": vit(1, image_size=64, patch_size=16),
    }
    return {name: VQVAE(config).eval() for name, config in configs.items()}


STREAM_TOKENIZERS = {
    **{f"tok_{name}@{SIZE}": name for name in ("rgb", "depth", "normal", "semseg")},
    **{f"tok_{name}@{SIZE}": "edge" for name in ("canny_edge", "sam_edge")},
    **{f"tok_{name}@{SIZE}": "features" for name in ("clip", "dinov2", "imagebind")},
    "tok_dinov2_global": "vector",
    "tok_imagebind_global": "vector",
    "human_poses": "human_poses",
    "sam_instance": "sam_instance",
}


def streams() -> tuple[StreamSpec, ...]:
    found = []
    for name in MODALITIES:
        for spec in get_modality(name).streams(SIZE, PATCH):
            if spec.kind is StreamKind.SEQUENCE:
                spec = replace(spec, vocab_size=text_tokenizer().vocab_size, table="text")
            elif spec.kind is StreamKind.EMBEDDING:
                spec = replace(spec, channels=WIDTH)
            elif spec.kind is StreamKind.TOKENS and spec.grid:
                spec = replace(spec, vocab_size=CODES, grid=GRID, max_tokens=GRID[0] * GRID[1])
            elif spec.kind is StreamKind.TOKENS:
                spec = replace(spec, vocab_size=CODES)
            found.append(spec)
    return tuple(found)


@cache
def bundle() -> Bundle:
    """The same weights every time; flagged as trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = tokenizers()
    config = ModelConfig(streams(), dim=32, encoder_depth=2, decoder_depth=2, num_heads=2)
    model = FourM(config, seed=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for parameter in model.parameters():  # larger than at initialisation, so that inputs matter
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.15)
    model.trained = True
    info = BundleInfo(
        "tiny", "random weights", SIZE, PATCH, dict(STREAM_TOKENIZERS), "Apache-2.0", "https://example.org"
    )
    return Bundle(info, model, parts, text_tokenizer())


def picture(seed: int = 0, rows: int = 40, columns: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def depth_map(seed: int = 0, rows: int = 40, columns: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 9, (rows, columns)).astype(np.float32)
