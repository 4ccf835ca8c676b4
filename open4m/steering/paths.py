"""Cross-path check: one target, predicted straight and by way of another modality, and whether the paths agree.

Where two ways to the same thing disagree, at least one is wrong (cross-task consistency; Zamir et al., 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.evaluation.evaluate import Progress, direct_plan
from open4m.evaluation.measures import Sample, Scores, score
from open4m.generation.inputs import Tokens
from open4m.generation.pipeline import AnyToAny
from open4m.generation.result import Item
from open4m.modalities.registry import get_modality
from open4m.steering.ranks import rank_correlation
from open4m.steering.runs import finite, run_rows, scenes_with

STRAIGHT = "straight"


@dataclass(frozen=True)
class PathScores:
    """One path to the target.

    Attributes:
        path: ``straight``, ``normal`` (through it alone) or ``rgb+normal`` (the prediction of it beside what is given).
        scores: against the truth.
        disagreement: mean difference to the straight prediction, in the unit of the modality's ``errors``; 0 for it.
        pixels, pictures: rank correlation of that difference with the true error of the straight prediction, over
            the places of a picture (mean of the pictures) and over the pictures; NaN for the straight path.
    """

    path: str
    scores: Scores
    disagreement: float
    pixels: float
    pictures: float


@dataclass(frozen=True)
class PathStudy:
    """All paths, and their predictions merged."""

    target: str
    count: int
    paths: tuple[PathScores, ...]
    merged: Scores

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""

        def all_finite(values: Mapping[str, float]) -> dict[str, float | None]:
            return {key: finite(value) for key, value in values.items()}

        return {
            "target": self.target,
            "count": self.count,
            "paths": [
                {
                    "path": p.path,
                    "scores": all_finite(p.scores),
                    **all_finite({"disagreement": p.disagreement, "pixels": p.pixels, "pictures": p.pictures}),
                }
                for p in self.paths
            ],
            "merged": all_finite(self.merged),
        }


def path_study(
    model: AnyToAny,
    samples: Sequence[Sample],
    target: str = "depth",
    through: Sequence[str] = ("normal", "semseg"),
    given: tuple[str, ...] = ("rgb",),
    *,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> PathStudy:
    """Predict ``target`` from what is given, from each prediction in ``through`` alone, and from both together.

    Raises:
        GenerationError: fewer than two scenes hold the target and what is given; or a step is not possible.
    """
    held = scenes_with(samples, (*given, target))
    seeds = range(seed, seed + len(held))
    start = [{name: sample[name] for name in given} for sample in held]

    def predict(wanted: str, inputs: Sequence[Mapping[str, Any]], what: str) -> list[Item]:
        plan = direct_plan(model, [wanted], tuple(inputs[0]))
        rows = list(zip(inputs, seeds, strict=True))
        return [found[wanted] for found in run_rows(model, rows, plan, batch_size, progress, what)]

    found = {STRAIGHT: predict(target, start, f"{target}, {STRAIGHT}")}
    for name in through:
        steps = [{name: Tokens(item.tokens)} for item in predict(name, start, f"{name} on the way")]
        found[name] = predict(target, steps, f"{target} through {name}")
        both = [{**first, **step} for first, step in zip(start, steps, strict=True)]
        label = "+".join((*given, name))
        found[label] = predict(target, both, f"{target} from {label}")
    values = {path: [item.square for item in items] for path, items in found.items()}
    merged = [get_modality(target).merge(list(row)).value for row in zip(*values.values(), strict=True)]
    scores = tuple(_path(target, path, predictions, values[STRAIGHT], held) for path, predictions in values.items())
    return PathStudy(target, len(held), scores, score(target, merged, held))


def _path(
    target: str, path: str, predictions: Sequence[Any], straight: Sequence[Any], held: Sequence[Sample]
) -> PathScores:
    modality, found = get_modality(target), score(target, predictions, held)
    if path == STRAIGHT:
        return PathScores(path, found, 0.0, float("nan"), float("nan"))
    apart = [modality.errors(a, b) for a, b in zip(predictions, straight, strict=True)]
    wrong = [modality.errors(value, sample[target]) for value, sample in zip(straight, held, strict=True)]
    inside = [rank_correlation(a, w) for a, w in zip(apart, wrong, strict=True) if a.ndim]
    means = [float(np.nanmean(a)) for a in apart]
    return PathScores(
        path,
        found,
        float(np.mean(means)),
        float(np.nanmean(inside)) if inside else float("nan"),
        rank_correlation(means, [float(np.nanmean(w)) for w in wrong]),
    )
