"""The task ``detokenize``: a diffusion decoder of random weights, 50 DDIM steps against fewer of a better solver.

Both follow the same path from the same noise, so that the error of each is its distance from the end of that path,
found with many DDIM steps. Ours takes the fewest steps whose error is not larger than that of 50 DDIM steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from open4m.hub.catalogue import published_configuration
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.io import build_tokenizer

PUBLISHED = "EPFL-VILAB/4M_tokenizers_rgb_16k_224-448"
SMALL = {"enc_type": "ViT/B_1-Wi_64-H_1", "dec_type": "UNet/B_1-Wi_64-L_3", "image_size": 64}
PLAIN = Sampling(50, solver="ddim")
FINE = replace(PLAIN, steps=200)
CANDIDATES = (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 25)


@dataclass(frozen=True)
class Choice:
    """How ours samples, and the distances (root mean square) of both sides from the end of the path."""

    sampling: Sampling
    plain_error: float
    open4m_error: float


def decoder(size: str, dtype: torch.dtype) -> Tokenizer:
    """The published diffusion tokenizer of pictures, or at size tiny a small one; random weights."""
    torch.manual_seed(0)
    values = published_configuration(PUBLISHED) | (SMALL if size == "tiny" else {})
    tokenizer = build_tokenizer(TokenizerConfig.from_dict(values, PUBLISHED))
    for layer in tokenizer.modules():  # those that start at zero would make every step the same
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.02)
    return tokenizer.to(dtype).eval()


def ids(tokenizer: Tokenizer) -> Tensor:
    """Random ids (1, h, w)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(tokenizer.config.codebook_size, (1, *tokenizer.config.token_shape), generator=generator)


def choose(tokenizer: Tokenizer) -> Choice:
    """The fewest steps at equal error."""
    wanted = tokenizer.decode_tokens(ids(tokenizer), FINE)

    def error(sampling: Sampling) -> float:
        return float((tokenizer.decode_tokens(ids(tokenizer), sampling) - wanted).square().mean().sqrt())

    allowed = error(PLAIN)
    for steps in CANDIDATES:
        ours = Sampling(steps, solver="dpm++")
        found = error(ours)
        if found <= allowed:
            return Choice(ours, allowed, found)
    return Choice(PLAIN, allowed, allowed)
