"""What a model must beat: the best that can be said without looking at the input.

For every kind of data there are several candidates – a mean, a median, the most likely content, the most typical
value, the truth of another picture – and the strongest one counts, metric by metric. A candidate for a picture is made
from *other* pictures only: the list is cut into parts, and each part is predicted from the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar, cast

import numpy as np

from open4m.modalities.base import DenseModality, Modality
from open4m.modalities.det import Box
from open4m.modalities.edges import EdgeMap
from open4m.modalities.human_poses import Person, mean_person
from open4m.modalities.metadata import FIELDS
from open4m.modalities.registry import get_modality
from open4m.modalities.sam_instance import Instance

Maker = Callable[[Sequence[Any]], Any]
"""Values of other pictures → one value for any picture."""

PARTS = 4
"""Into which the list is cut. Views of one scene follow each other, so that parts share (nearly) no scene."""

_OPTIONS, _JUDGES = 8, 32
"""Where a candidate is chosen by its score: how many are tried, on how many values."""

_MOST_BOXES = 600

T = TypeVar("T")


def constants(target: str, truths: Sequence[Any]) -> dict[str, list[Any]]:
    """Candidate → its predictions, one for each of ``truths`` (at least two)."""
    away = len(truths) // 2
    found = {"another picture": [truths[(i + away) % len(truths)] for i in range(len(truths))]}
    edges = np.linspace(0, len(truths), min(PARTS, len(truths)) + 1).astype(int)
    for name, make in makers(target).items():
        found[name] = []
        for first, last in pairwise(edges):
            found[name] += [make([*truths[:first], *truths[last:]])] * (last - first)
    return found


def makers(target: str) -> dict[str, Maker]:
    """The candidates that make sense for a modality, by name."""
    modality = get_modality(target)
    typical: dict[str, Maker] = {"typical value": lambda values: _best(modality, _spread(values, _OPTIONS), values)}
    if isinstance(modality, EdgeMap):
        return {"mean map": lambda v: mean_map(modality, v), "likely edges": lambda v: likely_edges(modality, v)}
    if target == "semseg":
        return {"commonest class": lambda values: commonest_class(cast(DenseModality[Any], modality), values)}
    if isinstance(modality, DenseModality):
        maps: dict[str, Maker] = {
            "mean map": lambda values: mean_map(modality, values),
            "median map": lambda values: mean_map(modality, values, np.median),
        }
        return maps | (typical if target.endswith("_global") else {})
    return typical | _LIKELY.get(target, {})


# -- maps and vectors ------------------------------------------------------------------------------------------------
def mean_map(
    modality: DenseModality[Any], values: Sequence[Any], mean: Callable[..., np.ndarray] = np.mean
) -> np.ndarray:
    """The mean (or another average), position by position."""
    stack = np.stack([modality.to_array(value) for value in values])
    return modality.from_array(mean(stack, axis=0).astype(np.float32))


def commonest_class(modality: DenseModality[Any], values: Sequence[Any]) -> Any:
    """The commonest class, position by position."""
    stack = np.stack([modality.to_array(value) for value in values])
    labels = np.arange(int(stack.max()) + 1)
    commonest = np.stack([(stack == label).sum(axis=0) for label in labels]).argmax(axis=0)
    return modality.from_array((labels[:, None, None] == commonest).astype(np.float32))


def likely_edges(modality: Modality[Any], values: Sequence[np.ndarray]) -> np.ndarray:
    """Edges wherever they are frequent enough; the threshold that scores best (the mean itself shows none)."""
    frequency = np.mean([value >= 128 for value in values], axis=0)
    thresholds = np.quantile(frequency, np.linspace(0, 0.95, _OPTIONS))
    return _best(modality, [np.where(frequency >= t, 255, 0).astype(np.uint8) for t in thresholds], values)


# -- words and lists ---------------------------------------------------------------------------------------------------
def frequent_words(values: Sequence[str]) -> str:
    """The most frequent words, as many as score best; a word may be there twice if it often is."""
    counts: Counter[tuple[str, int]] = Counter()
    for value in values:
        words = Counter(value.lower().replace(",", " ").replace(".", " ").split())
        counts.update((word, number) for word, times in words.items() for number in range(times))
    ranked = [word for (word, _), _ in counts.most_common(24)]
    options = [" ".join(ranked[:length]) for length in range(3, len(ranked) + 1, 3)] or [" ".join(ranked)]
    return _best(get_modality("caption"), options, values, "word_F1")


def likely_boxes(values: Sequence[Sequence[Box]]) -> list[Box]:
    """For every class, the true box that fits most of its boxes; the frequent classes first."""
    counts = Counter(box.class_name for boxes in values for box in boxes)
    found = []
    for name, _ in counts.most_common():
        corners = np.array([box.corners for boxes in values for box in boxes if box.class_name == name])
        (best,) = cover(corners, 1, fits=True)
        found.append(Box(*corners[best].tolist(), class_name=name))
    return found


def likely_person(values: Sequence[Sequence[Person]]) -> list[Person]:
    """One person with the likeliest box and the mean of everything else; nobody where nobody ever is."""
    people = [person for group in values for person in group]
    if not people:
        return []
    boxes = np.array([person.box for person in people])
    (best,) = cover(boxes, 1, fits=True)
    return [replace(mean_person(people), box=boxes[best])]


def likely_instances(values: Sequence[Sequence[Instance]]) -> list[Instance]:
    """As many instances as a picture has in the mean, chosen so that they overlap best with all."""
    everything = [instance for group in values for instance in group]
    if not everything:
        return []
    chosen = cover(np.array([i.box for i in everything]), round(len(everything) / len(values)) or 1)
    return [everything[i] for i in chosen]


def mean_palette(values: Sequence[np.ndarray]) -> np.ndarray:
    """Colours sorted by lightness and averaged rank by rank, over the palettes of the commonest size."""
    ((size, _),) = Counter(map(len, values)).most_common(1)
    ordered = [value[np.argsort(value @ [0.299, 0.587, 0.114])] for value in values if len(value) == size]
    return np.rint(np.mean(ordered, axis=0)).astype(np.uint8)


def median_fields(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every field."""
    return {field: float(np.median(numbers)) for field, numbers in _fields(values).items()}


