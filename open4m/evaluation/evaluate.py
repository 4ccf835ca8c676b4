"""Scores of a model on held-out data, beside what it must beat and what its tokenizers allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from open4m.errors import GenerationError
from open4m.evaluation.baselines import constants
from open4m.evaluation.measures import Sample, Scores, better, metrics, score
from open4m.generation.defaults import target_plan
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan

Given = tuple[str, ...]
"""Modalities that are given together."""

REQUESTS: tuple[Given, ...] = (("rgb",), ("caption",))
"""What is given in the columns of a full table."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


@dataclass(frozen=True)
class TargetScores:
    """Scores of one target.

    Attributes:
        target: modality.
        count: samples that hold its truth.
        constant: metric → score of the strongest prediction made without looking (:mod:`.baselines`).
        bound: score of the truth after going through the tokenizer (or grammar) and back: no prediction in tokens
            can be expected to be better.
        model: :func:`label` of what was given → score of the model's predictions. Empty where the target was given.
    """

    target: str
    count: int
    constant: Scores
    bound: Scores
    model: dict[str, Scores]


@dataclass(frozen=True)
class Report:
    """What was measured, on what.

    Attributes:
        model: name of the model.
        data: where the samples came from.
        requests: what was given.
        samples: how many.
        seed: of the generation; sample i used seed + i.
        targets: one entry per target.
    """

    model: str
    data: str
    requests: tuple[Given, ...]
    samples: int
    seed: int
    targets: tuple[TargetScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: one entry per target and metric, the first of a target being the one to compare by.

        ``rgb`` and ``caption`` are always there; scores that do not exist (no truth has a box, …) are None.
        """
        columns = dict.fromkeys(["rgb", "caption", *map(label, self.requests)])
        entries = [
            {
                "target": entry.target,
                "metric": name,
                "higher_is_better": how.higher_is_better,
                "constant": _number(entry.constant, name),
                "bound": _number(entry.bound, name),
                **{column: _number(entry.model.get(column, {}), name) for column in columns},
                "count": entry.count,
            }
            for entry in self.targets
            for name, how in metrics(entry.target).items()
        ]
        return {
            "model": self.model, "data": self.data, "samples": self.samples, "seed": self.seed, "targets": entries,
        }  # fmt: skip


def label(given: Given) -> str:
    """``depth+color_palette``."""
    return "+".join(given)


def evaluate(
    model: AnyToAny,
    samples: Sequence[Sample],
    requests: Sequence[Given] = REQUESTS,
    targets: Sequence[str] | None = None,
    *,
    data: str = "",
    seed: int = 0,
    batch_size: int = 16,
    chained: bool = False,
    progress: Progress | None = None,
) -> tuple[Report, dict[str, list[dict[str, Any]]]]:
    """Generate ``targets`` from what each of ``requests`` gives, for every sample, and score them.

    Args:
        samples: held-out values by modality (:func:`~open4m.evaluation.samples.read_values`), as the model sees them
            (:meth:`~open4m.generation.pipeline.AnyToAny.view`); at least two. Not all need to hold all targets.
        targets: default: all that the model predicts and any sample holds.
        chained: as ``model.generate`` does by default, see :func:`direct_plan`.

    Returns:
        The report; and by :func:`label` of the request, the predicted values sample by sample.
    """
    if batch_size < 1:
        raise GenerationError(f"batch_size is {batch_size}; expected at least 1.")
    if len(samples) < 2:
        raise GenerationError(f"{len(samples)} samples given; scores and their baselines need at least two.")
    asked = [t for t in dict.fromkeys(targets or model.targets) if any(t in sample for sample in samples)]
    asked = [t for t in asked if any(t not in given for given in requests)]
    if not asked:
        raise GenerationError("Nothing to score: no target is in the samples without being given.")
    made = {
        label(given): predict(
            model, samples, given, asked, seed=seed, batch_size=batch_size, chained=chained, progress=progress
        )
        for given in requests
    }
    scores = []
    for number, target in enumerate(asked):
        scores.append(_score(model, target, samples, made))
        if progress is not None:
            progress("scores", number + 1, len(asked))
    report = Report(model.bundle.info.name, data, tuple(requests), len(samples), seed, tuple(scores))
    return report, made


def predict(
    model: AnyToAny,
    samples: Sequence[Sample],
    given: Given,
    targets: Sequence[str],
    *,
    seed: int = 0,
    batch_size: int = 16,
    chained: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """For every sample, predictions of those ``targets`` that it holds, from its ``given``; sample i has seed + i."""
    predictions: list[dict[str, Any]] = []

    def wanted(index: int) -> list[str]:
        held = all(name in samples[index] for name in given)
        return [t for t in targets if held and t in samples[index] and t not in given]

    for names, group in groupby(range(len(samples)), key=wanted):
        rows = list(group)
        plan = None if chained or not names else direct_plan(model, names, given)
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            if names:
                inputs = {name: [samples[row][name] for row in batch] for name in given}
                result = model.generate(inputs, names, seed=[seed + row for row in batch], plan=plan)
                predictions += [{name: result[name][i].value for name in names} for i in range(len(batch))]
            else:
                predictions += [{} for _ in batch]
            if progress is not None:
                progress(f"from {label(given) or 'nothing'}", len(predictions), len(samples))
    return predictions


def direct_plan(model: AnyToAny, targets: Sequence[str], given: Given) -> Plan:
    """Every target straight from what is given, grids in one step: the model's best guess, not one of many samples.

    These are the settings with which it works from a picture. ``model.plan`` differs where no picture is given: it
    makes one target after the other in many steps, which looks better, takes far longer and scores worse, since
    details are then made up.
    """
    plan = model.plan(targets, given)
    streams = [model.bundle.model.config.stream(plan[name].stream) for name in plan.requested]
    once = tuple(target_plan(model.bundle, spec, has_picture=True) for spec in streams)
    return replace(plan, targets=once).independent()


def _score(
    model: AnyToAny, target: str, samples: Sequence[Sample], made: Mapping[str, list[dict[str, Any]]]
) -> TargetScores:
    held = [sample for sample in samples if target in sample]
    truths = [sample[target] for sample in held]
    blind = [score(target, guess, held) for guess in constants(target, truths).values()]
    found: dict[str, Scores] = {}
    for name, predictions in made.items():
        pairs = [(p[target], s) for p, s in zip(predictions, samples, strict=True) if target in p]
        found[name] = score(target, *map(list, zip(*pairs, strict=True))) if pairs else {}
    bound = score(target, model.reconstruct(target, truths), held)
    return TargetScores(target, len(held), _strongest(target, blind), bound, found)


def _strongest(target: str, candidates: Sequence[Scores]) -> Scores:
    """Metric by metric the best of several scores."""
    best = dict(candidates[0])
    for name, how in metrics(target).items():
        for scores in candidates:
            if better(how, scores[name], best[name]):
                best[name] = scores[name]
    return best


def _number(scores: Scores, name: str) -> float | None:
    value = scores.get(name, math.nan)
    return value if math.isfinite(value) else None
