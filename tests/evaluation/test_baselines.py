"""The strongest constant: every candidate by hand, and none of them sees the picture that it is scored on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tiny_data import values

from open4m.evaluation import baselines
from open4m.evaluation.baselines import constants, cover, makers
from open4m.modalities.base import DenseModality
from open4m.modalities.det import Box
from open4m.modalities.registry import all_modalities, get_modality

TARGETS = sorted(set(all_modalities()) - {"t5_caption"})


def dense(name: str) -> DenseModality[np.ndarray]:
    modality = get_modality(name)
    assert isinstance(modality, DenseModality)
    return modality


def told(target: str, value: Any) -> bytes:
    """Something to compare values by."""
    return value.tobytes() if isinstance(value, np.ndarray) else get_modality(target).encode(value)


# -- no peeking -------------------------------------------------------------------------------------------------------
Predictor = Callable[[str, Sequence[Any]], dict[str, list[Any]]]


def peeking(target: str, truths: Sequence[Any], index: int, predict: Predictor = constants) -> set[str]:
    """Candidates whose prediction for sample ``index`` depends on the truth of that sample."""
    changed = [*truths[:index], values(99)[target], *truths[index + 1 :]]
    before, after = predict(target, truths), predict(target, changed)
    return {name for name in before if told(target, before[name][index]) != told(target, after[name][index])}


@pytest.mark.parametrize("target", TARGETS)
def test_no_constant_depends_on_the_sample_it_is_scored_on(target: str) -> None:
    truths = [values(seed)[target] for seed in range(7)]
    assert set(constants(target, truths)) == {"another picture", *makers(target)}
    assert all(len(guesses) == 7 for guesses in constants(target, truths).values())
    assert [peeking(target, truths, index) for index in (0, 3, 6)] == [set()] * 3


def test_a_candidate_that_peeks_is_noticed() -> None:
    def all_palettes(target: str, truths: Sequence[Any]) -> dict[str, list[Any]]:
        return {"all": [makers(target)["mean palette"](truths)] * len(truths)}

    assert peeking("color_palette", [values(seed)["color_palette"] for seed in range(7)], 3, all_palettes) == {"all"}


def test_parts_are_predicted_from_the_rest() -> None:
    levels = [10, 20, 30, 40, 50, 60, 70, 80]  # four parts of two
    pictures = [np.full((2, 2, 3), level, np.uint8) for level in levels]
    found = constants("rgb", pictures)
    mean = [int(v[0, 0, 0]) for v in found["mean map"]]
    assert mean == [55, 55, 48, 48, 42, 42, 35, 35]  # (360 - 10 - 20) / 6 …
    assert [int(v[0, 0, 0]) for v in found["another picture"]] == [50, 60, 70, 80, 10, 20, 30, 40]


# -- maps -------------------------------------------------------------------------------------------------------------
def test_maps_are_averaged_position_by_position() -> None:
    maps = [np.array([[0, 255]], np.uint8), np.array([[0, 255]], np.uint8), np.array([[90, 255]], np.uint8)]
    assert baselines.mean_map(dense("sam_edge"), maps).tolist() == [[30, 255]]
    assert baselines.mean_map(dense("sam_edge"), maps, np.median).tolist() == [[0, 255]]


def test_mean_normals_are_unit_vectors() -> None:
    x, y = np.zeros((1, 1, 3), np.float32), np.zeros((1, 1, 3), np.float32)
    x[..., 0], y[..., 1] = 1, 1
    np.testing.assert_allclose(baselines.mean_map(dense("normal"), [x, y])[0, 0], [0.5**0.5, 0.5**0.5, 0], atol=1e-6)


def test_commonest_class() -> None:
    maps = [np.array([[1, 133]], np.uint8), np.array([[1, 133]], np.uint8), np.array([[9, 2]], np.uint8)]
    found = baselines.commonest_class(dense("semseg"), maps)
    assert found.tolist() == [[1, 133]] and found.dtype == np.uint8


def test_likely_edges_score_where_their_mean_shows_none() -> None:
    rng = np.random.default_rng(0)
    often = np.zeros((24, 24), bool)
    often[:, ::6] = True
    maps = [np.where(often & (rng.random((24, 24)) < 0.4), 255, 0).astype(np.uint8) for _ in range(12)]
    edges = get_modality("canny_edge")
    likely, mean = baselines.likely_edges(edges, maps), baselines.mean_map(dense("canny_edge"), maps)
    assert not (likely >= 128)[~often].any() and (likely >= 128).sum() > 40
    assert edges.score([mean] * 12, maps)["f1"] < edges.score([likely] * 12, maps)["f1"]


# -- words and lists --------------------------------------------------------------------------------------------------
def test_frequent_words() -> None:
    captions = ["a dog and a cat", "a dog and a tree", "a dog and a house", "one cow"]
    found = baselines.frequent_words(captions).split()
    assert sorted(found[:4]) == ["a", "a", "and", "dog"] and "cow" not in found


def test_likely_boxes_fit_most_boxes_of_their_class() -> None:
    shifted = [Box(0.1 + d, 0.1, 0.5 + d, 0.5, "dog") for d in (0, 0.125, 0.25)]
    far, cat = Box(0.8, 0.8, 0.9, 0.9, "dog"), Box(0, 0, 1, 1, "cat")
    found = baselines.likely_boxes([[shifted[0], far], [shifted[1]], [shifted[2], cat]])
    assert found == [shifted[1], cat]
    assert baselines.likely_boxes([[], []]) == []


def test_likely_person_and_instances() -> None:
    assert baselines.likely_person([[], []]) == [] and baselines.likely_instances([[], []]) == []
    (person,) = baselines.likely_person([values()["human_poses"], [], values(1)["human_poses"]])
    get_modality("human_poses").validate([person], "test")
    assert np.allclose(person.box, values()["human_poses"][0].box)
    instances = [values(i)["sam_instance"][0] for i in range(4)]
    assert len(baselines.likely_instances([instances, instances])) == 4  # as many as a picture has


def test_mean_palette_goes_by_lightness() -> None:
    first = np.array([[0, 0, 0], [200, 200, 200]], np.uint8)
    second = np.array([[220, 220, 220], [10, 10, 10]], np.uint8)
    assert baselines.mean_palette([first, second, first[:1]]).tolist() == [[5, 5, 5], [210, 210, 210]]


def test_fields_by_median_and_by_commonest_bin() -> None:
    table = [{"n_humans": n, "brightness": 100} for n in (0, 0, 0, 4, 5, 6, 7)]
    assert baselines.median_fields([*table, {"entropy": 3}]) == {"n_humans": 4, "brightness": 100, "entropy": 3}
    assert baselines.commonest_fields(table)["n_humans"] == 0


def test_boxes_are_covered_one_after_the_other() -> None:
    boxes = np.array([[0, 0, 4, 4], [1, 0, 5, 4], [2, 0, 6, 4], [20, 20, 21, 21]], float)
    assert cover(boxes, 1) == cover(boxes, 1, fits=True) == [1]
    assert cover(boxes, 2) == [1, 3]
    assert len(cover(boxes, 9)) == 4


def test_the_typical_value_is_the_one_nearest_to_all() -> None:
    truths = [{"brightness": 100.0, "n_humans": n} for n in (30, 1, 1, 1)]
    assert makers("metadata")["typical value"](truths) == truths[1]
