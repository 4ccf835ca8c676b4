"""MLP, encoder block, decoder block (pre-norm; 4M, section 3 and appendix)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.attention import CrossAttention, Mask, SelfAttention, layer_norm
from open4m.model.config import ModelConfig

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu}


class MLP(nn.Module):
    """Two-layer MLP, gated (SwiGLU when ``act`` is SiLU) or plain."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.act]
        self.fc1 = nn.Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.mlp_hidden, config.dim, bias=config.mlp_bias)
        self.fc3 = nn.Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias) if config.gated_mlp else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        hidden = self.act(self.fc1(x))
        return self.fc2(hidden if self.fc3 is None else hidden * self.fc3(x))


class EncoderBlock(nn.Module):
    """x += attn(norm1 x); x += mlp(norm2 x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config, config.dim)
        self.attn = SelfAttention(config)
        self.norm2 = layer_norm(config, config.dim)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, mask: Mask | None) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """y += self_attn(norm1 y); y += cross_attn(query_norm y, context_norm context); y += mlp(norm2 y)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm1 = layer_norm(config, config.dim)
        self.self_attn = SelfAttention(config)
        self.query_norm = layer_norm(config, config.dim)
        self.context_norm = layer_norm(config, config.dim)
        self.cross_attn = CrossAttention(config)
        self.norm2 = layer_norm(config, config.dim)
        self.mlp = MLP(config)

    def forward(self, y: Tensor, context: Tensor, self_mask: Mask | None, context_mask: Mask | None) -> Tensor:
        """y (B, M, D), context (B, N, D) → (B, M, D)."""
        y = y + self.self_attn(self.norm1(y), self_mask)
        y = y + self.cross_attn(self.query_norm(y), self.context_norm(context), context_mask)
        return y + self.mlp(self.norm2(y))
