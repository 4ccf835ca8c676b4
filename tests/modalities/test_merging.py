"""Samples merged into one value with their spread: every modality, and what each is to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import values

from open4m.modalities.det import Box
from open4m.modalities.merging import matched, mean_direction, medoid
from open4m.modalities.metadata import FIELDS
from open4m.modalities.normal import unit
from open4m.modalities.registry import all_modalities, get_modality

ALL = sorted(all_modalities())
MAPS = ("rgb", "depth", "normal", "semseg", "canny_edge", "sam_edge", "clip", "dinov2", "imagebind")


def primary(name: str, prediction: Any, truth: Any) -> float:
    """The first score, as an error."""
    modality = get_modality(name)
    metric, how = next(iter(modality.card.metrics.items()))
    score = modality.score([prediction], [truth])[metric]
    return -score if how.higher_is_better else score


# -- all --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ALL)
def test_equal_samples_are_their_own_merger(name: str) -> None:
    modality, value = get_modality(name), values(3)[name]
    merged = modality.merge([value] * 3)
    modality.validate(merged.value, "merged")
    assert primary(name, merged.value, value) == pytest.approx(primary(name, value, value), abs=2e-2)
    assert merged.spread.dtype == np.float32 and merged.unit
    np.testing.assert_allclose(merged.spread, 0, atol=0.05)  # degrees: rounding of the arc cosine
    assert merged.uncertainty == pytest.approx(0, abs=0.05)
    assert modality.merge([value]).spread.shape == merged.spread.shape


@pytest.mark.parametrize("name", [name for name in ALL if name != "human_poses"])  # whose samples are alike
def test_different_samples_are_spread(name: str) -> None:
    modality, samples = get_modality(name), [values(seed)[name] for seed in range(0, 40, 10)]
    merged = modality.merge(samples)
    modality.validate(merged.value, "merged")
    assert merged.uncertainty > 0 and merged.spread.min() >= 0
    again = modality.merge(samples)
    np.testing.assert_array_equal(merged.spread, again.spread)


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_an_error_at_every_place_and_the_spread_its_shape(name: str) -> None:
    modality, samples = get_modality(name), [values(seed)[name] for seed in range(3)]
    errors = modality.errors(samples[0], samples[1])
    assert errors.shape == modality.merge(samples).spread.shape and errors.dtype == np.float32
    assert errors.shape == (samples[0].shape[1:] if samples[0].shape[0] < 8 else samples[0].shape[:2])
    np.testing.assert_allclose(modality.errors(samples[0], samples[0]), 0, atol=0.05)


@pytest.mark.parametrize(
    ("name", "metric"), [("depth", "l1"), ("normal", "mean_angle"), ("canny_edge", "l1"), ("rgb", "l1")]
)
def test_errors_average_to_the_score(name: str, metric: str) -> None:
    a, b = values(0)[name], values(1)[name]
    modality = get_modality(name)
    assert float(np.nanmean(modality.errors(a, b))) == pytest.approx(modality.score([a], [b])[metric], rel=1e-5)


@pytest.mark.parametrize("name", ["depth", "normal", "semseg", "rgb", "clip"])
def test_merging_noisy_samples_is_better_than_any_of_them(name: str) -> None:
    modality, truth = get_modality(name), values(5)[name]
    samples = []
    for seed in range(9):
        noise, other = np.random.default_rng(100 + seed), values(20 + seed)[name]
        if truth.dtype == np.uint8:
            samples.append(np.where(noise.random(truth.shape) < 0.3, other, truth))
        else:
            noisy = (truth + noise.normal(size=truth.shape) * 0.5 * truth.std()).astype(np.float32)
            samples.append({"normal": unit, "depth": np.abs}.get(name, np.asarray)(noisy))
    single = [primary(name, sample, truth) for sample in samples]
    assert primary(name, modality.merge(samples).value, truth) < min(single)


# -- each -------------------------------------------------------------------------------------------------------------
def test_classes_are_voted_for() -> None:
    maps = [np.array([[5, 7, row]], np.uint8) for row in (1, 2, 2, 9)]
    maps[0][0, 1] = 0
    merged = get_modality("semseg").merge(maps)
    assert merged.value.tolist() == [[5, 7, 2]]
    np.testing.assert_allclose(merged.spread, [[0, 0.8113, 1.5]], atol=1e-4)
    errors = get_modality("semseg").errors(merged.value, np.array([[5, 0, 3]], np.uint8))
    np.testing.assert_array_equal(errors, [[0, np.nan, 1]])


def test_depths_are_merged_whatever_their_scale_and_shift() -> None:
    depth = get_modality("depth")
    value = values(0)["depth"]
    merged = depth.merge([value, 3 * value + 1, 0.5 * value + 4])
    assert depth.score([merged.value], [value])["l1"] < 0.01 and merged.spread.max() < 0.05
    hole = value.copy()
    hole[2, 3] = np.nan
    merged = depth.merge([value, hole])
    assert np.isnan(merged.value[2, 3]) and np.isnan(merged.spread[2, 3]) and np.isfinite(merged.spread).sum() == 1023


def test_opposite_normals_have_no_direction_and_orthogonal_ones_are_45_degrees_off() -> None:
    normal, x, y = get_modality("normal"), np.zeros((2, 2, 3), np.float32), np.zeros((2, 2, 3), np.float32)
    x[..., 0], y[..., 1] = 1, 1
    assert not normal.merge([x, -x]).value.any()
    merged = normal.merge([x, y])
    np.testing.assert_allclose(merged.value, unit(x + y), atol=1e-6)
    np.testing.assert_allclose(merged.spread, 45, atol=1e-3)


def test_edges_stay_as_frequent_as_they_are_in_the_samples() -> None:
    edge, maps = get_modality("canny_edge"), []
    for shift in range(5):  # one line, at five places
        line = np.zeros((20, 20), np.uint8)
        line[:, 8 + shift // 2] = 255
        maps.append(line)
    merged = edge.merge(maps)
    assert not (np.mean(maps, axis=0) >= 128).any()
    assert np.unique(np.nonzero(merged.value >= 128)[1]).tolist() == [8, 9]  # two of five each: a tie
    assert edge.merge([maps[0] // 3]).value.max() == 85 and not edge.merge([np.zeros_like(line)] * 2).value.any()


def test_boxes_are_fused_and_believed_as_often_as_they_are_seen() -> None:
    dog, cat = Box(0.1, 0.1, 0.5, 0.5, "dog"), Box(0.1, 0.1, 0.5, 0.5, "cat")
    moved = replace(dog, xmax=0.54)
    merged = get_modality("det").merge([[dog], [cat, moved], [], [dog, dog]])
    names = [(b.class_name, b.score) for b in merged.value]
    assert names == [("dog", 0.75), ("cat", 0.25), ("dog", 0.25)]  # two dogs in one sample are two dogs
    assert merged.value[0].xmax == pytest.approx((0.5 + 0.54 + 0.5) / 3)
    np.testing.assert_allclose(merged.spread, [0.25, 0.75, 0.75])
    assert get_modality("det").merge([[], []]).value == [] and np.isnan(get_modality("det").merge([[]]).uncertainty)


def test_people_are_averaged_where_most_samples_see_them() -> None:
    (person,) = values(0)["human_poses"]
    taller = replace(person, betas=person.betas + 2)
    far = replace(person, box=np.array([0.0, 0.0, 0.1, 0.1]))
    merged = get_modality("human_poses").merge([[person], [taller, far], []])
    assert len(merged.value) == 1 and merged.spread.tolist() == pytest.approx([1 / 3])
    np.testing.assert_allclose(merged.value[0].betas, 1)


def test_instances_of_all_samples_come_together() -> None:
    (a,), (b,) = values(0)["sam_instance"], values(0)["sam_instance"]
    other = replace(a, polygon=0.3 * a.polygon, box=0.3 * a.box)
    merged = get_modality("sam_instance").merge([[other], [a], [b]])
    assert len(merged.value) == 2 and merged.spread.tolist() == pytest.approx([1 / 3, 2 / 3])
    np.testing.assert_allclose(merged.value[0].box, a.box)


def test_instances_that_one_of_many_samples_found_are_kept_but_not_drawn() -> None:
    sam = get_modality("sam_instance")
    (first,) = values(0)["sam_instance"]
    second = replace(first, polygon=0.3 * first.polygon, box=0.3 * first.box)
    merged = sam.merge([[first, second], *[[first]] * 10]).value
    scores = sorted(instance.score for instance in merged)
    assert scores == pytest.approx([1 / 11, 1.0])
    assert sam.describe(merged) == "1 instance, 1 doubtful"
    certain = [instance for instance in merged if instance.score == 1.0]
    assert (np.asarray(sam.draw(merged)) == np.asarray(sam.draw(certain))).all()
    read = sam.decode(sam.encode(merged), "here")
    assert sorted(i.score for i in read) == pytest.approx(scores, abs=1e-4)


def test_palettes_are_averaged_colour_by_colour() -> None:
    palettes = [np.array(p, np.uint8) for p in ([[200, 0, 0], [0, 0, 200]], [[0, 0, 190], [210, 0, 0]], [[9, 9, 9]])]
    merged = get_modality("color_palette").merge(palettes)
    assert merged.value.shape == (2, 3) and merged.spread.shape == (2,)
    reds = sorted(merged.value.tolist(), reverse=True)
    assert abs(reds[0][0] - 205) <= 2 and abs(reds[1][2] - 195) <= 2


def test_metadata_is_the_median_of_usual_fields() -> None:
    samples: list[dict[str, float]] = [{"n_humans": n, "brightness": 100} for n in (1, 2, 9)]
    samples += [{"n_humans": 2, "aesthetic_score": 6.0}]
    merged = get_modality("metadata").merge(samples)
    assert list(merged.value) == [f for f in FIELDS if f in ("n_humans", "brightness")]
    assert merged.value["n_humans"] == 2 and merged.spread[1] == 0 and merged.spread[0] > 0


def test_captions_are_represented_by_the_most_typical_one() -> None:
    texts = ["a cat", "a dog on a red sofa", "a dog on a sofa", "a dog on a blue sofa"]
    merged = get_modality("caption").merge(texts)
    assert merged.value == "a dog on a sofa" and 0 < float(merged.spread) < 1


# -- parts ------------------------------------------------------------------------------------------------------------
@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6))
def test_every_element_is_in_one_group_and_no_group_has_two_of_a_sample(samples: list[list[int]]) -> None:
    tagged = [[(number, element) for element in sample] for number, sample in enumerate(samples)]
    groups = matched(tagged, lambda a, b: float(a[1] == b[1]), 1.0)
    assert sorted(e for g in groups for e in g) == sorted(e for s in tagged for e in s)
    assert all(len({number for number, _ in g}) == len(g) and len({e for _, e in g}) == 1 for g in groups)
    assert [len(g) for g in groups] == sorted((len(g) for g in groups), reverse=True)
    for element in range(10):  # as few groups as the sample that shows it most often needs
        assert sum(g[0][1] == element for g in groups) == max(s.count(element) for s in samples)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=7))
def test_the_medoid_is_nearest_to_the_others(numbers: list[int]) -> None:
    best, distance = medoid(numbers, lambda a, b: abs(a - b))
    sums = [sum(abs(a - b) for b in numbers) for a in numbers]
    assert sums[best] == min(sums) and distance == pytest.approx(min(sums) / max(1, len(numbers) - 1))


def test_the_mean_direction_keeps_the_length() -> None:
    vectors = np.random.default_rng(0).normal(size=(1, 8, 3, 3))
    np.testing.assert_allclose(mean_direction(np.concatenate([vectors, 3 * vectors])), 2 * vectors[0], rtol=1e-5)
    assert not mean_direction(np.concatenate([vectors, -vectors])).any()
