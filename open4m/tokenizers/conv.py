"""Convolutional encoder and decoder: at small sizes better than ViT for pictures, depth, normals and edges.

Not part of the published family. Pixels are folded by ``STEM`` (space to depth), then every level halves the grid and
doubles the width until one cell is one patch; the decoder mirrors it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open4m.errors import CheckpointError
from open4m.tokenizers.config import Backbone

STEM = 4


class ResidualBlock(nn.Module):
    """x + conv(GELU(conv(GroupNorm x))), 3×3; the last convolution starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(self.norm(x))))

    def reset_last(self) -> None:
        """Make the block the identity."""
        nn.init.zeros_(self.conv2.weight)


def _widths(size: Backbone, patch: int) -> list[int]:
    levels = (patch // STEM).bit_length()
    if not levels or patch != STEM << (levels - 1) or size.width % (8 << (levels - 1)):
        raise CheckpointError(
            "A convolutional tokenizer needs patch_size 4, 8, 16, … and a width divisible by "
            f"{8 << max(levels - 1, 0)}; found patch_size {patch}, width {size.width}."
        )
    return [size.width >> (levels - 1 - i) for i in range(levels)]


def _stage(width: int, blocks: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(blocks)]


class ConvEncoder(nn.Module):
    """(B, C, H, W) → (B, width, H/patch, W/patch)."""

    def __init__(self, size: Backbone, channels: int, patch: int) -> None:
        super().__init__()
        widths = _widths(size, patch)
        layers: list[nn.Module] = [nn.PixelUnshuffle(STEM), nn.Conv2d(channels * STEM**2, widths[0], 3, padding=1)]
        layers += _stage(widths[0], size.blocks)
        for before, after in pairwise(widths):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * before, after, 1), *_stage(after, size.blocks)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last))


class ConvDecoder(nn.Module):
    """(B, width, h, w) → (B, C, h·patch, w·patch)."""

    def __init__(self, size: Backbone, channels: int, patch: int) -> None:
        super().__init__()
        widths = _widths(size, patch)[::-1]
        layers = _stage(widths[0], size.blocks)
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2), *_stage(after, size.blocks)]
        layers += [nn.GroupNorm(8, widths[-1]), nn.Conv2d(widths[-1], channels * STEM**2, 3, padding=1)]
        self.layers = nn.Sequential(*layers, nn.PixelShuffle(STEM))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last))
