"""All scores of a target: those of its modality, and those that need more than its own truth."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from open4m.modalities.base import Metric
from open4m.modalities.det import MIN_SCORE, Box
from open4m.modalities.metadata import FIELDS
from open4m.modalities.registry import get_modality

Scores = dict[str, float]
Sample = Mapping[str, Any]

DETAIL = "/"
"""In the name of a metric that looks at a part only, such as ``within_3_bins/brightness``."""

_NAMING = "objects_named"
_RETRIEVED = {"recall@1": 1, "recall@5": 5}
_WITHIN = "within_3_bins"
_SMALLEST = 0.01
"""Objects whose box is a smaller share of the picture need not be named."""

_PLURALS = {"person": "people", "knife": "knives", "mouse": "mice"}


def metrics(target: str) -> dict[str, Metric]:
    """What :func:`score` gives for a target; the first metric is the one to compare models by."""
    found = dict(get_modality(target).card.metrics)
    if target == "caption":
        found[_NAMING] = Metric("", True)
    elif target.endswith("_global"):
        found |= dict.fromkeys(_RETRIEVED, Metric("", True))
    elif target == "metadata":
        found |= {f"{_WITHIN}{DETAIL}{field}": Metric("", True) for field in FIELDS}
    return found


def score(target: str, predictions: Sequence[Any], samples: Sequence[Sample]) -> Scores:
    """Scores of predictions of ``target`` for samples that hold its truth; NaN where a score does not exist."""
    truths = [sample[target] for sample in samples]
    found = get_modality(target).score(predictions, truths)
    if target == "caption":
        found[_NAMING] = objects_named(predictions, [sample.get("det", ()) for sample in samples])
    elif target.endswith("_global"):
        found |= {name: recall_at(k, predictions, truths) for name, k in _RETRIEVED.items()}
    elif target == "metadata":
        found |= {f"{_WITHIN}{DETAIL}{field}": _field_score(field, predictions, truths) for field in FIELDS}
    return found


def better(metric: Metric, a: float, b: float) -> bool:
    """Whether score ``a`` is better than ``b``; a number is better than NaN."""
    return math.isnan(b) > math.isnan(a) or (a > b if metric.higher_is_better else a < b)


def objects_named(captions: Sequence[str], boxes: Sequence[Sequence[Box]]) -> float:
    """Share of the visible object classes of all pictures that the caption of the picture names.

    Visible are the classes of (certain) boxes of at least 1 % of the picture. A class is named by its name or the
    last word of it ("a ball" for sports ball), singular or plural.
    """
    named = [
        bool(_pattern(name).search(caption.lower()))
        for caption, found in zip(captions, boxes, strict=True)
        for name in {box.class_name for box in found if _is_visible(box)}
    ]
    return float(np.mean(named)) if named else math.nan


def _is_visible(box: Box) -> bool:
    return box.score >= MIN_SCORE and (box.xmax - box.xmin) * (box.ymax - box.ymin) >= _SMALLEST


@cache
def _pattern(class_name: str) -> re.Pattern[str]:
    forms = {form for word in (class_name, class_name.split()[-1]) for form in (word, f"{word}s", f"{word}es")}
    forms.add(_PLURALS.get(class_name, class_name))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(forms)))})\b")


def ranks(queries: Sequence[np.ndarray] | np.ndarray, gallery: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """(N,) int: the place of each query's (C,) own vector when the gallery is sorted by cosine; 1 = the first.

    Query i belongs to vector i. Ties count against the query.
    """
    a, b = (np.stack(list(vectors)).astype(np.float64) for vectors in (queries, gallery))
    a, b = (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) for vectors in (a, b))
    cosine = a @ b.T
    return (cosine >= np.diagonal(cosine)[:, None]).sum(axis=1)  # it is as good as itself


def recall_at(k: int, queries: Sequence[np.ndarray], gallery: Sequence[np.ndarray]) -> float:
    """Share of the queries (C,) whose own vector is among the ``k`` of the gallery with the largest cosine."""
    return float((ranks(queries, gallery) <= k).mean())


def _field_score(field: str, predictions: Sequence[Sample], truths: Sequence[Sample]) -> float:
    """``within_3_bins`` of one metadata field."""
    pairs = [(p, t) for p, t in zip(predictions, truths, strict=True) if field in t]
    if not pairs:
        return math.nan
    only = [[{field: part[field]} if field in part else {} for part in side] for side in zip(*pairs, strict=True)]
    return get_modality("metadata").score(*only)[_WITHIN]
