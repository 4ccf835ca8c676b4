"""Metadata of a picture: the 21 numbers of the published ``metadata`` modality, measured by stated formulas.

The published system names the fields (4M-21, Sec. 3.1; App. B) but gives no formulas. Those below work on any
picture, given its labels, and use the value ranges of the published bins (see ``modalities/metadata.py``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from open4m.labeling.edges import luminance
from open4m.modalities.coco import THING_CLASSES, panoptic_value
from open4m.modalities.det import Box

WALKABLE_CLASSES = (
    "dirt-merged", "floor-other-merged", "floor-wood", "grass-merged", "gravel", "pavement-merged", "platform",
    "playingfield", "road", "rug-merged", "sand", "snow", "stairs",
)  # fmt: skip
"""COCO-panoptic stuff that one can walk on."""

_WALKABLE_VALUES = np.array([panoptic_value(name) for name in WALKABLE_CLASSES])
_GEOMETRY_SIDE = 112
_DEPTH_JUMP = 0.05


def measure_metadata(
    rgb: np.ndarray,
    *,
    original_size: tuple[int, int] | None = None,
    captions: Sequence[str] | None = None,
    semseg: np.ndarray | None = None,
    depth: np.ndarray | None = None,
    normal: np.ndarray | None = None,
    instance_map: np.ndarray | None = None,
    boxes: Sequence[Box] | None = None,
    n_humans: int | None = None,
) -> dict[str, float]:
    """Metadata fields in natural units; a field whose inputs are None is left out.

    Args:
        rgb: (H, W, 3) uint8.
        original_size: (rows, columns) in pixels of the picture as it was taken.
        captions: the first one is measured (the published captions are one per picture).
        semseg: (H, W) class values, 0 = none, 1…80 things, 81…133 stuff.
        depth: (H, W) metres, NaN = invalid.
        normal: (H, W, 3) unit vectors, zero = no surface.
        instance_map: (H, W) integer ids, 0 = no instance.
        boxes: detections.
        n_humans: number of people; None = counted among ``boxes``.

    Fields: colourfulness of Hasler and Süsstrunk (2003); brightness and contrast = mean and standard deviation of
    luminance (0…255); saturation = mean HSV saturation · 255; entropy of luminance in bits; walkability, objectness
    = share of pixels on walkable stuff, on things; semantic diversity = number of classes; geometric complexity
    = 1 − length of the mean normal of the surfaces (0 for one plane); occlusion score: see :func:`_occlusion`;
    aesthetic score: see :func:`_aesthetic`. Nothing here detects watermarks: ``watermark_score`` is 0, "none found".
    """
    fields: dict[str, float] = _appearance(rgb)
    if original_size is not None:
        fields |= {"original_height": original_size[0], "original_width": original_size[1]}
    if captions:
        fields |= _text_counts(captions[0])
    if boxes is not None:
        names = [box.class_name for box in boxes]
        n_humans = names.count("person") if n_humans is None else n_humans
        fields |= {"n_coco_instances": len(names), "coco_instance_diversity": len(set(names))}
    if n_humans is not None:
        fields["n_humans"] = n_humans
    if semseg is not None:
        fields |= _semantics(semseg)
    if normal is not None:
        surfaces = normal[np.any(normal != 0, axis=-1)]
        if len(surfaces):
            fields["geometric_complexity"] = float(1.0 - np.linalg.norm(surfaces.mean(axis=0, dtype=np.float64)))
    if instance_map is not None:
        ids = np.unique(instance_map)
        fields["n_sam_instances"] = int(np.count_nonzero(ids))
        if depth is not None:
            fields["occlusion_score"] = _occlusion(instance_map, depth)
    return fields


def _appearance(rgb: np.ndarray) -> dict[str, float]:
    pixels = rgb.astype(np.float32)
    red_green = pixels[..., 0] - pixels[..., 1]
    yellow_blue = (pixels[..., 0] + pixels[..., 1]) / 2 - pixels[..., 2]
    spread = np.hypot(red_green.std(), yellow_blue.std())
    offset = np.hypot(red_green.mean(), yellow_blue.mean())

    grey = luminance(rgb)
    histogram = np.bincount(grey.round().astype(np.uint8).ravel(), minlength=256)
    shares = histogram[histogram > 0] / grey.size
    brightest, darkest = pixels.max(axis=-1), pixels.min(axis=-1)
    fields = {
        "colorfulness": float(spread + 0.3 * offset),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "saturation": float(((brightest - darkest) / np.maximum(brightest, 1.0)).mean() * 255),
        "entropy": float(-(shares * np.log2(shares)).sum()),
        "watermark_score": 0.0,
    }
    return fields | {"aesthetic_score": _aesthetic(fields)}


def _aesthetic(fields: dict[str, float]) -> float:
    """A stand-in, 2…7, for the published learned predictor: 2 + 5 × the mean of four terms in [0, 1].

    Lively colour (colourfulness / 60), full contrast (contrast / 64), richness (entropy / 8 bits), and exposure
    (1 at mid-grey, 0 at black and white). It says how vivid and well exposed a picture is, not whether it is art.
    The scale makes the published thresholds (4.5 and 5.5) fall among ordinary photographs.
    """
    exposure = 1.0 - abs(fields["brightness"] - 127.5) / 127.5
    terms = (fields["colorfulness"] / 60, fields["contrast"] / 64, fields["entropy"] / 8, exposure)
    return float(2 + 5 * np.mean([min(term, 1.0) for term in terms]))


def _text_counts(caption: str) -> dict[str, float]:
    """Characters, words (separated by white space) and sentences (runs of text up to ``.``, ``!`` or ``?``)."""
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)", caption) if part.strip()]
    return {
        "caption_n_chars": len(caption),
        "caption_n_words": len(caption.split()),
        "caption_n_sentences": len(sentences),
    }


def _semantics(semseg: np.ndarray) -> dict[str, float]:
    counts = np.bincount(semseg.ravel(), minlength=256)
    return {
        "walkability": float(counts[_WALKABLE_VALUES].sum() / semseg.size),
        "objectness": float(counts[1 : 1 + len(THING_CLASSES)].sum() / semseg.size),
        "semantic_diversity": int(np.count_nonzero(counts[1:])),
    }


def _occlusion(instance_map: np.ndarray, depth: np.ndarray) -> float:
    """Occluding contours: instance borders with a depth jump of more than 5 %, per pixel.

    Counts neighbouring pixels (right, below) with different ids, divided by the number of pixels. Larger maps are
    subsampled to a shorter side of 112 px first, as the share of border pixels depends on the resolution.
    """
    step = max(1, min(instance_map.shape) // _GEOMETRY_SIDE)
    ids, depth = instance_map[::step, ::step], depth[::step, ::step]

    def jumps(id_a: np.ndarray, id_b: np.ndarray, depth_a: np.ndarray, depth_b: np.ndarray) -> int:
        far = np.abs(depth_a - depth_b) > _DEPTH_JUMP * np.minimum(depth_a, depth_b)  # False where NaN
        return int(np.count_nonzero((id_a != id_b) & far))

    across = jumps(ids[:, :-1], ids[:, 1:], depth[:, :-1], depth[:, 1:])
    down = jumps(ids[:-1], ids[1:], depth[:-1], depth[1:])
    return (across + down) / ids.size
