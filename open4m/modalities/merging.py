"""Several samples of one thing as one value, and how far they are apart: what the modalities' ``merge`` is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Value = TypeVar("Value")
T = TypeVar("T")

ABSENCE = "share of the samples without it"
"""Unit of the spread of things that are there or not: boxes, people, instances."""


@dataclass(frozen=True, eq=False)
class Merged(Generic[Value]):
    """Samples of one value, merged.

    Attributes:
        value: in the form of the samples.
        spread: float32, larger where the samples disagree more: (H, W), or (h, w) for feature maps, one number for
            every place; (N,), one for every part of the value (box, person, colour, field); or () for all of it.
        unit: what the numbers of ``spread`` are.
    """

    value: Value
    spread: np.ndarray
    unit: str

    @property
    def uncertainty(self) -> float:
        """Mean of the known numbers of ``spread``; NaN where there are none."""
        known = self.spread[np.isfinite(self.spread)]
        return float(known.mean()) if known.size else float("nan")


def medoid(values: Sequence[Value], distance: Callable[[Value, Value], float]) -> tuple[int, float]:
    """Number of the sample that is nearest to all others, and its mean distance to them (0 for a single sample)."""
    if len(values) == 1:
        return 0, 0.0
    table = np.array([[distance(a, b) for b in values] for a in values])
    means = (table.sum(axis=1) - np.diagonal(table)) / (len(values) - 1)
    best = int(np.nan_to_num(means, nan=np.inf).argmin())
    return best, float(means[best])


def matched(samples: Sequence[Sequence[T]], overlap: Callable[[T, T], float], least: float) -> list[list[T]]:
    """Groups of elements that are the same thing, at most one of each sample; the largest groups first.

    An element joins the group whose first member it overlaps most, if by ``least`` or more; else it begins a group.
    """
    groups: list[list[T]] = []
    for sample in samples:
        free = list(range(len(groups)))
        for element in sample:
            overlaps = [overlap(groups[g][0], element) for g in free]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best >= 0 and overlaps[best] >= least:
                groups[free.pop(best)].append(element)
            else:
                groups.append([element])
    return sorted(groups, key=lambda group: -len(group))


def absence(groups: Sequence[Sequence[object]], samples: int) -> np.ndarray:
    """(N,) float32: for each group of :func:`matched`, the share of samples that have no member in it."""
    return np.array([1 - len(group) / samples for group in groups], dtype=np.float32)


def mean_direction(vectors: np.ndarray) -> np.ndarray:
    """(n, C, …) → (C, …) float32: the mean of the unit vectors along C, as long as the vectors are on average.

    Zero where the directions cancel out.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = (vectors / np.maximum(lengths, 1e-12)).mean(axis=0)
    size = np.linalg.norm(mean, axis=0, keepdims=True)
    return np.where(size > 1e-6, mean / np.maximum(size, 1e-6) * lengths.mean(axis=0), 0.0).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of vectors along the first axis: (C, …) twice → (…) float64; 0 for vectors without length."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return (a * b).sum(axis=0) / np.maximum(lengths, 1e-12)
