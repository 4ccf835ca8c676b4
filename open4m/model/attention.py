"""Attention: masks, the kernel chosen per device, self- and cross-attention.

Shape suffixes: B samples, M queries, N keys, H heads, K head width, D = H·K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.batch import TokenTargets
from open4m.model.config import ModelConfig
from open4m.model.linear import Linear
from open4m.precision import plain_attention_is_faster

NORM_EPS = 1e-6
_CHUNK = 64  # positions by which the past grows


def layer_norm(config: ModelConfig, width: int) -> nn.LayerNorm:
    """LayerNorm as used everywhere in the model (eps 1e-6, bias by config)."""
    return nn.LayerNorm(width, eps=NORM_EPS, bias=config.norm_bias)


@dataclass(frozen=True)
class Mask:
    """Which keys a query may see.

    Attributes:
        allowed: (B, 1, M or 1, N) bool; every row has at least one True.
        live: (B, 1, M or 1, 1) bool, False where a query has no key at all: its result is zero. None = all live.
    """

    allowed: Tensor
    live: Tensor | None = None


@dataclass(frozen=True)
class Segments:
    """A sequence that falls into parts which do not see each other; inside of a part, all see all.

    Attributes:
        lengths: of the parts, in order.
    """

    lengths: tuple[int, ...]

    @property
    def allowed(self) -> Tensor:
        """(1, 1, M, M) bool, as of a :class:`Mask`."""
        return torch.block_diag(*(torch.ones(n, n) for n in self.lengths)).bool()[None, None]


def key_mask(valid: Tensor) -> Mask | None:
    """Mask of padded keys, ``valid`` (B, N) bool. None where nothing is padded.

    A sample without any valid key (unconditional guidance) gets the result zero, not an average of padding.
    """
    if bool(valid.all()):
        return None
    live = valid.any(dim=1, keepdim=True)
    return Mask((valid | ~live)[:, None, None, :], live[:, None, None, :])


def target_mask(targets: TokenTargets) -> Mask | Segments | None:
    """Mask between decoder positions: own stream only, ``order[j] <= order[i]`` (4M, section 3.2; ``TokenTargets``).

    Equal to the published compressed mask with separated modalities. Padding sees itself only. None = all see all.
    Grids that stand one after the other in all samples are told as segments, whose attention costs only their own size.
    """
    if segments := _segments(targets):
        return Segments(segments) if len(segments) > 1 else None
    same = targets.stream[:, :, None] == targets.stream[:, None, :]
    before = targets.order[:, None, :] <= targets.order[:, :, None]
    allowed = same & before & targets.valid[:, None, :]
    allowed = allowed | torch.eye(allowed.shape[1], dtype=torch.bool, device=allowed.device)
    return None if bool(allowed.all()) else Mask(allowed[:, None])


def _segments(targets: TokenTargets) -> tuple[int, ...]:
    """Lengths of the streams of ``targets``, if all samples have the same whole grids in a row; else ()."""
    stream = targets.stream[0]
    if bool((targets.order != 0).any()) or not bool(targets.valid.all() & (targets.stream == stream).all()):
        return ()
    names, lengths = stream.unique_consecutive(return_counts=True)
    return tuple(lengths.tolist()) if len(names.unique()) == len(names) else ()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | Segments | None = None, plain: bool | None = None) -> Tensor:
    """Softmax attention with scale K^-0.5.

    Args:
        q: (B, H, M, K) queries; k, v: (B, H, N, K). N = 0 gives zeros.
        mask: which keys each query may see; None = all.
        plain: matmul–softmax–matmul instead of the fused kernel. Default: where it is faster. Both give the same
            result up to rounding.
    """
    if k.shape[2] == 0:
        return torch.zeros_like(q)
    if isinstance(mask, Segments):
        parts = zip(*(x.split(mask.lengths, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([attend(*part, plain=plain) for part in parts], dim=2)
    if plain is None:
        plain = plain_attention_is_faster(q)
    allowed = None if mask is None else mask.allowed
    if plain:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        out = scores.softmax(dim=-1).to(v.dtype) @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    if mask is not None and mask.live is not None:
        out = out.masked_fill(~mask.live, 0.0)
    return out


def split_heads(x: Tensor, heads: int, parts: int) -> tuple[Tensor, ...]:
    """(B, N, parts·D) → ``parts`` tensors (B, H, N, K); parts outermost, then heads."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, M, K) → (B, M, D)."""
    return x.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class KeyValues:
    """Keys and values (B, H, N, K) of one attention."""

    keys: Tensor
    values: Tensor

    def take(self, rows: Tensor) -> KeyValues:
        """The same for a selection (n,) of samples."""
        return KeyValues(self.keys[rows], self.values[rows])

    def contiguous(self) -> KeyValues:
        """The same, each head in one piece of memory: faster where they are read many times."""
        return KeyValues(self.keys.contiguous(), self.values.contiguous())


