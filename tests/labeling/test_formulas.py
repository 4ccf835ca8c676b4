"""Labels by formula: palettes, edges, metadata."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from open4m.labeling.edges import canny_edges, sam_edges
from open4m.labeling.metadata import measure_metadata
from open4m.labeling.palette import extract_palettes
from open4m.modalities.coco import panoptic_value
from open4m.modalities.det import Box


def picture(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


# -- palettes -----------------------------------------------------------------------------------------------------
def test_palette_of_flat_areas_is_their_colours_by_share() -> None:
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[:, :50], rgb[:, 50:80], rgb[:, 80:] = (200, 30, 40), (20, 180, 60), (10, 20, 220)
    palette = extract_palettes(rgb)[2]
    assert np.abs(palette.astype(int) - [(200, 30, 40), (20, 180, 60), (10, 20, 220)]).max() <= 1


@given(arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30), st.just(3))))
def test_palettes_have_their_sizes_and_are_deterministic(rgb: np.ndarray) -> None:
    palettes = extract_palettes(rgb)
    assert [p.shape for p in palettes] == [(k, 3) for k in range(1, 8)]
    assert all(p.dtype == np.uint8 for p in palettes)
    assert all(np.array_equal(a, b) for a, b in zip(palettes, extract_palettes(rgb.copy()), strict=True))


def test_more_colours_describe_the_picture_better() -> None:
    rgb = picture()

    def error(palette: np.ndarray) -> float:
        return float(np.linalg.norm(rgb.reshape(-1, 1, 3).astype(float) - palette, axis=-1).min(axis=1).mean())

    errors = [error(p) for p in extract_palettes(rgb)]
    assert errors[6] < 0.6 * errors[0]


# -- edges ----------------------------------------------------------------------------------------------------------
def test_instance_borders_are_exact() -> None:
    ids = np.zeros((8, 8), int)
    ids[2:5, 3:6] = 7
    expected = np.zeros((8, 8), bool)
    expected[2:5, 2] = expected[2:5, 5] = expected[1, 3:6] = expected[4, 3:6] = True
    assert np.array_equal(sam_edges(ids) > 0, expected)
    assert set(np.unique(sam_edges(ids))) == {0, 255}


def test_canny_finds_the_step_and_nothing_else() -> None:
    image = np.full((40, 40, 3), 50, np.uint8)
    image[:, 20:] = 200
    edges = canny_edges(image)
    assert edges.dtype == np.uint8 and set(np.unique(edges)) == {0, 255}
    rows, cols = np.nonzero(edges)
    assert set(cols) <= {19, 20} and len(set(rows)) >= 36
    assert np.array_equal(canny_edges(image[..., 0]), edges)
    assert not canny_edges(np.full((40, 40, 3), 90, np.uint8)).any()


# -- metadata -------------------------------------------------------------------------------------------------------
def test_appearance_of_known_pictures() -> None:
    black = measure_metadata(np.zeros((10, 10, 3), np.uint8))
    for name in ("colorfulness", "brightness", "contrast", "saturation", "entropy"):
        assert black[name] == pytest.approx(0.0), name
    assert black["aesthetic_score"] == pytest.approx(2.0)
    halves = np.zeros((10, 10, 3), np.uint8)
    halves[:5] = 255
    fields = measure_metadata(halves)
    assert fields["brightness"] == pytest.approx(127.5, abs=1e-3)
    assert fields["contrast"] == pytest.approx(127.5, abs=1e-3)
    assert fields["entropy"] == pytest.approx(1.0)
    assert fields["colorfulness"] == pytest.approx(0.0, abs=1e-3)
    red = measure_metadata(np.broadcast_to(np.array([255, 0, 0], np.uint8), (4, 4, 3)))
    assert red["saturation"] == pytest.approx(255)
    assert red["colorfulness"] == pytest.approx(0.3 * np.hypot(255, 127.5))


def test_inputs_that_are_missing_leave_their_fields_out() -> None:
    assert set(measure_metadata(picture())) == {
        "colorfulness", "brightness", "contrast", "saturation", "entropy", "watermark_score", "aesthetic_score",
    }  # fmt: skip


def test_labels_are_counted() -> None:
    semseg = np.full((20, 20), panoptic_value("road"), np.uint8)
    semseg[:5] = panoptic_value("sky-other-merged")
    semseg[10:15, :10] = panoptic_value("car")
    semseg[0, 0] = 0
    instances = np.zeros((20, 20), int)
    instances[10:15, :10] = 3
    depth = np.full((20, 20), 10.0, np.float32)
    depth[10:15, :10] = 5.0
    normal = np.zeros((20, 20, 3), np.float32)
    normal[:10, :, 1], normal[10:, :, 2] = 1.0, 1.0
    fields = measure_metadata(
        picture(size=20),
        original_size=(480, 640),
        captions=["A car on a road. It is red!", "other"],
        semseg=semseg,
        depth=depth,
        normal=normal,
        instance_map=instances,
        boxes=[Box(0, 0.5, 0.5, 0.75, "car"), Box(0, 0, 1, 1, "person"), Box(0, 0, 1, 1, "person")],
    )
    assert len(fields) == 21
    assert (fields["original_height"], fields["original_width"]) == (480, 640)
    assert (fields["caption_n_chars"], fields["caption_n_words"], fields["caption_n_sentences"]) == (27, 8, 2)
    assert (fields["n_humans"], fields["n_coco_instances"], fields["coco_instance_diversity"]) == (2, 3, 2)
    assert (fields["n_sam_instances"], fields["semantic_diversity"]) == (1, 3)
    assert fields["walkability"] == pytest.approx((400 - 100 - 50) / 400)
    assert fields["objectness"] == pytest.approx(50 / 400)
    assert fields["geometric_complexity"] == pytest.approx(1 - np.sqrt(0.5))
    assert fields["occlusion_score"] == pytest.approx((10 + 10 + 5) / 400)  # top, bottom and right border


def test_pixels_without_a_surface_do_not_make_geometry_complex() -> None:
    normal = np.zeros((20, 20, 3), np.float32)
    assert "geometric_complexity" not in measure_metadata(picture(size=20), normal=normal)
    normal[:5, :, 2] = 1.0
    assert measure_metadata(picture(size=20), normal=normal)["geometric_complexity"] == pytest.approx(0.0)


def test_borders_without_a_depth_jump_or_with_invalid_depth_are_no_occlusion() -> None:
    instances = np.zeros((20, 20), int)
    instances[5:10, 5:10] = 1
    flat = np.full((20, 20), 3.0, np.float32)
    flat[5:10, 5:10] = 3.05
    invalid = np.where(instances == 1, np.nan, flat)
    for depth in (flat, invalid):
        fields = measure_metadata(picture(size=20), instance_map=instances, depth=depth)
        assert fields["occlusion_score"] == 0.0
