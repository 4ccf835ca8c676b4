"""Rank correlation, the measure of whether one number follows another without saying how."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS = 2000


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) → (N,) float64: 0 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation, −1…1, on the places where both are finite; NaN where one of them does not vary."""
    first, second = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return float("nan")
    x, y = (ranks(side[known]) for side in (first, second))
    x, y = x - x.mean(), y - y.mean()
    length = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / length if length > 0 else float("nan")


def mean_rank_correlation(asked: np.ndarray, found: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """How well each row of ``found`` (R, N) follows ``asked`` (N,): the mean rank correlation, and its chance.

    The chance is that of at least so high a mean if nothing followed, from permutations of every row by itself. Rows
    that do not vary count as 0.
    """
    generator = np.random.default_rng(seed)
    x = _standard(np.asarray(asked, dtype=np.float64)[None])[0]
    rows = _standard(np.asarray(found, dtype=np.float64))
    mean = float((rows @ x).mean())
    drawn = [float((generator.permuted(rows, axis=1) @ x).mean()) for _ in range(_DRAWS)]
    return mean, float((1 + np.sum(np.array(drawn) >= mean - 1e-12)) / (_DRAWS + 1))


def _standard(rows: np.ndarray) -> np.ndarray:
    """Ranks of every row, centred and of length 1; zero for rows that do not vary."""
    found = np.stack([ranks(row) for row in rows])
    found = found - found.mean(axis=1, keepdims=True)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.where(length > 0, found / np.maximum(length, 1e-12), 0.0)