def commonest_fields(values: Sequence[dict[str, float]]) -> dict[str, float]:
    """The commonest bin of every field."""
    codes = {field: Counter(map(FIELDS[field].code, numbers)) for field, numbers in _fields(values).items()}
    return {field: FIELDS[field].value(counts.most_common(1)[0][0]) for field, counts in codes.items()}


_LIKELY: dict[str, dict[str, Maker]] = {
    "caption": {"frequent words": frequent_words},
    "det": {"likely boxes": likely_boxes},
    "human_poses": {"likely person": likely_person},
    "sam_instance": {"likely instances": likely_instances},
    "color_palette": {"mean palette": mean_palette},
    "metadata": {"median fields": median_fields, "commonest fields": commonest_fields},
}


# -- choosing ----------------------------------------------------------------------------------------------------------
def cover(boxes: np.ndarray, count: int, fits: bool = False) -> list[int]:
    """Rows of ``boxes`` (N, 4), chosen one after the other so that all boxes overlap best with one of them.

    Args:
        fits: count boxes that are met with an IoU of at least 0.5, instead of the mean IoU.
    """
    options = _spread(range(len(boxes)), _MOST_BOXES)
    table = _iou(boxes[options], boxes[options])
    gain = (table >= 0.5).astype(float) if fits else table
    covered, chosen = np.zeros(len(options)), []
    for _ in range(min(count, len(options))):
        best = int(np.maximum(gain, covered).sum(axis=1).argmax())
        covered = np.maximum(covered, gain[best])
        chosen.append(options[best])
    return chosen


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(x[:, 2:] - x[:, :2]).prod(axis=-1) for x in (a, b)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)


def _best(modality: Modality[Any], options: Sequence[T], values: Sequence[Any], metric: str = "") -> T:
    """The option that scores best as the prediction of all ``values``."""
    metric = metric or next(iter(modality.card.metrics))
    sign = 1 if modality.card.metrics[metric].higher_is_better else -1
    judges = _spread(values, _JUDGES)
    scores = [sign * modality.score([option] * len(judges), judges)[metric] for option in options]
    return options[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]


def _spread(values: Sequence[T], count: int) -> list[T]:
    """At most ``count`` of the values, evenly spread."""
    return [values[i] for i in np.linspace(0, len(values), min(count, len(values)), endpoint=False).astype(int)]


def _fields(values: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Field → its numbers, for the fields that occur."""
    table = {field: [value[field] for value in values if field in value] for field in FIELDS}
    return {field: numbers for field, numbers in table.items() if numbers}