@dataclass
class Past:
    """Keys and values of the positions decoded so far; room for more is made in chunks, so that a step copies nothing.

    Attributes:
        room: keys and values (B, H, room, K), of which the first ``length`` are in use.
    """

    room: KeyValues
    length: int = 0

    @classmethod
    def before(cls, context: KeyValues) -> Past:
        """Nothing yet, for the samples and heads of ``context``."""
        return cls(KeyValues(context.keys[:, :, :0], context.values[:, :, :0]))

    def append(self, keys: Tensor, values: Tensor) -> KeyValues:
        """Add positions (B, H, n, K) at the end; returns all of them."""
        end = self.length + keys.shape[2]
        if end > self.room.keys.shape[2]:
            extra = (0, 0, 0, -(-end // _CHUNK) * _CHUNK - self.room.keys.shape[2])
            self.room = KeyValues(F.pad(self.room.keys, extra), F.pad(self.room.values, extra))
        self.room.keys[:, :, self.length : end] = keys
        self.room.values[:, :, self.length : end] = values
        self.length = end
        return KeyValues(self.room.keys[:, :, :end], self.room.values[:, :, :end])

    def take(self, rows: Tensor) -> Past:
        """The same for a selection (n,) of samples."""
        return Past(self.room.take(rows), self.length)


class QueryKeyNorm(nn.Module):
    """Base of both attentions: optional LayerNorm over the head width of queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        width = config.dim // config.num_heads
        self.q_norm = layer_norm(config, width) if config.qk_norm else nn.Identity()
        self.k_norm = layer_norm(config, width) if config.qk_norm else nn.Identity()


class SelfAttention(QueryKeyNorm):
    """Attention of a sequence to itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.qkv = Linear(config.dim, 3 * config.dim, bias=config.qkv_bias)
        self.proj = Linear(config.dim, config.dim, bias=config.proj_bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) → queries, keys, values (B, H, N, K), normed."""
        q, k, v = split_heads(self.qkv(x), self.heads, 3)
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v

    def forward(self, x: Tensor, mask: Mask | Segments | None) -> Tensor:
        """(B, N, D) → (B, N, D)."""
        return self.proj(merge_heads(attend(*self.project(x), mask)))

    def step(self, x: Tensor, past: Past) -> Tensor:
        """One new position x (B, 1, D), which sees the ``past`` and itself and becomes part of the past."""
        q, k, v = self.project(x)
        seen = past.append(k, v)
        return self.proj(merge_heads(attend(q, seen.keys, seen.values)))


class CrossAttention(QueryKeyNorm):
    """Attention of a sequence to a context."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.q = Linear(config.dim, config.dim, bias=config.qkv_bias)
        self.kv = Linear(config.dim, 2 * config.dim, bias=config.qkv_bias)
        self.proj = Linear(config.dim, config.dim, bias=config.proj_bias)

    def project(self, context: Tensor) -> KeyValues:
        """(B, N, D) → keys and values; the same for all queries, so they can be kept."""
        k, v = split_heads(self.kv(context), self.heads, 2)
        return KeyValues(self.k_norm(k).to(v.dtype), v)

    def forward(self, x: Tensor, context: KeyValues, mask: Mask | Segments | None) -> Tensor:
        """x (B, M, D) and a projected context → (B, M, D).

        With segments, the contexts of the B samples lie one behind the other, as if of one sample.
        """
        (q,) = split_heads(self.q(x), self.heads, 1)
        q = self.q_norm(q).to(context.values.dtype)
        if not isinstance(mask, Segments):
            return self.proj(merge_heads(attend(q, context.keys, context.values, mask)))
        keys, values = (part.split(mask.lengths, dim=2) for part in (context.keys, context.values))
        samples = zip(q.split(1), keys, values, strict=True)
        return self.proj(merge_heads(torch.cat([attend(*sample) for sample in samples])))
