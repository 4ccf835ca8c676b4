"""ViT encoder and decoder of the tokenizers (spec: tokenizers §2). Parameter names are the published ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from open4m.precision import plain_attention_is_faster
from open4m.tokenizers.config import Backbone

LAYER_NORM_EPS = 1e-6


def sincos_2d(width: int, side: int) -> Tensor:
    """(1, width, side, side) fixed table: sine and cosine of the row, then of the column (spec: model §3)."""
    omega = 10_000 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = (torch.arange(side)[:, None] * omega).T
    waves = torch.cat([angles.sin(), angles.cos()])
    rows, cols = waves[:, :, None].expand(-1, side, side), waves[:, None, :].expand(-1, side, side)
    return torch.cat([rows, cols])[None].float()


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention of (B, heads, N, d) tensors, in the form that is faster."""
    if plain_attention_is_faster(q):
        return torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), dim=-1) @ v
    return F.scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, D = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(attend(q, k, v).transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    """Two linear layers with a non-linearity between."""

    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, size: Backbone) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)
        self.attn = Attention(size.width, size.heads)
        self.norm2 = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(size.width, size.expansion * size.width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ConvNeXtBlock(nn.Module):
    """x + gamma · MLP(LayerNorm(depthwise 7×7 x)) on (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class _Trunk(nn.Module):
    """Position table, blocks and the optional tanh MLP, shared by encoder and decoder."""

    def __init__(self, size: Backbone, grid: int, post_mlp: bool) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(sincos_2d(size.width, grid), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(size) for _ in range(size.blocks)))
        if post_mlp:
            self.norm_mlp = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)
            self.post_mlp = Mlp(size.width, 4 * size.width, nn.Tanh())

    def trunk(self, x: Tensor) -> Tensor:
        """(B, D, h, w) → (B, h·w, D); the table is resized to the grid at hand."""
        table = self.pos_emb
        if table.shape[-2:] != x.shape[-2:]:
            table = F.interpolate(table, size=x.shape[-2:], mode="bicubic", align_corners=False)
        return self.blocks((x + table).flatten(2).transpose(1, 2))

    def apply_post_mlp(self, x: Tensor) -> Tensor:
        return x + self.post_mlp(self.norm_mlp(x)) if hasattr(self, "post_mlp") else x


class ViTEncoder(_Trunk):
    """(B, C, H, W) → (B, D, H/patch, W/patch); ``patch`` 1 for feature maps."""

    def __init__(self, size: Backbone, channels: int, patch: int, grid: int, post_mlp: bool) -> None:
        super().__init__(size, grid, post_mlp)
        self.proj = nn.Conv2d(channels, size.width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x)
        grid, dtype = y.shape[-2:], self.proj.weight.dtype
        y = self.trunk(y)
        with torch.autocast(x.device.type, enabled=False):
            # Latents decide the codes: their last layer keeps full precision under autocast.
            y = self.apply_post_mlp(y.to(dtype))
        return y.transpose(1, 2).unflatten(2, grid)


class ViTDecoder(_Trunk):
    """(B, D, h, w) → (B, C, h·patch, w·patch)."""

    def __init__(self, size: Backbone, channels: int, patch: int, grid: int, post_mlp: bool, out_conv: bool) -> None:
        super().__init__(size, grid, post_mlp)
        self.patch = patch
        self.out_proj = nn.Linear(size.width, channels * patch * patch)
        self.out_conv = nn.Sequential(*(ConvNeXtBlock(channels) for _ in range(2 * out_conv)))

    def forward(self, x: Tensor) -> Tensor:
        rows, cols = x.shape[-2:]
        y = self.out_proj(self.apply_post_mlp(self.trunk(x)))
        y = F.pixel_shuffle(y.transpose(1, 2).unflatten(2, (rows, cols)), self.patch)  # channel-major: (c, row, column)
        return self.out_conv(y)
