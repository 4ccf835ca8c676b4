"""MLP, encoder block, decoder block (pre-norm; 4M, section 3 and appendix)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from open4m.errors import GenerationError
from open4m.model.attention import CrossAttention, KeyValues, Mask, Past, Segments, SelfAttention, layer_norm
from open4m.model.config import ModelConfig
from open4m.model.linear import Linear

ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu}


class MLP(nn.Module):
    """Two-layer MLP, gated (SwiGLU when ``act`` is SiLU) or plain."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.act = ACTIVATIONS[config.act]
        self.fc1 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias)
        self.fc2 = Linear(config.mlp_hidden, config.dim, bias=config.mlp_bias)
        self.fc3 = Linear(config.dim, config.mlp_hidden, bias=config.mlp_bias) if config.gated_mlp else None

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

    def forward(self, x: Tensor, mask: Mask | Segments | None) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


def run_encoder(
    x: Tensor, blocks: nn.ModuleList, norm: nn.Module, mask: Mask | Segments | None, layers: Collection[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """Encoder blocks and the final norm over x (B, N, D).

    Returns:
        the output (B, N, D), and the states after as many blocks as ``layers`` say: 0 = x itself; the last layer is the
        output, after the final norm.
    """
    kept = {0: x} if 0 in layers else {}
    for number, block in enumerate(blocks, 1):
        x = block(x, mask)
        if number in layers:
            kept[number] = x
    states = norm(x)
    return states, kept | ({len(blocks): states} if len(blocks) in layers else {})


def layer_number(layer: int, depth: int) -> int:
    """Layer 0…depth of an encoder of ``depth`` blocks; negative ones count from the end, -1 = the output.

    Raises:
        GenerationError: there is no such layer.
    """
    if not isinstance(layer, int) or isinstance(layer, bool) or not -depth - 1 <= layer <= depth:
        raise GenerationError(
            f"Layer {layer!r}: the encoder has {depth} blocks. Expected 0 (the embedded input) to {depth} (the "
            "output), or a negative number, -1 = the output."
        )
    return layer % (depth + 1)


@dataclass
class BlockCache:
    """What one decoder block keeps between autoregressive steps: its own past, and the projected context."""

    past: Past
    context: KeyValues

    def take(self, rows: Tensor) -> BlockCache:
        """The same for a selection (n,) of samples."""
        return BlockCache(self.past.take(rows), self.context.take(rows))


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

    def forward(
        self, y: Tensor, context: Tensor, self_mask: Mask | Segments | None, context_mask: Mask | Segments | None
    ) -> Tensor:
        """y (B, M, D), context (B, N, D) or, with segments of B samples, (1, ΣN, D) → (B, M, D)."""
        y = y + self.self_attn(self.norm1(y), self_mask)
        return self._finish(y, self._project(context), context_mask)

    def start(self, context: Tensor) -> BlockCache:
        """An empty past for ``context`` (B, N, D)."""
        projected = self._project(context).contiguous()
        return BlockCache(Past.before(projected), projected)

    def step(self, y: Tensor, cache: BlockCache, context_mask: Mask | None) -> Tensor:
        """One new position y (B, 1, D) after those in ``cache``, which is brought up to date."""
        return self._finish(y + self.self_attn.step(self.norm1(y), cache.past), cache.context, context_mask)

    def _project(self, context: Tensor) -> KeyValues:
        return self.cross_attn.project(self.context_norm(context))

    def _finish(self, y: Tensor, context: KeyValues, mask: Mask | Segments | None) -> Tensor:
        y = y + self.cross_attn(self.query_norm(y), context, mask)
        return y + self.mlp(self.norm2(y))
