"""Scores that need more than the target's own truth: objects named in captions, retrieval, metadata field by field."""

from __future__ import annotations

import math

import numpy as np
import pytest

from open4m.evaluation.measures import better, metrics, objects_named, recall_at, score
from open4m.modalities.base import Metric
from open4m.modalities.det import Box


def boxes(*names: str) -> list[Box]:
    return [Box(0.1, 0.1, 0.6, 0.6, name) for name in names]


@pytest.mark.parametrize(
    ("caption", "names", "expected"),
    [
        ("a dog and two chairs", ("dog", "chair"), 1),
        ("A DOG.", ("dog", "chair"), 0.5),
        ("two people on a couch", ("person", "couch"), 1),
        ("a ball on a table", ("sports ball", "dining table"), 1),  # the last word is enough
        ("some benches and knives", ("bench", "knife"), 1),
        ("a dogma in a carpet", ("dog", "car"), 0),  # whole words only
        ("", ("dog",), 0),
        ("a dog", ("dog", "dog", "dog", "cat"), 0.5),  # classes, not objects
    ],
)
def test_classes_are_named_by_words(caption: str, names: tuple[str, ...], expected: float) -> None:
    assert objects_named([caption], [boxes(*names)]) == expected


def test_naming_counts_classes_of_all_pictures_and_only_visible_ones() -> None:
    small, doubtful = Box(0.1, 0.1, 0.19, 0.2, "cup"), Box(0, 0, 1, 1, "bed", score=0.5)
    found = objects_named(["a dog", "a cat"], [[*boxes("dog"), small, doubtful], boxes("cat", "car", "bus")])
    assert found == 0.5  # dog and cat, of dog, cat, car and bus
    assert math.isnan(objects_named(["a dog"], [[]]))


def test_captions_are_scored_with_the_boxes_of_their_picture() -> None:
    samples = [{"caption": "a dog", "det": boxes("dog", "cat")}, {"caption": "a house"}]
    found = score("caption", ["a dog", "a dog"], samples)
    assert found["objects_named"] == 0.5 and set(found) == set(metrics("caption"))


def test_recall_on_constructed_vectors() -> None:
    gallery = [np.eye(4)[i] for i in range(4)]
    assert recall_at(1, [10 * v for v in gallery], gallery) == 1  # lengths do not count
    queries = [gallery[0], gallery[0] + 0.5 * gallery[1], gallery[3] + 0.9 * gallery[0] + 0.8 * gallery[2], gallery[3]]
    assert recall_at(1, queries, gallery) == 0.5
    assert recall_at(2, queries, gallery) == 0.75
    assert recall_at(3, queries, gallery) == 1
    assert recall_at(3, [np.ones(4)] * 4, gallery) == 0  # ties count against the query


def test_vectors_are_scored_by_retrieval() -> None:
    samples = [{"dinov2_global": np.eye(8, dtype=np.float32)[i]} for i in range(8)]
    found = score("dinov2_global", [s["dinov2_global"] for s in samples[1:] + samples[:1]], samples)
    assert set(found) == set(metrics("dinov2_global")) and next(iter(metrics("dinov2_global"))) == "cosine"
    assert found["recall@1"] == 0 and found["cosine"] == pytest.approx(0)
    assert score("dinov2_global", [s["dinov2_global"] for s in samples], samples)["recall@1"] == 1


def test_metadata_is_scored_field_by_field() -> None:
    truth, guess = {"n_humans": 2, "brightness": 100.0}, {"n_humans": 9}
    found = score("metadata", [truth, guess], [{"metadata": truth}] * 2)
    assert found["within_3_bins/n_humans"] == found["within_3_bins/brightness"] == found["within_3_bins"] == 0.5
    assert math.isnan(found["within_3_bins/entropy"]) and set(found) == set(metrics("metadata"))


def test_better_knows_the_direction_and_prefers_numbers() -> None:
    up, down = Metric("", True), Metric("", False)
    assert better(up, 2, 1) and not better(up, 1, 2) and not better(up, 1, 1)
    assert better(down, 1, 2) and not better(down, 2, 1)
    assert better(up, -1, math.nan) and not better(up, math.nan, -1) and not better(up, math.nan, math.nan)
