"""UNet on patches: the network of the published diffusion decoders (spec: tokenizers §2.1).

After Dhariwal & Nichol 2021 (arXiv 2105.05233): residual blocks that know the noise level, attention at the coarse
resolutions, skip connections. Parameter names are the published ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open4m.errors import GenerationError
from open4m.tokenizers.config import UNET_GROUPS, Backbone
from open4m.tokenizers.vit import attend

PATCH = 4
"""Pixels are folded into the channels of a grid this many times coarser."""
MULTIPLIERS = (1, 2, 2, 2)
"""Width of each level in multiples of the first; every level halves the grid."""
ATTENTION_LEVELS = (2, 3)
LONGEST_PERIOD = 10_000


def level_embedding(t: Tensor, width: int) -> Tensor:
    """(B,) noise levels → (B, width) float32: cosines, then sines, of geometrically spaced frequencies."""
    half = width // 2
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(UNET_GROUPS, channels, eps=1e-5)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


def _zeroed(layer: nn.Conv2d | nn.Conv1d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class TimedBlock(nn.Module):
    """x + conv(SiLU(norm(conv(SiLU(norm x)) + time))), the last convolution starting at zero."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(_norm(channels_in), nn.SiLU(), _conv(channels_in, channels_out))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_width, channels_out))
        # The third place is the dropout of the published network, which is 0.
        last = _zeroed(_conv(channels_out, channels_out))
        self.out_layers = nn.Sequential(_norm(channels_out), nn.SiLU(), nn.Identity(), last)
        same = channels_in == channels_out
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class AttentionBlock(nn.Module):
    """x + projection(attention(norm x)) with one head, the projection starting at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x.flatten(2))).transpose(1, 2)[:, None].chunk(3, dim=-1)
        y = attend(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(y).view_as(x)


class Downsample(nn.Module):
    """Half the grid, by a convolution with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = _conv(channels, channels, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the grid, by repetition and a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.ModuleList):
    """Layers in a row, of which the timed ones are told the noise level."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, time) if isinstance(layer, TimedBlock) else layer(x)
        return x


class UNet(nn.Module):
    """(noised picture (B, C, H, W), noise levels (B,), codes (B, d, h, w)) → prediction (B, C, H, W).

    Codes are repeated to the patch grid and join the patches as channels. H and W are multiples of :attr:`multiple`.
    """

    def __init__(self, size: Backbone, channels: int, condition: int) -> None:
        super().__init__()
        self.width = size.width
        self.multiple = PATCH << (size.levels - 1)
        widths = [size.width * m for m in MULTIPLIERS[: size.levels]]
        time_width = 4 * size.width

        def stage(channels_in: int, level: int) -> list[nn.Module]:
            attention = [AttentionBlock(widths[level])] if level in ATTENTION_LEVELS else []
            return [TimedBlock(channels_in, widths[level], time_width), *attention]

        self.time_embed = nn.Sequential(nn.Linear(size.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width))
        self.input_blocks = nn.ModuleList([Stage([_conv(channels * PATCH**2 + condition, size.width)])])
        skips = [size.width]
        for level, width in enumerate(widths):
            for _ in range(size.blocks):
                self.input_blocks.append(Stage(stage(skips[-1], level)))
                skips.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage([Downsample(width)]))
                skips.append(width)
        deepest = widths[-1]
        middle = [TimedBlock(deepest, deepest, time_width) for _ in range(2)]
        self.middle_block = Stage([middle[0], AttentionBlock(deepest), middle[1]])
        self.output_blocks = nn.ModuleList()
        below = deepest
        for level in reversed(range(len(widths))):
            for block in range(size.blocks + 1):
                layers = stage(below + skips.pop(), level)
                if level > 0 and block == size.blocks:
                    layers.append(Upsample(widths[level]))
                self.output_blocks.append(Stage(layers))
                below = widths[level]
        self.out = nn.Sequential(_norm(below), nn.SiLU(), _zeroed(_conv(below, channels * PATCH**2)))

    def forward(self, x: Tensor, t: Tensor, codes: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        if rows % self.multiple or columns % self.multiple:
            raise GenerationError(
                f"{rows} × {columns} pixels do not fit this diffusion decoder: both must be multiples of "
                f"{self.multiple}. Use pictures of another size."
            )
        dtype = next(self.parameters()).dtype
        time = self.time_embed(level_embedding(t, self.width).to(dtype))
        h = F.pixel_unshuffle(x.to(dtype), PATCH)  # channel-major: (c, row, column)
        h = torch.cat([h, F.interpolate(codes.to(dtype), size=h.shape[-2:], mode="nearest")], dim=1)
        skips = []
        for block in self.input_blocks:
            h = block(h, time)
            skips.append(h)
        h = self.middle_block(h, time)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), time)
        return F.pixel_shuffle(self.out(h), PATCH)
