"""The kNN protocol against a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from open4m.errors import DataError
from open4m.retrieval import knn_accuracy, knn_classify


def plain(queries: np.ndarray, gallery: np.ndarray, labels: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """As the paper says it, one number after the other."""
    rows = []
    for q in queries:
        cosines = [float(q @ g / (np.linalg.norm(q) * np.linalg.norm(g))) for g in gallery]
        nearest = sorted(range(len(gallery)), key=lambda i: -cosines[i])[:k]
        votes = [0.0] * (int(labels.max()) + 1)
        for i in nearest:
            votes[int(labels[i])] += math.exp(cosines[i] / temperature)
        rows.append([vote / sum(votes) for vote in votes])
    return np.array(rows)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (7, 0.5), (500, 1.0)])
def test_votes_are_those_of_the_plain_computation(k: int, temperature: float) -> None:
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 5, 90)
    gallery = rng.normal(size=(5, 16))[labels] + rng.normal(size=(90, 16)) * 2
    queries = rng.normal(size=(30, 16)) * rng.uniform(0.1, 9, (30, 1))
    found = knn_classify(queries, gallery, labels, k=k, temperature=temperature)
    assert np.allclose(found, plain(queries, gallery, labels, k, temperature), atol=1e-5)
    assert np.allclose(found.sum(axis=1), 1)


def test_the_defaults_are_those_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    gallery, labels, queries = rng.normal(size=(60, 8)), rng.integers(0, 3, 60), rng.normal(size=(9, 8))
    assert np.allclose(knn_classify(queries, gallery, labels), plain(queries, gallery, labels, 20, 0.07), atol=1e-5)


def test_many_items_give_the_same_as_few_at_once() -> None:
    """More than a block; the nearest ones are in the second."""
    rng = np.random.default_rng(1)
    far = np.tile(rng.normal(size=(1, 4)), (5000, 1))
    near = -far[:30] + rng.normal(size=(30, 4)) * 0.1
    votes = knn_classify(near[:5], np.concatenate([far, near]), np.repeat([0, 1], [5000, 30]))
    assert np.allclose(votes[:, 1], 1)


def test_accuracy_counts_the_first_and_the_first_few() -> None:
    votes = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]])
    truth = np.array([0, 1, 0])
    assert knn_accuracy(votes, truth) == pytest.approx(1 / 3)
    assert knn_accuracy(votes, truth, top=2) == pytest.approx(2 / 3)
    assert knn_accuracy(votes, truth, top=3) == 1


def test_bad_arrays_are_refused() -> None:
    x = np.ones((4, 3))
    for queries, gallery, labels, options in (
        (np.ones((4, 2)), x, np.zeros(4, int), {}),
        (x, np.ones((0, 3)), np.zeros(0, int), {}),
        (x, x, np.zeros(3, int), {}),
        (x, x, np.zeros(4), {}),
        (x, x, np.array([0, 1, -1, 0]), {}),
        (x, x, np.zeros(4, int), {"k": 0}),
        (x, x, np.zeros(4, int), {"temperature": 0.0}),
    ):
        with pytest.raises(DataError):
            knn_classify(queries, gallery, labels, **options)
