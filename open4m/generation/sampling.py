"""From logits to ids: filters, temperature and draws that depend on nothing but their seed (spec: generation §3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GREEDY = 1e-10
"""Temperatures below this mean: take the most likely id."""


@dataclass(frozen=True)
class Sampler:
    """How ids are drawn.

    Attributes:
        temperature: logits are divided by it *after* filtering; below 1e-10 the most likely id is taken.
        top_k: an int keeps that many ids, a float that fraction of the vocabulary; 0 = all.
        top_p: keeps the fewest most likely ids whose probability together exceeds it; 0 = all.
    """

    temperature: float = 1.0
    top_k: int | float = 0
    top_p: float = 0.0

    def __call__(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw ids by inverting the cumulative distribution at ``uniform``.

        Args:
            logits: (…, V) float.
            uniform: (…) in [0, 1), one draw each.

        Returns:
            ids (…) int64 and their probabilities (…) under the filtered, tempered distribution – or, when the most
            likely id is taken, under the plain softmax, so that confidences can still be ranked (the published code
            calls all of them equally sure).
        """
        if self.temperature < GREEDY:
            probability, ids = logits.softmax(dim=-1).max(dim=-1)
            return ids, probability
        probabilities = (filter_logits(logits, self.top_k, self.top_p) / self.temperature).softmax(dim=-1)
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        total = cumulative[..., -1:]
        target = (uniform.to(torch.float64).unsqueeze(-1) * total).minimum(total.nextafter(torch.zeros_like(total)))
        ids = torch.searchsorted(cumulative, target, right=True)
        return ids.squeeze(-1), probabilities.gather(-1, ids).squeeze(-1)


def filter_logits(logits: Tensor, top_k: int | float = 0, top_p: float = 0.0) -> Tensor:
    """Set all but the allowed ids of (…, V) logits to −∞: first top-k, then top-p on what is left (see Sampler)."""
    if top_k > 0:
        size = logits.shape[-1]
        count = max(1, min(size, int(top_k * size) if isinstance(top_k, float) else top_k))
        logits = logits.masked_fill(logits < logits.topk(count, dim=-1).values[..., -1:], -torch.inf)
    if top_p > 0:
        ordered, ids = logits.sort(dim=-1, descending=True)
        probability = ordered.softmax(dim=-1)
        dropped = probability.cumsum(dim=-1) - probability > top_p  # mass before the id: the first crossing stays
        logits = logits.masked_fill(dropped.scatter(-1, ids, dropped), -torch.inf)
    return logits


def uniforms(seeds: Sequence[int], target: str, step: int, count: int) -> Tensor:
    """(B, count) float64 in [0, 1): row i depends on ``seeds[i]``, ``target`` and ``step`` only."""
    rows = []
    for seed in seeds:
        digest = hashlib.sha256(f"{seed}/{target}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.rand(count, generator=generator, dtype=torch.float64))
    return torch.stack(rows)
