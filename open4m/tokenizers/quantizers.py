"""From latents to codes and back: the cosine codebook and the multi-head memory codes (spec: tokenizers §3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

REVIVED_COUNT = 8.0
"""A new code's usage count, in multiples of the death threshold: its time to prove itself."""
KEY_GAIN = 6.0
"""Initial length of the keys of memory codes: choices are clear from the start, yet gradients reach several codes."""
_CHUNK = 1 << 18  # entries of a (latents × codes) similarity table that stay in cache


class Quantized(NamedTuple):
    """Codes (B, d, h, w), the loss of quantizing (scalar), ids (B, h, w) or (B, heads, h, w), None before the start."""

    codes: Tensor
    loss: Tensor
    ids: Tensor | None


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """(N,) index of the code (K, d) with the largest dot product to each latent (N, d)."""
    rows = max(1, _CHUNK // codes.shape[0])
    transposed = codes.T.contiguous()
    return torch.cat([(part @ transposed).argmax(dim=1) for part in latents.split(rows)])


def expectation(probabilities: Tensor, codes: Tensor) -> Tensor:
    """Mean code (…, d) under ``probabilities`` (…, K), stretched to the mean length of the codes it averages.

    Averages are shorter than what they average; the decoder has only seen vectors of full length.
    """
    mean = probabilities @ codes
    length = probabilities @ codes.norm(dim=-1, keepdim=True)
    return mean * (length / mean.norm(dim=-1, keepdim=True).clamp_min(1e-12))


def kmeans(latents: Tensor, clusters: int, iterations: int = 10) -> Tensor:
    """(clusters, d) unit centres of unit vectors (N, d) by spherical k-means; empty clusters are drawn anew."""
    if latents.shape[0] < clusters:
        raise ValueError(f"k-means needs at least {clusters} latents, got {latents.shape[0]}; pool more batches")
    centres = latents[torch.randperm(latents.shape[0], device=latents.device)[:clusters]]
    for _ in range(iterations):
        ids = nearest(latents, centres)
        sums = torch.zeros_like(centres).index_add_(0, ids, latents)
        empty = torch.bincount(ids, minlength=clusters) == 0
        drawn = torch.randint(latents.shape[0], (int(empty.sum()),), device=latents.device)
        sums[empty] = latents[drawn]
        centres = F.normalize(sums, dim=-1)
    return centres


class CosineCodebook(nn.Module):
    """State of the codebook: EMA counts (K,) and codes (K, d); ``initted`` (1,) is 0 until quantization begins."""

    initted: Tensor
    cluster_size: Tensor
    embed: Tensor

    def __init__(self, size: int, width: int, decay: float, dead_below: float, started: bool) -> None:
        super().__init__()
        self.decay = decay
        self.dead_below = dead_below
        self.register_buffer("initted", torch.full((1,), float(started)))
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("embed", F.normalize(nn.init.kaiming_uniform_(torch.empty(size, width)), dim=-1))

    @torch.no_grad()
    def begin(self, latents: Tensor) -> None:
        """Replace the codes by the k-means centres of latents (N, d) and start quantizing. Rank 0 decides."""
        centres = kmeans(F.normalize(latents.float(), dim=-1), self.embed.shape[0])
        if _distributed():
            dist.broadcast(centres, src=0)
        self.embed.copy_(centres)
        self.cluster_size.fill_(REVIVED_COUNT * self.dead_below)
        self.initted.fill_(1.0)

    @torch.no_grad()
    def update(self, unit_latents: Tensor, ids: Tensor) -> None:
        """One EMA step with normalised latents (N, d) and their ids (N,), summed over all ranks."""
        counts = torch.bincount(ids, minlength=self.embed.shape[0]).to(self.embed.dtype)
        sums = torch.zeros_like(self.embed).index_add_(0, ids, unit_latents)
        if _distributed():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], self.embed)
        self.cluster_size.lerp_(counts, 1 - self.decay)
        self.embed.lerp_(F.normalize(means, dim=-1), 1 - self.decay)
        if self.dead_below > 0:
            self._revive(unit_latents)

    def _revive(self, unit_latents: Tensor) -> None:
        """Move codes that are hardly used to random latents.

        Unlike the reference, which leaves the count of a moved code as it was (so that it is moved again at every
        step until enough latents happen to fall to it), the count starts anew and the code gets time to settle.
        """
        dead = (self.cluster_size < self.dead_below).nonzero()[:, 0]
        if len(dead) == 0:
            return
        drawn = torch.randint(unit_latents.shape[0], (len(dead),), device=unit_latents.device)
        fresh = unit_latents[drawn]
        if _distributed():  # slot i is filled by rank i mod world: all ranks contribute and all agree
            mine = torch.arange(len(dead), device=fresh.device) % dist.get_world_size() == dist.get_rank()
            fresh = fresh * mine[:, None]
            dist.all_reduce(fresh)
        self.embed[dead] = fresh
        self.cluster_size[dead] = REVIVED_COUNT * self.dead_below


