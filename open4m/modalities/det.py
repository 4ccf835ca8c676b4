"""Object detection boxes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.checks import require_paired
from open4m.modalities.coco import THING_CLASSES
from open4m.modalities.drawing import GROUND, fit_square, label
from open4m.modalities.grammar import END, MAX_VALUE, Terms, next_corner, number_word, parse_number
from open4m.modalities.merging import ABSENCE, Merged, absence, matched
from open4m.modalities.registry import register
from open4m.modalities.view import View

_WORDS_PER_BOX = 5
MIN_SCORE = 0.6
"""Boxes with less confidence are not written as words (published threshold) and are no ground truth."""

_SAME_IOU = 0.5
SHOWN_SCORE = 0.3
"""Boxes with less confidence are not drawn, described, counted or given to a model; average precision counts all."""

_RED = (200, 20, 30)
_IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05).round(2)
_RECALL_LEVELS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Box:
    """One detected object: corners relative to the image in [0, 1], COCO class name, confidence in [0, 1]."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    class_name: str
    score: float = 1.0

    @property
    def corners(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax)."""
        return self.xmin, self.ymin, self.xmax, self.ymax


class Detection(TextModality[list[Box]]):
    """Boxes with class names; grammar of spec modalities §4.1."""

    name = "det"
    card = Card(
        title="Boxes",
        description=(
            "List of Box: corners relative to the picture in [0, 1], COCO class name, confidence. "
            f"Models learn boxes with a confidence of at least {MIN_SCORE}; those that are given are read, as they are "
            f"drawn, from {SHOWN_SCORE} on, to 1/999 of the picture."
        ),
        metrics={"AP50": Metric("", True), "mAP": Metric("", True)},
        source="ViTDet ViT-H Cascade Mask R-CNN on COCO classes (4M-21, Sec. 3.1)",
    )
    extensions = ("json",)
    value_is_list = True
    max_tokens = 256

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> list[Box]:
        """Published JSON: ``{"instances": [{"boxes": [xmin, ymin, xmax, ymax], "class_name", "score"}]}``."""
        try:
            instances = json.loads(data)["instances"]
            boxes = [_box_from_json(item) for item in instances]
        except (ValueError, KeyError, TypeError) as error:
            raise ModalityError(
                self.name,
                source,
                f"not a file of boxes ({type(error).__name__}: {error}); expected "
                '{"instances": [{"boxes": [xmin, ymin, xmax, ymax], "class_name": "dog", "score": 0.9}]}.',
                "Write the boxes in this form, with corners relative to the picture.",
            ) from error
        self.validate(boxes, source)
        return boxes

    def encode(self, value: list[Box]) -> bytes:
        instances = [
            {"boxes": [float(v) for v in box.corners], "class_name": box.class_name, "score": float(box.score)}
            for box in value
        ]
        return json.dumps({"instances": instances}).encode()

    def validate(self, value: list[Box], source: str) -> None:
        for number, box in enumerate(value):
            where = f"box {number} ({box.class_name!r})"
            if not all(math.isfinite(v) and -1e-6 <= v <= 1 + 1e-6 for v in box.corners):
                raise ModalityError(
                    self.name,
                    source,
                    f"{where} has the corners {box.corners}; expected xmin, ymin, xmax, ymax in [0, 1].",
                    "Divide pixel coordinates by the width and height of the picture.",
                )
            if box.xmin > box.xmax or box.ymin > box.ymax:
                raise ModalityError(
                    self.name,
                    source,
                    f"{where} is inside out: {box.corners}.",
                    "Give the upper left corner first: xmin, ymin, xmax, ymax.",
                )
            if not box.class_name.strip() or any(map(parse_number, box.class_name.split())):
                raise ModalityError(self.name, source, f"{where} has no usable class name.", "Name its class.")
            if not 0.0 <= box.score <= 1.0:
                raise ModalityError(
                    self.name, source, f"{where} has the score {box.score}.", "Give a confidence in [0, 1]."
                )

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: list[Box], view: View) -> list[Box]:
        """Boxes clipped to the crop; those without area in it are dropped."""
        seen = []
        for box in value:
            corners = view.points(np.array(box.corners, dtype=np.float64).reshape(2, 2))
            (xmin, ymin), (xmax, ymax) = np.clip(np.sort(corners, axis=0), 0.0, 1.0).tolist()
            if xmin < xmax and ymin < ymax:
                seen.append(replace(box, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax))
        return seen

    def draw(self, value: list[Box], size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """Red frames with white labels over the background, if there is one; boxes of :data:`SHOWN_SCORE` or more."""
        picture = fit_square(background, size) if background is not None else Image.new("RGB", (size, size), GROUND)
        frames, side = ImageDraw.Draw(picture), size - 1
        shown = shown_boxes(value)
        for box in shown:
            frames.rectangle([v * side for v in box.corners], outline=_RED, width=max(1, size // 112))
        for box in shown:  # after all frames, so that no frame crosses a label
            label(picture, (box.xmin * side, box.ymin * side), box.class_name, _RED, size=max(9, size / 24))
        return picture

    def describe(self, value: list[Box], predicted: bool = False) -> str:
        """Classes and how many of each, in the order of the list."""
        counts = Counter(box.class_name for box in shown_boxes(value))
        return ", ".join(f"{count} × {name}" for name, count in counts.items()) or "no boxes"

    # -- words --------------------------------------------------------------------------------------------------
    def shown(self, value: list[Box]) -> list[Box]:
        """Boxes of :data:`SHOWN_SCORE` or more, with score 1."""
        return [replace(box, score=1.0) for box in shown_boxes(value)]

    def begins_part(self, word: str) -> bool:
        number = parse_number(word)
        return number is not None and number[0] == 0

    def to_words(self, value: list[Box], rng: np.random.Generator | None = None) -> str:
        """``v0=<xmin> v1=<ymin> v2=<xmax> v3=<ymax> <class>`` per box, sorted by xmin² + ymin², in 1/999.

        Boxes of less than :data:`MIN_SCORE` are left out, as published for the pseudo labels of training.
        """
        certain = [box for box in value if box.score >= MIN_SCORE]
        certain.sort(key=lambda box: box.xmin**2 + box.ymin**2)
        return " ".join(_box_words(box) for box in certain)

    def from_words(self, words: str) -> list[Box]:
        """Complete boxes (four corners in order, then a class name) that are not inside out; score 1."""
        boxes: list[Box] = []
        corners: list[float] = []
        names: list[str] = []

        def close() -> None:
            if len(corners) == 4 and names and corners[0] <= corners[2] and corners[1] <= corners[3]:
                boxes.append(Box(*corners, class_name=" ".join(names)))

        for word in words.split():
            number = parse_number(word)
            if number is None:
                names.append(word)
            elif number[0] == 0:
                close()
                corners, names = [number[1] / MAX_VALUE], []
            elif number[0] == len(corners) and not names:
                corners.append(number[1] / MAX_VALUE)
            else:
                corners = []  # out of order: nothing up to the next v0 belongs to a box
        close()
        return boxes

    def next_terms(self, terms: Sequence[str], room: int) -> Terms:
        """Boxes of four corners and a class name."""
        place = len(terms) % _WORDS_PER_BOX
        if place == 0 and room < _WORDS_PER_BOX:
            return END
        if place == _WORDS_PER_BOX - 1:
            return Terms(THING_CLASSES)
        corner = next_corner(terms[len(terms) - place :])
        return replace(corner, end=place == 0)

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[list[Box]], truths: Sequence[list[Box]]) -> dict[str, float]:
        """COCO-style average precision over the list of pictures, in [0, 1].

        ``AP50`` at an IoU of 0.5, ``mAP`` averaged over 0.5, 0.55, …, 0.95: the mean over the classes of the truth
        of the precision interpolated at 101 recall levels. Boxes generated as words have no confidence: they are
        ranked in the order of the list. NaN when there is no true box at all.
        """
        require_paired(self.name, predictions, truths)
        true_boxes = [[b for b in boxes if b.score >= MIN_SCORE] for boxes in truths]
        classes = sorted({b.class_name for boxes in true_boxes for b in boxes})
        table = [[_average_precision(predictions, true_boxes, c, t) for t in _IOU_THRESHOLDS] for c in classes]
        if not table:
            return {"AP50": math.nan, "mAP": math.nan}
        means = np.mean(table, axis=0)
        return {"AP50": float(means[0]), "mAP": float(means.mean())}

    def merge(self, values: Sequence[list[Box]]) -> Merged[list[Box]]:
        """Weighted box fusion (Solovyev et al., 2021): boxes of one class with an IoU of at least 0.5 become one.

        Its corners are their mean, weighted by confidence; its confidence is theirs, summed over the number of samples,
        so that what few samples show is little believed. The surest box first.
        """
        groups = matched(values, lambda a, b: iou(a, b) * (a.class_name == b.class_name), _SAME_IOU)
        return Merged([_fused(group, len(values)) for group in groups], absence(groups, len(values)), ABSENCE)


def shown_boxes(boxes: Sequence[Box]) -> list[Box]:
    """Those of :data:`SHOWN_SCORE` or more: what counts as seen, where many samples were merged to many guesses."""
    return [box for box in boxes if box.score >= SHOWN_SCORE]


def _fused(group: Sequence[Box], samples: int) -> Box:
    weights = [max(box.score, 1e-6) for box in group]
    corners = np.average([box.corners for box in group], axis=0, weights=weights)
    return Box(*corners.tolist(), class_name=group[0].class_name, score=sum(box.score for box in group) / samples)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 for boxes without area."""
    width = min(a.xmax, b.xmax) - max(a.xmin, b.xmin)
    height = min(a.ymax, b.ymax) - max(a.ymin, b.ymin)
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x.xmax - x.xmin) * (x.ymax - x.ymin) for x in (a, b)]
    return width * height / (sum(areas) - width * height)


