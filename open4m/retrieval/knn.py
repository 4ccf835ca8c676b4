"""Classification by nearest neighbours, the protocol of the paper (4M-21, Table 1; as in DINO)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from open4m.errors import DataError
from open4m.retrieval.embedding import unit
from open4m.retrieval.nearest import exact

NEIGHBOURS, TEMPERATURE = 20, 0.07

_BLOCK = 4096


def knn_classify(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Votes of the nearest neighbours: each votes for its class with ``exp(cosine / temperature)``.

    Args:
        queries: (Q, D) features of any length.
        gallery: (N, D) features of samples whose class is known.
        labels: (N,) int, 0…C−1.
        k: neighbours that vote; all of a smaller gallery.

    Returns:
        (Q, C) float64, rows with sum 1: the best class has the most. C is the largest label + 1.

    Raises:
        DataError: the arrays do not fit, are empty, or a number is out of range.
    """
    labels = np.asarray(labels)
    if queries.ndim != 2 or gallery.ndim != 2 or not len(gallery) or queries.shape[1:] != gallery.shape[1:]:
        raise DataError(f"Features are {queries.shape} and {gallery.shape}; expected (Q, D) and (N, D) with N > 0.")
    if labels.shape != gallery.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(f"labels are {labels.dtype} {labels.shape}; expected ({len(gallery)},) integers from 0 on.")
    if k < 1 or not temperature > 0:
        raise DataError(f"k is {k} and temperature {temperature}; both must be greater than 0.")
    cosines, rows = exact(_blocks(gallery), torch.from_numpy(unit(queries)), k)
    votes = ((cosines.double() - cosines.double().amax(dim=1, keepdim=True)) / temperature).exp()
    classes = torch.from_numpy(labels.astype(np.int64))[rows]
    table = torch.zeros(len(queries), int(labels.max()) + 1, dtype=torch.float64).scatter_add(1, classes, votes)
    return (table / table.sum(dim=1, keepdim=True)).numpy()


def knn_accuracy(votes: np.ndarray, truth: np.ndarray, top: int = 1) -> float:
    """Share of the queries whose class (Q,) is among the ``top`` of :func:`knn_classify`; ties go to lower numbers."""
    best = np.argsort(-votes, axis=1, kind="stable")[:, :top]
    return float((best == np.asarray(truth)[:, None]).any(axis=1).mean())


def _blocks(vectors: np.ndarray) -> Iterable[Tensor]:
    return (torch.from_numpy(unit(vectors[i : i + _BLOCK])) for i in range(0, len(vectors), _BLOCK))
