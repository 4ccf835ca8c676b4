"""SAM instances: class-less object masks (4M-21, Sec. 3.1; spec: modalities §3.2, §4.5, §5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.checks import require_array, require_finite, require_paired, require_rows
from open4m.modalities.drawing import GROUND, distinct_colours, fit_square
from open4m.modalities.grammar import (
    CODES,
    Numbers,
    Terms,
    code_word,
    next_corner,
    number_word,
    parse_code,
    parse_number,
)
from open4m.modalities.merging import ABSENCE, Merged, absence, matched
from open4m.modalities.polygons import clip_to_unit_square, contains, outline, rasterise
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View

MASK_SIZE = 64
MASK_CODES = 16
"""Ids of the mask tokenizer per instance, a 4 × 4 grid."""

CROP = 224
"""The words' coordinates are pixels of a crop of this size, whatever the real one is."""

QUERY_POINTS = 7
_WORDS_PER_INSTANCE = 1 + 4 + MASK_CODES
_WORDS_PER_EMPTY_POINT = 4
_SMALLEST_AREA = 0.0005  # share of the crop; smaller boxes are dropped (published)
_LEAST_CONTRAST = 0.9
_SAME_DICE, _SAME_IOU = 0.8, 0.9
_SCORING_SIZE, _SCORED_IOU = 112, 0.5

SHOWN_SCORE = 0.15
"""Less certain instances are neither drawn nor given to a model: few of many samples found them; most are wrong."""