class CosineQuantizer(nn.Module):
    """One codebook compared by cosine (``lucid``). What is handed on is the stored, not re-normalised code.

    Always computes in float32, whatever the autocast state.
    """

    def __init__(
        self,
        size: int,
        width: int,
        *,
        decay: float,
        dead_below: float,
        commitment: float,
        norm_latents: bool,
        started: bool,
    ) -> None:
        super().__init__()
        self.commitment = commitment
        self.norm_latents = norm_latents
        self._codebook = CosineCodebook(size, width, decay, dead_below, started)

    @property
    def started(self) -> bool:
        """Whether latents are replaced by codes yet."""
        return bool(self._codebook.initted)

    def begin(self, latents: Tensor) -> None:
        """Start quantizing with codes fitted to latents (B, d, h, w)."""
        self._codebook.begin(latents.transpose(0, 1).flatten(1).T)

    def _rows(self, latents: Tensor) -> Tensor:
        return latents.float().permute(0, 2, 3, 1).flatten(0, 2)

    def _nearest(self, rows: Tensor) -> Tensor:
        return nearest(F.normalize(rows, dim=-1), F.normalize(self._codebook.embed, dim=-1))

    def ids(self, latents: Tensor) -> Tensor:
        """(B, d, h, w) → (B, h, w) int64."""
        with torch.autocast(latents.device.type, enabled=False):
            return self._nearest(self._rows(latents)).view(latents.shape[0], *latents.shape[2:])

    def lookup(self, ids: Tensor) -> Tensor:
        """(B, h, w) → (B, d, h, w) float32."""
        return self._codebook.embed[ids].permute(0, 3, 1, 2)

    def expected(self, probabilities: Tensor) -> Tensor:
        """(B, h, w, K) → (B, d, h, w): see :func:`expectation`."""
        return expectation(probabilities.float(), self._codebook.embed).permute(0, 3, 1, 2)

    def forward(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            rows = self._rows(latents)
            if self.norm_latents:
                rows = F.normalize(rows, dim=-1)
            shape = (latents.shape[0], *latents.shape[2:])
            if not self.started:
                return Quantized(rows.view(*shape, -1).permute(0, 3, 1, 2), rows.new_zeros(()), None)
            ids = self._nearest(rows.detach())
            codes = self._codebook.embed[ids]
            loss = self.commitment * F.mse_loss(rows, codes) if self.training else rows.new_zeros(())
            if self.training:
                codes = rows + (codes - rows).detach()
                self._codebook.update(F.normalize(rows.detach(), dim=-1), ids)
            return Quantized(codes.view(*shape, -1).permute(0, 3, 1, 2), loss, ids.view(shape))


class _PerHead(nn.Module):
    """A (d, d) matrix per head, applied from the right; starts as ``gain`` times a rotation."""

    def __init__(self, heads: int, width: int, gain: float = 1.0) -> None:
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(heads, width, width))
        self.weight = nn.Parameter(gain * rotation)

    def forward(self, codes: Tensor) -> Tensor:
        return codes @ self.weight


class MemoryCodes(nn.Module):
    """Codebooks (heads, K, d/heads) that learn by gradient: keys select, values are handed on (``memcodes``).

    Training differs from the reference, which draws codes by hard Gumbel-softmax: here the best code is taken, as at
    inference, and gradients flow through the softmax. Codes start at equal length, because a dot product never selects
    a code inside the hull of longer ones. At small scale both together use several times more codes, and the error
    is about half as large.
    """

    started = True

    def __init__(self, size: int, width: int, heads: int) -> None:
        super().__init__()
        per_head = width // heads
        self.codes = nn.Parameter(per_head**0.5 * F.normalize(torch.randn(heads, size, per_head), dim=-1))
        self.to_k = _PerHead(heads, per_head, gain=KEY_GAIN)
        self.to_v = _PerHead(heads, per_head)

    def begin(self, latents: Tensor) -> None:
        """Nothing to do: memory codes learn by gradient from the first step."""

    def _logits(self, latents: Tensor) -> Tensor:
        """(B, H·d, h, w) → (B, H, h, w, K)."""
        heads, _, width = self.codes.shape
        queries = latents.float().unflatten(1, (heads, width)) * width**-0.5
        return torch.einsum("bhdyx,hkd->bhyxk", queries, self.to_k(self.codes))

    def ids(self, latents: Tensor) -> Tensor:
        """(B, H·d, h, w) → (B, H, h, w) int64."""
        with torch.autocast(latents.device.type, enabled=False):
            return self._logits(latents).argmax(dim=-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """(B, H, h, w) → (B, H·d, h, w) float32."""
        values = self.to_v(self.codes)
        heads = torch.arange(ids.shape[1], device=ids.device)[:, None, None]
        return values[heads, ids].permute(0, 1, 4, 2, 3).flatten(1, 2)

    def expected(self, probabilities: Tensor) -> Tensor:
        """(B, H, h, w, K) → (B, H·d, h, w): see :func:`expectation`, head by head."""
        values = self.to_v(self.codes)[:, None]
        return expectation(probabilities.float(), values).permute(0, 1, 4, 2, 3).flatten(1, 2)

    def forward(self, latents: Tensor) -> Quantized:
        with torch.autocast(latents.device.type, enabled=False):
            logits = self._logits(latents)
            ids = logits.argmax(dim=-1)
            if not self.training:
                return Quantized(self.lookup(ids), logits.new_zeros(()), ids)
            soft = logits.softmax(dim=-1)
            chosen = F.one_hot(ids, logits.shape[-1]) - soft.detach() + soft
            values = torch.einsum("bhyxk,hkd->bhdyx", chosen, self.to_v(self.codes))
            return Quantized(values.flatten(1, 2), logits.new_zeros(()), ids)


class CodebookUsage(NamedTuple):
    """How much of a codebook is alive: ``used`` = share of codes that occur, ``perplexity`` = 2^entropy in codes."""

    used: float
    perplexity: float


def codebook_usage(ids: Tensor, size: int) -> CodebookUsage:
    """Usage over all ids given (any shape), of one codebook with ``size`` codes."""
    shares = torch.bincount(ids.flatten(), minlength=size).double() / max(1, ids.numel())
    alive = shares[shares > 0]
    return CodebookUsage(len(alive) / size, float(torch.exp(-(alive * alive.log()).sum())))
