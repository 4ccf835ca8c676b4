"""What a model must beat: predictions made without looking at the input.

A constant is a weak opponent (the per-pixel mean map of a set of scenes is far stronger), so both are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from open4m.modalities.base import DenseModality, Modality


def another_picture(modality: Modality[Any], truths: Sequence[Any]) -> list[Any]:
    """The truth of the picture half the list away: what chance agreement between pictures is worth.

    Neighbours in a list may show the same scene from another side, which would be no chance.
    """
    del modality
    away = max(len(truths) // 2, 1)
    return [truths[(i + away) % len(truths)] for i in range(len(truths))]


def mean_map(modality: DenseModality[Any], truths: Sequence[Any]) -> list[Any]:
    """The mean of *other* pictures, position by position (class maps: the commonest class).

    The list is halved and each half is predicted from the other one, so that no picture contributes to its own
    prediction. Needs at least two truths.
    """
    arrays = [modality.to_array(value) for value in truths]
    half = len(arrays) // 2
    first, second = _average(arrays[:half]), _average(arrays[half:])
    if arrays[0].dtype.kind == "i":
        return [_one_hot_value(modality, second if i < half else first) for i in range(len(arrays))]
    return [modality.from_array(second if i < half else first) for i in range(len(arrays))]


def baselines(modality: Modality[Any]) -> dict[str, Callable[[Any, Sequence[Any]], list[Any]]]:
    """The baselines that make sense for a modality, by name."""
    chosen: dict[str, Callable[[Any, Sequence[Any]], list[Any]]] = {"another picture": another_picture}
    if isinstance(modality, DenseModality):
        chosen["mean map"] = mean_map
    return chosen


def _average(arrays: Sequence[np.ndarray]) -> np.ndarray:
    stack = np.stack(arrays)
    if stack.dtype.kind == "i":
        counts = np.stack([(stack == label).sum(0) for label in range(int(stack.max()) + 1)])
        return counts.argmax(0)
    return stack.mean(0, dtype=np.float64).astype(np.float32)


def _one_hot_value(modality: DenseModality[Any], labels: np.ndarray) -> Any:
    """Class maps leave the tokenizer as logits (C, H, W); a label map is given as its one-hot logits."""
    return modality.from_array((np.arange(int(labels.max()) + 1)[:, None, None] == labels).astype(np.float32))
