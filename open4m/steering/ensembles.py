"""What ensembling brings: errors of one sample and of many merged, and whether their spread shows the errors.

In small what Table 5 of 4M-21 shows for normals and classes with ten seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Progress, direct_plan
from open4m.evaluation.measures import Sample, Scores, metrics, score
from open4m.generation.ensemble import MergedItem, sampling_plan
from open4m.generation.pipeline import AnyToAny
from open4m.generation.result import Item
from open4m.modalities.merging import Merged
from open4m.modalities.registry import get_modality
from open4m.steering.ranks import rank_correlation
from open4m.steering.runs import finite, run_rows, scenes_with


@dataclass(frozen=True)
class Uncertainty:
    """Whether the spread of the samples shows where, and in which pictures, the merged value is wrong.

    Attributes:
        pixels: rank correlation of spread and true error over the places of a picture, mean of the pictures; NaN
            where there are no maps.
        pictures: rank correlation of mean spread and mean error over the pictures.
        surest_half: mean error of the surer half of the places, as a share of that of all; below 1 is good.
    """

    pixels: float
    pictures: float
    surest_half: float


@dataclass(frozen=True)
class EnsembleScores:
    """Scores of one target.

    Attributes:
        target: modality.
        count: scenes that hold its truth.
        best_guess: scores of the default prediction in one step, which draws nothing.
        single: scores of one sample, mean over the samples.
        merged: number of samples → scores of so many merged.
        uncertainty: of the largest ensemble.
    """

    target: str
    count: int
    best_guess: Scores
    single: Scores
    merged: dict[int, Scores]
    uncertainty: Uncertainty


@dataclass(frozen=True)
class EnsembleStudy:
    """Scores by target; and by target the merged items with the scene that each belongs to."""

    given: tuple[str, ...]
    samples: int
    seed: int
    targets: tuple[EnsembleScores, ...]
    items: dict[str, list[tuple[Sample, MergedItem]]]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        return {
            "given": list(self.given),
            "samples": self.samples,
            "seed": self.seed,
            "targets": [
                {
                    "target": entry.target,
                    "count": entry.count,
                    "scores": [
                        {
                            "metric": name,
                            "higher_is_better": how.higher_is_better,
                            "best_guess": finite(entry.best_guess[name]),
                            "single": finite(entry.single[name]),
                            "merged": {str(n): finite(found[name]) for n, found in entry.merged.items()},
                        }
                        for name, how in metrics(entry.target).items()
                    ],
                    "uncertainty": {key: finite(value) for key, value in vars(entry.uncertainty).items()},
                }
                for entry in self.targets
            ],
        }


def ensemble_study(
    model: AnyToAny,
    samples: Sequence[Sample],
    targets: Sequence[str],
    given: tuple[str, ...] = ("rgb",),
    *,
    count: int = 8,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> EnsembleStudy:
    """Predict ``targets`` of held-out scenes ``count`` times, merge, and compare with the truth.

    Args:
        samples: values by modality, as the model sees them; those without a target or an input are passed over.
        count: samples of each scene, at least 2; scene i has the seeds ``seed + i·count`` and on.

    Raises:
        GenerationError: fewer than two samples, or no scene that holds a target and what is given.
    """
    if count < 2:
        raise GenerationError(f"An ensemble of {count} is none; expected at least 2 samples.")
    found: list[EnsembleScores] = []
    items: dict[str, list[tuple[Sample, MergedItem]]] = {}
    for target in targets:
        scenes = scenes_with(samples, (*given, target))
        inputs = [{name: scene[name] for name in given} for scene in scenes]
        best = direct_plan(model, [target], given)
        guesses = run_rows(
            model, [(x, seed + i * count) for i, x in enumerate(inputs)], best, batch_size, progress,
            f"{target}, best guess",
        )  # fmt: skip
        rows = [(x, seed + i * count + k) for i, x in enumerate(inputs) for k in range(count)]
        drawn = [r[target] for r in run_rows(model, rows, sampling_plan(best), batch_size, progress, target)]
        groups = [drawn[start : start + count] for start in range(0, len(drawn), count)]
        found.append(_scores(target, scenes, [guess[target] for guess in guesses], groups))
        items[target] = [(scene, MergedItem(group)) for scene, group in zip(scenes, groups, strict=True)]
    return EnsembleStudy(given, count, seed, tuple(found), items)


def _scores(
    target: str, scenes: Sequence[Sample], guesses: Sequence[Item], groups: Sequence[Sequence[Item]]
) -> EnsembleScores:
    modality, count = get_modality(target), len(groups[0])
    singles = [score(target, [group[k].square for group in groups], scenes) for k in range(count)]
    merged, largest = {}, []
    for size in _sizes(count):
        largest = [modality.merge([item.square for item in group[:size]]) for group in groups]
        merged[size] = score(target, [one.value for one in largest], scenes)
    single = {name: float(np.mean([found[name] for found in singles])) for name in singles[0]}
    best = score(target, [guess.square for guess in guesses], scenes)
    return EnsembleScores(target, len(scenes), best, single, merged, _uncertainty(target, largest, scenes))


def _sizes(count: int) -> list[int]:
    """2, 4, 8, … and ``count`` itself."""
    powers = [2**k for k in range(1, count.bit_length()) if 2**k < count]
    return [*powers, count]


def _uncertainty(target: str, merged: Sequence[Merged[Any]], scenes: Sequence[Sample]) -> Uncertainty:
    modality = get_modality(target)
    errors = [modality.errors(one.value, scene[target]) for one, scene in zip(merged, scenes, strict=True)]
    pictures = rank_correlation([one.uncertainty for one in merged], [_mean(error) for error in errors])
    maps = [
        (one.spread, error) for one, error in zip(merged, errors, strict=True) if one.spread.shape == error.shape != ()
    ]
    inside = [rank_correlation(spread, error) for spread, error in maps]
    return Uncertainty(_mean(np.array(inside)), pictures, _mean(np.array([_surest_half(*pair) for pair in maps])))


def _surest_half(spread: np.ndarray, error: np.ndarray) -> float:
    """Mean error of the places with the lower half of the spread, as a share of the mean error; ties count evenly."""
    known = np.isfinite(error) & np.isfinite(spread)
    level, wrong = spread[known], error[known]
    if not wrong.size or not wrong.mean():
        return float("nan")
    middle = np.median(level)
    below, equal = level < middle, level == middle
    missing = wrong.size / 2 - below.sum()  # how many of those at the median belong to the half
    at_median = missing * wrong[equal].mean() if missing else 0.0
    return float((wrong[below].sum() + at_median) / (wrong.size / 2) / wrong.mean())


def _mean(values: np.ndarray) -> float:
    """Mean of the finite numbers; NaN where there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")