def _average_precision(
    predictions: Sequence[Sequence[Box]], truths: Sequence[Sequence[Box]], class_name: str, threshold: float
) -> float:
    """Area under the precision–recall curve of one class at one IoU threshold (101 recall levels)."""
    found = [(index, box) for index, boxes in enumerate(predictions) for box in boxes if box.class_name == class_name]
    found.sort(key=lambda item: -item[1].score)
    free = [[box for box in boxes if box.class_name == class_name] for boxes in truths]
    total = sum(map(len, free))

    hits = np.zeros(len(found), dtype=bool)
    for rank, (index, box) in enumerate(found):
        best = max(free[index], key=lambda truth: iou(box, truth), default=None)
        if best is not None and iou(box, best) >= threshold:
            free[index].remove(best)
            hits[rank] = True
    recall = hits.cumsum() / total
    precision = hits.cumsum() / np.arange(1, len(found) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or more
    reached = np.searchsorted(recall, _RECALL_LEVELS)
    return float(np.append(highest, 0.0)[reached].mean())


def _box_words(box: Box) -> str:
    bins = [round(min(max(v, 0.0), 1.0) * MAX_VALUE) for v in box.corners]
    return " ".join([*(number_word(axis, value) for axis, value in enumerate(bins)), box.class_name])


def _box_from_json(item: Any) -> Box:
    xmin, ymin, xmax, ymax = map(float, item["boxes"])
    return Box(xmin, ymin, xmax, ymax, str(item["class_name"]), float(item.get("score", 1.0)))


register(Detection())
