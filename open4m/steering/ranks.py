"""Rank correlation, the measure of whether one number follows another without saying how."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_DRAWS = 2000


def ranks(values: np.ndarray) -> np.ndarray:
    """(N,) finite values → (N,) float64: 0 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[place]


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation, −1…1, on the places where both are finite; NaN where one of them does not vary."""
    first, second = np.asarray(a, dtype=np.float64).ravel(), np.asarray(b, dtype=np.float64).ravel()
    known = np.isfinite(first) & np.isfinite(second)
    x, y = (_standard(side[known]) for side in (first, second))
    return _exact(float(x @ y)) if x.any() and y.any() else float("nan")


def mean_rank_correlation(asked: np.ndarray, found: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """How well each row of ``found`` (R, N) follows ``asked`` (N,): the mean rank correlation, and its chance.

    The chance is that of at least so high a mean if nothing followed, from permutations of every row by itself. Places
    that are not finite are left out, and stay where they are in the permutations. Rows that do not vary count as 0.
    """
    generator = np.random.default_rng(seed)
    mean, drawn = 0.0, np.zeros(_DRAWS)
    for row in found:
        known = np.isfinite(row)
        x, y = _standard(asked[known]), _standard(row[known])
        mean += float(y @ x) / len(found)
        drawn += generator.permuted(np.tile(y, (_DRAWS, 1)), axis=1) @ x / len(found)
    return _exact(mean), float((1 + np.sum(drawn >= mean - 1e-12)) / (_DRAWS + 1))


def _exact(correlation: float) -> float:
    """Of what cancels out neither a rounding error nor -0 is left."""
    return round(correlation, 12) + 0.0


def _standard(values: np.ndarray) -> np.ndarray:
    """Ranks of (N,) finite values, centred and of length 1; zero where they do not vary."""
    if not values.size:
        return np.zeros(0)
    centred = ranks(values) - (len(values) - 1) / 2
    return centred / max(float(np.linalg.norm(centred)), 1e-12)
