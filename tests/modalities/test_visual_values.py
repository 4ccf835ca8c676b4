"""Values of the visual modalities: files, checks, normalisations, views and scores."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.depth import Depth
from open4m.modalities.edges import CannyEdge, SamEdge
from open4m.modalities.features import Clip, Dinov2, Dinov2Global, ImageBindGlobal
from open4m.modalities.normal import Normal, unit
from open4m.modalities.pictures import png_bytes
from open4m.modalities.registry import get_modality
from open4m.modalities.semseg import Semseg
from open4m.modalities.view import View

depth, normal, semseg, edge = Depth(), Normal(), Semseg(), CannyEdge()
shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12)


def refuses(modality: Any, value: Any, reason: str) -> None:
    with pytest.raises(ModalityError, match=reason) as caught:
        modality.validate(value, "input")
    assert caught.value.modality == modality.name


def example_depth(seed: int = 0, shape: tuple[int, int] = (30, 20)) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.5, 9, shape).astype(np.float32)


# -- depth ---------------------------------------------------------------------------------------------------------
@given(hnp.arrays(np.uint16, shapes))
def test_depth_files_hold_millimetres(stored: np.ndarray) -> None:
    value = depth.decode(png_bytes(stored), "x")
    assert value.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(value), stored == 0)
    np.testing.assert_allclose(np.nan_to_num(value) * 1000, stored, atol=0.01)
    if stored.any():
        np.testing.assert_array_equal(depth.decode(depth.encode(value), "x"), value)


def test_depth_saturates_in_files() -> None:
    value = np.array([[0.0001, 5.0, 1000.0, np.nan]], np.float32)
    np.testing.assert_allclose(depth.decode(depth.encode(value), "x"), [[0.001, 5, 65.535, np.nan]], rtol=1e-6)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (-example_depth(), "smallest depth"),
        (np.zeros((4, 4), np.float32), "smallest depth"),
        (np.full((4, 4), 2.0, np.float32), "same depth"),
        (np.full((4, 4), np.nan, np.float32), "no pixel"),
        (np.array([[1, np.inf]], np.float32), "infinite"),
        (np.ones((4, 4), np.uint16), "uint16.*array / 1000"),
        (example_depth() * 1000, r"looks like millimetres: give array / 1000"),
        (example_depth()[None], r"\(1, 30, 20\)"),
        ([[1.0, 2.0]], "found list"),
        (depth.to_array(example_depth())[0], "standardised"),
    ],
)
def test_depth_refuses(value: Any, reason: str) -> None:
    refuses(depth, value, reason)


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_depth_refuses_shallow_files(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4)).save(buffer, format="PNG")
    with pytest.raises(ModalityError, match="16-bit"):
        depth.decode(buffer.getvalue(), "x")


@given(st.integers(0, 1000), shapes.filter(lambda s: s[0] * s[1] >= 20))
def test_depth_standardisation_is_the_published_one(seed: int, shape: tuple[int, int]) -> None:
    stored = np.random.default_rng(seed).integers(1, 65536, shape).astype(np.uint16)
    image = torch.from_numpy(stored.astype(np.float32)) / 65535
    core = torch.sort(image.flatten()).values[int(0.1 * image.numel()) : int(0.9 * image.numel())]
    expected = (image - core.mean()) / torch.sqrt(core.var() + 1e-6)
    standard = depth.to_array(depth.decode(png_bytes(stored), "x"))
    assert standard.dtype == np.float32
    np.testing.assert_allclose(standard[0], expected.numpy(), atol=2e-4)


def test_depth_standardisation_ignores_unknown_pixels() -> None:
    value = example_depth()
    padded = np.concatenate([value, np.full_like(value, np.nan)])
    standard = depth.to_array(padded)
    np.testing.assert_array_equal(standard[0, :30], depth.to_array(value)[0])
    assert not standard[0, 30:].any()
    assert not depth.to_array(np.full((3, 3), np.nan, np.float32)).any()


def test_predicted_depth_is_a_valid_value_and_standardises_back() -> None:
    value = example_depth()
    relative = depth.from_array(depth.to_array(value))
    depth.validate(relative, "prediction")
    assert relative.min() == 1
    np.testing.assert_allclose(depth.to_array(relative), depth.to_array(value), atol=0.02)
    assert np.corrcoef(relative.ravel(), value.ravel())[0, 1] > 0.999999


def test_a_poor_prediction_can_still_be_saved() -> None:
    flat = depth.from_array(np.zeros((1, 4, 4), np.float32))
    np.testing.assert_array_equal(depth.decode(depth.encode(flat), "x"), np.ones((4, 4)))
    faint = np.array([[0, 1]], np.uint8)
    np.testing.assert_array_equal(edge.decode(edge.encode(faint), "x"), faint)


def test_depth_views_invent_no_depths_and_are_unknown_outside() -> None:
    value = example_depth()
    value[3, 3] = np.nan
    seen = depth.apply(value, View(-4, 2, 30, 15, True, (17, 23), value.shape))
    assert seen.shape == (17, 23)
    assert np.isnan(seen[0]).all()
    assert set(seen[np.isfinite(seen)]) <= set(value[np.isfinite(value)])


def test_depth_scores() -> None:
    truth = example_depth()
    perfect = depth.score([truth, 3 * truth + 2], [truth, truth])
    assert perfect["l1"] < 0.01
    assert perfect["abs_rel"] < 1e-5
    assert perfect["delta1"] == 1
    flat = depth.score([np.full_like(truth, 4.0)], [truth])
    assert flat["l1"] == pytest.approx(np.abs(depth.to_array(truth)).mean(), rel=1e-5)
    assert flat["abs_rel"] == pytest.approx((np.abs(truth - truth.mean()) / truth).mean(), rel=1e-4)
    ratio = np.maximum(truth / truth.mean(), truth.mean() / truth)
    assert flat["delta1"] == pytest.approx((ratio < 1.25).mean())
    hidden = truth.copy()
    hidden[:15] = np.nan
    assert depth.score([np.where(np.isnan(hidden), 100, hidden)], [hidden])["l1"] == 0


# -- normals -------------------------------------------------------------------------------------------------------
def example_normals(seed: int = 0, shape: tuple[int, int] = (12, 10)) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(*shape, 3)))


@given(st.integers(0, 10_000), shapes)
def test_normal_files_keep_directions(seed: int, shape: tuple[int, int]) -> None:
    value = example_normals(seed, shape)
    value[0, 0] = 0
    seen = normal.decode(normal.encode(value), "x")
    assert not seen[0, 0].any()
    angles = np.degrees(np.arccos(np.clip((seen * value).sum(-1), -1, 1))).ravel()[1:]
    assert angles.max() < 0.6
    np.testing.assert_allclose(np.linalg.norm(seen, axis=-1).ravel()[1:], 1, atol=1e-5)


def test_normal_files_follow_the_published_code() -> None:
    value = np.array([[[1, 0, 0], [0, 0, -1]]], np.float32)
    stored = np.asarray(Image.open(io.BytesIO(normal.encode(value))))
    np.testing.assert_array_equal(stored, [[[255, 128, 128], [128, 128, 0]]])


def test_normal_files_of_longer_vectors_keep_their_directions() -> None:
    value = np.full((2, 2, 3), [1.1, 0.2, -0.1], np.float32)
    np.testing.assert_allclose(normal.decode(normal.encode(value), "x"), unit(value), atol=0.01)


def test_black_padding_in_normal_files_is_no_surface() -> None:
    stored = np.full((8, 8, 3), (128, 128, 255), np.uint8)
    stored[:6] = 0
    seen = normal.decode(png_bytes(stored), "x")
    assert not seen[:6].any()
    np.testing.assert_allclose(seen[6:, :, 2], 1, atol=1e-4)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (example_normals() / 2 + 0.5, r"unit length.*2 \* array - 1"),
        (np.full((4, 4, 3), [0.6, 0.45, 0.95], np.float32) * [[[1]], [[1]], [[1.2]], [[0.8]]], r"2 \* array - 1"),
        (example_normals() * 2, "unit length"),
        (example_normals() * 127, "unit length"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN"),
        (example_normals().astype(np.uint8), "uint8.*127.5"),
        (example_normals().transpose(2, 0, 1), r"\(3, 12, 10\)"),
    ],
)
def test_normals_refuse(value: Any, reason: str) -> None:
    refuses(normal, value, reason)


def test_a_photograph_is_no_normal_map() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    with pytest.raises(ModalityError, match=r"photo\.png.*unit length"):
        normal.decode(png_bytes(photo), "photo.png")


def test_normal_arrays_round_trip() -> None:
    value = example_normals()
    array = normal.to_array(value)
    assert array.shape == (3, 12, 10)
    np.testing.assert_allclose(normal.from_array(array * 0.3), value, atol=1e-6)


def test_flipped_normals_are_mirrored() -> None:
    value = example_normals()
    seen = normal.apply(value, View(0, 0, 12, 10, True, (12, 10), (12, 10)))
    np.testing.assert_allclose(seen, value[:, ::-1] * [-1, 1, 1], atol=1e-6)


def test_resized_normals_are_of_unit_length() -> None:
    seen = normal.apply(example_normals(), View(0, 0, 12, 12, False, (7, 9), (12, 10)))
    length = np.linalg.norm(seen, axis=-1)
    np.testing.assert_allclose(length[length > 0], 1, atol=1e-5)


def test_normal_scores() -> None:
    truth = np.zeros((2, 4, 3), np.float32)
    truth[..., 2] = 1
    truth[1] = 0  # no surface: not counted
    turned = truth.copy()
    for column, degrees in enumerate((0, 10, 30, 60)):
        turned[0, column] = [np.sin(np.radians(degrees)), 0, np.cos(np.radians(degrees))]
    scores = normal.score([turned * 5], [truth])  # lengths do not matter
    assert scores["mean_angle"] == pytest.approx(25, abs=0.01)
    assert scores["median_angle"] == pytest.approx(20, abs=0.01)
    assert scores["within_11.25"] == 0.5
    assert normal.score([np.zeros_like(truth)], [truth])["mean_angle"] == pytest.approx(90)


# -- class maps ----------------------------------------------------------------------------------------------------
@given(hnp.arrays(np.uint8, shapes, elements=st.integers(0, 133)))
def test_semseg_files_round_trip(value: np.ndarray) -> None:
    data = semseg.encode(value)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(stored, np.where(value == 0, 255, value.astype(int) - 1))
    np.testing.assert_array_equal(semseg.decode(data, "x"), value)


def test_semseg_refuses() -> None:
    refuses(semseg, np.full((2, 2), 134, np.uint8), "134.*official COCO")
    refuses(semseg, np.array([[3, 255]], np.uint8), "255, expected 0…133.*array == 255")
    refuses(semseg, np.zeros((2, 2), np.int64), "int64.*astype")
    refuses(semseg, np.zeros((2, 2, 3), np.uint8), r"\(2, 2, 3\).*colours are not class ids")
    with pytest.raises(ModalityError, match="133, 200"):
        semseg.decode(png_bytes(np.array([[0, 133, 200, 255]], np.uint8)), "x")
    with pytest.raises(ModalityError, match="coloured"):
        semseg.decode(png_bytes(semseg_picture()), "x")


def semseg_picture() -> np.ndarray:
    return np.asarray(semseg.draw(np.array([[1, 2], [3, 0]], np.uint8), 8))


def test_semseg_logits_become_classes() -> None:
    value = np.random.default_rng(0).integers(0, 134, (5, 6)).astype(np.uint8)
    array = semseg.to_array(value)
    assert array.dtype == np.int64
    logits = np.eye(134, dtype=np.float32)[array].transpose(2, 0, 1)
    np.testing.assert_array_equal(semseg.from_array(logits), value)


def test_semseg_views_invent_no_classes() -> None:
    value = np.array([[10, 20], [10, 20]], np.uint8)
    seen = semseg.apply(value, View(-1, 0, 3, 2, True, (33, 22), (2, 2)))
    assert set(np.unique(seen)) == {0, 10, 20}
    assert not seen[:11].any()
    assert (seen[11:, :11] == 20).all()


def test_semseg_scores_accumulate_over_the_list() -> None:
    truths = [np.array([[1, 1, 2, 0]], np.uint8), np.array([[1, 2, 2, 2]], np.uint8)]
    predictions = [np.array([[1, 2, 2, 5]], np.uint8), np.array([[1, 2, 7, 2]], np.uint8)]
    # class 1: 2 hits, union 3; class 2: 3 hits, union 5; the pixel without a true class is not counted
    scores = semseg.score(predictions, truths)
    assert scores["miou"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(5 / 7)
    assert semseg.score(truths, truths) == {"miou": 1, "pixel_accuracy": 1}


# -- edges ---------------------------------------------------------------------------------------------------------
@given(hnp.arrays(np.uint8, shapes))
def test_edges_round_trip(value: np.ndarray) -> None:
    np.testing.assert_array_equal(edge.decode(edge.encode(value), "x"), value)
    array = edge.to_array(value)
    assert array.shape == (1, *value.shape)
    assert np.abs(array).max() <= 1
    np.testing.assert_array_equal(edge.from_array(array), value)


def test_edges_refuse() -> None:
    refuses(edge, np.eye(4, dtype=np.uint8), "255")
    refuses(edge, np.eye(4, dtype=np.float32), "float32")
    photo = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    with pytest.raises(ModalityError, match="coloured"):
        edge.decode(png_bytes(photo), "x")
    grey = np.repeat(photo[..., :1], 3, axis=2)
    np.testing.assert_array_equal(edge.decode(png_bytes(grey), "x"), grey[..., 0])


def test_edge_scores_forgive_one_pixel() -> None:
    truth = np.zeros((9, 9), np.uint8)
    truth[4] = 255
    assert edge.score([truth], [truth]) == {"f1": 1, "l1": 0}
    assert edge.score([np.roll(truth, 1, axis=0)], [truth])["f1"] == 1
    assert edge.score([np.roll(truth, 2, axis=0)], [truth])["f1"] == 0
    assert edge.score([np.zeros_like(truth)], [truth])["f1"] == 0
    assert edge.score([np.zeros_like(truth)], [np.zeros_like(truth)])["f1"] == 1
    both = truth.copy()
    both[8] = 255
    scores = SamEdge().score([both], [truth])  # precision 1/2, recall 1
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["l1"] == pytest.approx(1 / 9)


# -- features ------------------------------------------------------------------------------------------------------
@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_feature_files_round_trip_in_half_precision(seed: int, channels: int, rows: int, cols: int) -> None:
    value = np.random.default_rng(seed).normal(size=(channels, rows, cols)).astype(np.float32)
    seen = Clip().decode(Clip().encode(value), "x")
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, value.astype(np.float16))


def test_features_refuse() -> None:
    refuses(Clip(), np.zeros((4, 2, 2), np.float32), "zero")
    refuses(Clip(), np.ones((4, 2), np.float32), r"\(C, h, w\)")
    refuses(Dinov2Global(), np.ones((4, 1), np.float32), r"\(C\)")
    refuses(Dinov2Global(), np.array([1, np.nan]), "NaN")
    refuses(Dinov2(), np.ones((4, 2, 2), np.int64), "int64")
    with pytest.raises(ModalityError, match="float16"):
        Clip().encode(np.full((1, 2, 2), 1e6, np.float32))
    archive, objects = io.BytesIO(), io.BytesIO()
    np.savez(archive, np.ones(3))
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    for data in (b"", b"text", archive.getvalue(), objects.getvalue(), Clip().encode(np.ones((4, 2, 2)))[:-3]):
        with pytest.raises(ModalityError, match=r"readable \.npy"):
            Clip().decode(data, "x")


def test_feature_maps_are_cropped_on_their_own_grid() -> None:
    value = np.arange(2 * 4 * 4, dtype=np.float32).reshape(2, 4, 4)
    whole = Clip().apply(value, View(0, 0, 64, 64, True, (32, 32), (64, 64)))
    np.testing.assert_array_equal(whole, value[:, :, ::-1])
    half = Clip().apply(value, View(0, 0, 64, 32, False, (32, 32), (64, 64)))
    assert half.shape == value.shape
    assert half.max() <= value[:, :, :2].max()
    vector = np.ones(3, np.float32)
    assert Dinov2Global().apply(vector, View(0, 0, 8, 8, True, (4, 4), (64, 64))) is vector


def test_features_keep_their_numbers_in_arrays() -> None:
    grid, vector = np.ones((5, 2, 3), np.float32), np.arange(4, dtype=np.float32)
    np.testing.assert_array_equal(Clip().from_array(Clip().to_array(grid)), grid)
    assert ImageBindGlobal().to_array(vector).shape == (4, 1, 1)
    np.testing.assert_array_equal(ImageBindGlobal().from_array(ImageBindGlobal().to_array(vector)), vector)


def test_feature_scores() -> None:
    value = np.random.default_rng(0).normal(size=(8, 3, 3)).astype(np.float32)
    assert Clip().score([2 * value], [value])["cosine"] == pytest.approx(1)
    assert Clip().score([-value], [value])["cosine"] == pytest.approx(-1)
    vector, other = np.array([1, 0], np.float32), np.array([1, 1], np.float32)
    assert Dinov2Global().score([vector], [other]) == pytest.approx({"cosine": 0.5**0.5, "l1": 0.5})


# -- all -----------------------------------------------------------------------------------------------------------
EXAMPLES: dict[str, np.ndarray] = {
    "rgb": np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8),
    "depth": example_depth(0, (12, 10)),
    "normal": example_normals(),
    "semseg": np.random.default_rng(0).integers(0, 134, (12, 10)).astype(np.uint8),
    "canny_edge": np.random.default_rng(0).choice([0, 255], (12, 10)).astype(np.uint8),
    "sam_edge": np.random.default_rng(1).choice([0, 255], (12, 10)).astype(np.uint8),
    "clip": np.random.default_rng(0).normal(size=(16, 4, 3)).astype(np.float32),
    "dinov2": np.random.default_rng(1).normal(size=(16, 4, 3)).astype(np.float32),
    "imagebind": np.random.default_rng(2).normal(size=(2, 4, 3)).astype(np.float32),
    "dinov2_global": np.random.default_rng(0).normal(size=37).astype(np.float32),
    "imagebind_global": np.random.default_rng(1).normal(size=64).astype(np.float32),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_modality_keeps_its_contract(name: str, tmp_path: Any) -> None:
    modality, value = get_modality(name), EXAMPLES[name]
    path = tmp_path / f"x.{modality.extensions[0]}"
    modality.write(value, path)
    again = modality.read(path)
    assert (again.shape, again.dtype) == (value.shape, value.dtype)
    np.testing.assert_allclose(again, value, atol=0.01)
    full = modality.apply(value, View.full((12, 10)))
    np.testing.assert_allclose(full, value, atol=1e-6)
    for view in (View.full((12, 10)), View(1, 2, 8, 8, True, (16, 16), (12, 10))):
        modality.validate(modality.apply(value, view), "seen")
    picture = modality.draw(value, 50)
    assert (picture.mode, picture.size) == ("RGB", (50, 50))
    assert len(picture.getcolors(2500) or []) > 1
    assert picture.tobytes() == modality.draw(value.copy(), 50, background=None).tobytes()
    scores = modality.score([again], [value])
    assert set(scores) == set(modality.card.metrics)
    best = {key: scores[key] for key, metric in modality.card.metrics.items() if metric.higher_is_better}
    assert all(score > 0.99 for score in best.values())
    with pytest.raises(ModalityError, match="0 predictions"):
        modality.score([], [])
    with pytest.raises(ModalityError, match="shape"):
        modality.score([value[:-1]], [value])
