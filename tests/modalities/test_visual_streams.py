"""The streams of the visual modalities carry the published names, vocabularies, grids and positions."""

from __future__ import annotations

import json

import pytest

from open4m.errors import UnknownNameError
from open4m.modalities.coco import (
    COLOURS,
    PANOPTIC_CLASSES,
    THING_CLASSES,
    panoptic_colours,
    panoptic_name,
    panoptic_value,
)
from open4m.modalities.registry import get_modality
from open4m.streams import Position, StreamKind, StreamSpec
from tests.reference import golden

VISUAL = (
    "rgb",
    "depth",
    "normal",
    "semseg",
    "canny_edge",
    "sam_edge",
    "clip",
    "dinov2",
    "imagebind",
    "dinov2_global",
    "imagebind_global",
)
SUPER_RESOLUTION = ("rgb", "depth", "normal", "semseg", "clip")


def streams(names: tuple[str, ...], image_size: int, patch_size: int) -> dict[str, StreamSpec]:
    return {s.name: s for name in names for s in get_modality(name).streams(image_size, patch_size)}


@pytest.fixture(scope="module")
def published() -> dict[str, dict]:
    entries = json.loads((golden("published_layouts") / "modalities.json").read_text())
    return {n: e for n, e in entries.items() if n.startswith("tok_") or n.startswith("rgb@")}


def test_exactly_the_published_streams_exist(published: dict[str, dict]) -> None:
    ours = streams(VISUAL, 224, 16) | streams(SUPER_RESOLUTION, 448, 16)
    assert set(ours) == set(published)


def test_streams_equal_the_published_registry(published: dict[str, dict]) -> None:
    ours = streams(VISUAL, 224, 16) | streams(SUPER_RESOLUTION, 448, 16)
    for name, entry in published.items():
        stream = ours[name]
        assert stream.published_id == entry["id"], name
        assert stream.max_tokens == (entry["max_tokens"] or entry["grid"] ** 2), name
        assert stream.vocab_size == entry.get("vocab_size", 0), name
        assert stream.is_target == (entry["decoder_embedding"] is not None), name
        assert stream.is_input
        if name.endswith("_global"):
            assert (stream.position, stream.grid) == (Position.LEARNED, None)
            assert entry["encoder_embedding"]["sincos_pos_emb"] is False
        else:
            assert (stream.position, stream.grid) == (Position.SINCOS_2D, (entry["grid"],) * 2), name
        if stream.kind == StreamKind.PIXELS:
            assert (stream.patch_size, stream.channels) == (entry["patch_size"], entry["num_channels"])


def test_channels_equal_the_published_tokenizer_inputs() -> None:
    entries = json.loads((golden("published_layouts") / "modalities.json").read_text())
    helpers = {
        "rgb": "rgb",
        "depth": "depth",
        "normal": "normal",
        "semseg": "semseg_coco",
        "clip": "CLIP-B16",
        "dinov2": "DINOv2-B14",
        "imagebind": "ImageBind-H14",
        "dinov2_global": "DINOv2-B14-global",
        "imagebind_global": "ImageBind-H14-global",
        "canny_edge": "canny_edge",
    }
    for name, helper in helpers.items():
        assert get_modality(name).channels == entries[helper]["num_channels"], name  # type: ignore[attr-defined]
    assert entries["semseg_coco"]["num_labels"] == len(PANOPTIC_CLASSES) + 1


def test_streams_scale_to_small_pictures() -> None:
    small = streams(VISUAL, 112, 8)
    for name in ("rgb@112", "tok_rgb@112", "tok_depth@112", "tok_semseg@112", "tok_sam_edge@112", "tok_clip@112"):
        assert (small[name].grid, small[name].max_tokens) == ((14, 14), 196)
    assert small["tok_dinov2@112"].grid == small["tok_imagebind@112"].grid == (16, 16)
    assert small["tok_dinov2_global"] == streams(VISUAL, 224, 16)["tok_dinov2_global"]
    assert small["rgb@112"].patch_size == 8


def test_coco_classes() -> None:
    assert len(THING_CLASSES) == 80
    assert len(PANOPTIC_CLASSES) == len(set(PANOPTIC_CLASSES)) == len(set(COLOURS)) == 133
    assert PANOPTIC_CLASSES[:80] == THING_CLASSES
    assert [panoptic_value(n) for n in ("person", "toothbrush", "banner", "rug-merged")] == [1, 80, 81, 133]
    assert COLOURS[0] == (220, 20, 60)
    assert tuple(panoptic_colours()[133]) == (250, 141, 255)
    assert all(panoptic_name(panoptic_value(n)) == n for n in PANOPTIC_CLASSES)
    assert panoptic_name(0) == "none"
    with pytest.raises(UnknownNameError, match="wall-brick"):
        panoptic_value("brick-wall")