@dataclass(frozen=True, eq=False)
class Instance:
    """One instance mask.

    Attributes:
        polygon: (K, 2) float, x y of the outline relative to the image in [0, 1].
        box: (4,) float, xmin ymin xmax ymax relative to the image in [0, 1].
        mask: (64, 64) float32 in [0, 1], the mask stretched to its own box; None until rasterised.
        mask_tokens: (16,) ids of the mask tokenizer (4×4 grid), or None when it has not been tokenized.
        score: confidence in (0, 1]; of merged samples the share that found it.
    """

    polygon: np.ndarray
    box: np.ndarray
    mask: np.ndarray | None = None
    mask_tokens: tuple[int, ...] | None = None
    score: float = 1.0

    @property
    def area(self) -> float:
        """Area of the box, as a share of the image."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))

    def box_mask(self) -> np.ndarray:
        """(64, 64) float32: ``mask``, or the polygon stretched to the box."""
        if self.mask is not None:
            return self.mask
        corner, extent = self.box[:2], np.maximum(self.box[2:] - self.box[:2], 1e-9)
        return rasterise((self.polygon - corner) / extent, MASK_SIZE).astype(np.float32)

    def image_mask(self, size: int) -> np.ndarray:
        """(size, size) bool: where the instance is in a square picture."""
        full = np.zeros((size, size), dtype=bool)
        xmin, ymin, xmax, ymax = np.rint(np.clip(self.box, 0, 1) * size).astype(int)
        if xmin < xmax and ymin < ymax:
            stretched = Image.fromarray(self.box_mask()).resize((int(xmax - xmin), int(ymax - ymin)), Resample.BICUBIC)
            full[ymin:ymax, xmin:xmax] = np.asarray(stretched) > 0.5
        return full


def merge_duplicates(instances: Sequence[Instance]) -> list[Instance]:
    """Decoded instances without faint masks, and with those that several query points found merged into one.

    Largest box first. Masks with a contrast below 0.9 are dropped. An instance joins the first group whose first
    member it equals (soft Dice > 0.8 and box IoU > 0.9); a group becomes the mean of its masks and boxes. The
    polygons, which are what files hold, become the outlines of the masks.
    """
    groups: list[list[Instance]] = []
    for instance in sorted(instances, key=lambda i: -i.area):
        mask = instance.box_mask()
        if mask.max() - mask.min() < _LEAST_CONTRAST:
            continue
        group = next((g for g in groups if _same(g[0], instance)), None)
        if group is None:
            groups.append([instance])
        else:
            group.append(instance)
    return [_outlined(_mean(group)) for group in groups]


def _same(a: Instance, b: Instance) -> bool:
    inner = np.clip(np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2]), 0, None).prod()
    if inner / max(a.area + b.area - inner, 1e-12) <= _SAME_IOU:  # boxes first: they cost little
        return False
    first, second = a.box_mask(), b.box_mask()
    return bool(2 * ((first * second).sum() + 0.01) / (first.sum() + second.sum() + 0.01) > _SAME_DICE)


def _mean(group: list[Instance]) -> Instance:
    if len(group) == 1:
        return group[0]
    box = np.mean([i.box for i in group], axis=0)
    mask = np.mean([i.box_mask() for i in group], axis=0).astype(np.float32)
    return Instance(_corners(box), box, mask)


def _outlined(instance: Instance) -> Instance:
    corner, extent = instance.box[:2], instance.box[2:] - instance.box[:2]
    return replace(instance, polygon=corner + extent * outline(instance.box_mask() > 0.5))


def _shrunk(mask: np.ndarray) -> np.ndarray:
    """A mask without the pixels at its border (that of the picture is none)."""
    padded = np.pad(mask, 1, mode="edge")
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _corners(box: np.ndarray) -> np.ndarray:
    """(4, 2) outline of a box."""
    return box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)


# -- words --------------------------------------------------------------------------------------------------------
def point_words(point: tuple[int, int], instances: Sequence[Instance]) -> list[str]:
    """``point v0=<y> v1=<x>`` and the instances there, or ``none``. The point is (y, x), the boxes are (x, y)."""
    words = ["point", number_word(0, point[1]), number_word(1, point[0])]
    for instance in instances:
        assert instance.mask_tokens is not None
        corners = np.rint(np.clip(instance.box, 0.0, 1.0) * CROP).astype(int)
        words += ["polygon", *(number_word(axis, int(corner)) for axis, corner in enumerate(corners))]
        words += map(code_word, instance.mask_tokens)
    return words if instances else [*words, "none"]


def _instance_from_words(words: list[str]) -> Instance | None:
    """The 20 words behind one ``polygon``; None if they are malformed."""
    corners = [parse_number(word) for word in words[:4]]
    codes = [parse_code(word) for word in words[4:]]
    tokens = tuple(code for code in codes if code is not None)
    if len(words) != 4 + MASK_CODES or len(tokens) != MASK_CODES:
        return None
    if [c[0] for c in corners if c is not None] != [0, 1, 2, 3]:
        return None
    box = np.clip(np.array([c[1] for c in corners if c is not None]) / CROP, 0.0, 1.0)
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    return Instance(_corners(box), box, mask_tokens=tokens)


def _inner_point(instance: Instance) -> tuple[int, int]:
    """(x, y) in pixels of the crop: the point of the mask that is nearest to its centre of mass."""
    rows, cols = np.nonzero(instance.box_mask() > 0.5)
    if not len(rows):
        rows, cols = np.array([MASK_SIZE // 2]), np.array([MASK_SIZE // 2])
    best = ((rows - rows.mean()) ** 2 + (cols - cols.mean()) ** 2).argmin()
    place = (np.array([cols[best], rows[best]]) + 0.5) / MASK_SIZE
    xy = instance.box[:2] + place * (instance.box[2:] - instance.box[:2])
    x, y = np.clip(xy * CROP, 0, CROP - 1).astype(int).tolist()
    return x, y


# -- the modality --------------------------------------------------------------------------------------------------
class SamInstance(TextModality[list[Instance]]):
    """Masks found by query points; grammar of spec modalities §4.5."""

    name = "sam_instance"
    card = Card(
        title="SAM instances",
        description="List of Instance: outline and box relative to the picture, a 64 × 64 mask stretched to the box. "
        "The model reads and writes the instances under a few query points.",
        metrics={"best_iou": Metric("", True), "recall": Metric("", True), "precision": Metric("", True)},
        source="SAM ViT-H (4M-21, Sec. 3.1)",
    )
    extensions = ("json",)
    value_is_list = True
    max_tokens = 290

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> list[Instance]:
        """JSON: list of ``{"polygon": [[x, y], …], "box": [xmin, ymin, xmax, ymax], "mask_tokens": [16 ids]}``.

        Coordinates are relative to the picture; ``mask_tokens`` may be missing. (The published files are pickled
        and are not read.)
        """
        try:
            instances = [_from_json(item) for item in json.loads(data)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModalityError(
                self.name,
                source,
                f"not a file of instances ({type(error).__name__}: {error}); expected "
                '[{"polygon": [[x, y], …], "box": [xmin, ymin, xmax, ymax]}, …].',
                "Write the instances in this form, with coordinates relative to the picture.",
            ) from error
        self.validate(instances, source)
        return instances

    def encode(self, value: list[Instance]) -> bytes:
        return json.dumps([_to_json(instance) for instance in value]).encode()

    def validate(self, value: list[Instance], source: str) -> None:
        for number, instance in enumerate(value):
            where = f"{source}, instance {number}"
            for array, form in ((instance.polygon, "a (K, 2) array"), (instance.box, "a (4,) array")):
                require_finite(require_array(array, self.name, where, form), self.name, where)
            polygon, box = instance.polygon, instance.box
            problem = ""
            if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
                problem = f"the polygon has shape {polygon.shape}, expected (K, 2) with K ≥ 3."
            elif box.shape != (4,) or not (box[0] < box[2] and box[1] < box[3]):
                problem = f"the box {box.tolist()} is not xmin < xmax, ymin < ymax."
            elif min(polygon.min(), box.min()) < -1e-4 or max(polygon.max(), box.max()) > 1 + 1e-4:
                problem = "coordinates leave [0, 1]."
            elif instance.mask is not None and instance.mask.shape != (MASK_SIZE, MASK_SIZE):
                problem = f"the mask has shape {instance.mask.shape}, expected ({MASK_SIZE}, {MASK_SIZE})."
            elif not 0 < instance.score <= 1:
                problem = f"the score is {instance.score}, expected a confidence in (0, 1]."
            if problem:
                raise ModalityError(
                    self.name, where, problem, "Give coordinates relative to the picture, the mask relative to its box."
                )

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: list[Instance], view: View) -> list[Instance]:
        """Instances clipped to the crop; those with a box below 0.05 % of it are dropped.

        Masks and tokens stay where the shape does; a clipped or flipped instance is rasterised anew from its polygon.
        """
        if view.is_whole:
            return value
        seen = []
        for instance in value:
            moved = view.points(instance.polygon)
            inside = moved.min() >= -1e-6 and moved.max() <= 1 + 1e-6
            polygon = np.clip(moved, 0, 1) if inside else clip_to_unit_square(moved)
            if len(polygon) < 3:
                continue
            if inside and not view.flip:
                corners = view.points(instance.box.reshape(2, 2))
                clipped = replace(instance, polygon=polygon, box=np.clip(corners, 0, 1).ravel())
            else:
                clipped = Instance(polygon, np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]))
            if clipped.area >= _SMALLEST_AREA:
                seen.append(clipped)
        return seen

    def draw(self, value: list[Instance], size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """Coloured masks with their outlines, the largest first, over the background.

        Instances that fewer than :data:`SHOWN_SCORE` of many merged samples found are left out.
        """
        ground = Image.new("RGB", (size, size), GROUND) if background is None else fit_square(background, size)
        picture = np.asarray(ground, dtype=np.float32).copy()
        ordered = sorted(self.shown(value), key=lambda i: -i.area)
        for instance, colour in zip(ordered, distinct_colours(len(ordered)), strict=True):
            inside = instance.image_mask(size)
            picture[inside] = 0.45 * picture[inside] + 0.55 * np.array(colour)
            picture[inside & ~_shrunk(inside)] = colour
        return Image.fromarray(np.rint(picture).astype(np.uint8))

    def describe(self, value: list[Instance], predicted: bool = False) -> str:
        shown = len(self.shown(value))
        doubtful = f", {len(value) - shown} doubtful" if shown < len(value) else ""
        return ("1 instance" if shown == 1 else f"{shown or 'no'} instances") + doubtful

    # -- words --------------------------------------------------------------------------------------------------
    def shown(self, value: list[Instance]) -> list[Instance]:
        """Instances of :data:`SHOWN_SCORE` or more, with score 1."""
        return [replace(instance, score=1.0) for instance in value if instance.score >= SHOWN_SCORE]

    def has_tokens(self, value: list[Instance]) -> bool:
        """Whether all instances have ``mask_tokens``, as words need them."""
        return all(instance.mask_tokens is not None for instance in value)

    def with_tokens(self, value: list[Instance], tokens: np.ndarray) -> list[Instance]:
        """The instances with ``mask_tokens`` from the rows of ``tokens`` (N or more, 16); fewer are an error."""
        require_rows(tokens, len(value), self.name)
        return [replace(i, mask_tokens=tuple(map(int, row))) for i, row in zip(value, tokens, strict=False)]

    def to_words(self, value: list[Instance], rng: np.random.Generator | None = None) -> str:
        """Seven query points, each with the instances under it.

        ``rng`` draws points anywhere in the crop and the order of instances; without it the points lie inside the
        largest instances. Equal points are asked once.

        Raises:
            ModalityError: an instance has no ``mask_tokens``.
        """
        if not self.has_tokens(value):
            raise ModalityError(
                self.name,
                "words",
                "an instance has no mask tokens.",
                "Tokenize the masks with the mask tokenizer first.",
            )
        if rng is None:
            largest = sorted(value, key=lambda i: -i.area)[:QUERY_POINTS]
            points = list(dict.fromkeys(map(_inner_point, largest))) or [(CROP // 2, CROP // 2)]
        else:
            points = list(dict.fromkeys(map(tuple, rng.integers(0, CROP, (QUERY_POINTS, 2)).tolist())))
        relative = np.array(points, dtype=np.float64) / CROP
        hits = [contains(instance.polygon, relative) for instance in value]
        words: list[str] = []
        for number, point in enumerate(points):
            found = [instance for instance, hit in zip(value, hits, strict=True) if hit[number]]
            order = range(len(found)) if rng is None else rng.permutation(len(found))
            words += point_words(point, [found[i] for i in order])
        return " ".join(words)

    def from_words(self, words: str) -> list[Instance]:
        """Complete instances, each once, the largest box first; ``polygon`` is the box until the tokens are decoded.

        After decoding, :func:`merge_duplicates` joins nearly equal ones.
        """
        found: dict[tuple[object, ...], Instance] = {}
        for part in f" {words} ".split(" point ")[1:]:
            for run in f" {part} ".split(" polygon ")[1:]:
                instance = _instance_from_words(run.split())
                if instance is not None:
                    found.setdefault((*instance.box.tolist(), instance.mask_tokens), instance)
        return sorted(found.values(), key=lambda i: -i.area)

    def next_terms(self, terms: Sequence[str], room: int) -> Terms:
        """Seven times ``point``, two coordinates, and ``none`` or one ``polygon`` after the other."""
        if not terms:
            return Terms(("point",))
        point = len(terms) - 1 - terms[::-1].index("point")
        answer = terms[point + 3 :]
        if len(terms) < point + 3:
            return Terms((Numbers(len(terms) - point - 1, 0, CROP - 1),), question=True)
        if not answer:
            return Terms(("none", "polygon") if room >= _WORDS_PER_INSTANCE else ("none",))
        if answer[-1] != "none":
            instance = answer[len(answer) - answer[::-1].index("polygon") :]
            if len(instance) < 4:
                return next_corner(instance, CROP)
            if len(instance) < 4 + MASK_CODES:
                return Terms(CODES)
        more = answer[-1] != "none" and room >= _WORDS_PER_INSTANCE
        further = terms.count("point") < QUERY_POINTS and room >= _WORDS_PER_EMPTY_POINT
        choices = (*(("polygon",) if more else ()), *(("point",) if further else ()))
        return Terms(choices, end=not further)

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[list[Instance]], truths: Sequence[list[Instance]]) -> dict[str, float]:
        """``best_iou``: mean over the true instances of the largest IoU with a predicted one of the same picture.

        ``recall``: share of true instances with an IoU of at least 0.5; ``precision``: the same of the predicted ones.
        NaN where there is nothing to average.
        """
        require_paired(self.name, predictions, truths)
        per_truth: list[float] = []
        per_prediction: list[float] = []
        for found, true in zip(predictions, truths, strict=True):
            table = _iou_table(found, true)
            per_truth += table.max(axis=0, initial=0.0).tolist()
            per_prediction += table.max(axis=1, initial=0.0).tolist()
        return {
            "best_iou": _mean_of(per_truth),
            "recall": _mean_of([v >= _SCORED_IOU for v in per_truth]),
            "precision": _mean_of([v >= _SCORED_IOU for v in per_prediction]),
        }

    def merge(self, values: Sequence[list[Instance]]) -> Merged[list[Instance]]:
        """Everything that any sample found, each once (masks with IoU ≥ 0.5 become their mean).

        Samples look at different query points, so that what only one of them found is not thereby doubtful; what many
        found comes first.
        """
        groups = matched(values, lambda a, b: float(_iou_table([a], [b])[0, 0]), _SCORED_IOU)
        merged = [replace(_outlined(_mean(group)), score=len(group) / len(values)) for group in groups]
        return Merged(merged, absence(groups, len(values)), ABSENCE)


def _iou_table(found: Sequence[Instance], true: Sequence[Instance]) -> np.ndarray:
    """(len(found), len(true)) intersection over union of the masks."""
    a, b = (np.array([i.image_mask(_SCORING_SIZE).ravel() for i in items], dtype=np.float32) for items in (found, true))
    if not len(a) or not len(b):
        return np.zeros((len(found), len(true)))
    both = a @ b.T
    return both / np.maximum(a.sum(axis=1)[:, None] + b.sum(axis=1) - both, 1.0)


def _mean_of(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _from_json(item: Any) -> Instance:
    tokens = item.get("mask_tokens")
    polygon, box = np.asarray(item["polygon"], dtype=np.float64), np.asarray(item["box"], dtype=np.float64)
    codes = None if tokens is None else tuple(int(t) for t in tokens)
    return Instance(polygon, box, None, codes, float(item.get("score", 1.0)))


def _to_json(instance: Instance) -> dict[str, Any]:
    item: dict[str, Any] = {
        "polygon": np.round(instance.polygon, 5).tolist(),
        "box": np.round(instance.box, 5).tolist(),
    }
    if instance.mask_tokens is not None:
        item["mask_tokens"] = list(instance.mask_tokens)
    if instance.score < 1:
        item["score"] = round(instance.score, 4)
    return item


register(SamInstance())
