"""BottleneckMLP: residual MLP applied at every position, for vectors and feature maps (spec: tokenizers §2)."""

from __future__ import annotations

from torch import Tensor, nn

from open4m.tokenizers.config import Backbone


class _Bottleneck(nn.Module):
    def __init__(self, size: Backbone) -> None:
        super().__init__()
        hidden = size.expansion * size.width
        self.block = nn.Sequential(nn.Linear(size.width, hidden), nn.GELU(), nn.Linear(hidden, size.width))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class BottleneckMLP(nn.Module):
    """(B, C_in, h, w) → (B, C_out, h, w), position by position."""

    def __init__(self, size: Backbone, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(channels_in, size.width)
        self.blocks = nn.ModuleList(_Bottleneck(size) for _ in range(size.blocks))
        self.layernorms = nn.ModuleList(nn.LayerNorm(size.width) for _ in range(size.blocks))
        self.linear_out = nn.Linear(size.width, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear_in(x.permute(0, 2, 3, 1))
        for norm, block in zip(self.layernorms, self.blocks, strict=True):
            y = y + block(norm(y))
        return self.linear_out(y).permute(0, 3, 1, 2)
