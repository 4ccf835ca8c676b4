"""Scores of a model on held-out data, beside what it must beat and what its tokenizers allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from open4m.errors import GenerationError
from open4m.evaluation.baselines import baselines
from open4m.generation.pipeline import AnyToAny
from open4m.modalities.registry import get_modality

Scores = dict[str, float]


@dataclass(frozen=True)
class TargetScores:
    """Scores of one target.

    Attributes:
        target: modality.
        model: metric → score of the model's predictions.
        baselines: baseline → metric → score.
        bound: score of the truth after going through the tokenizer (or grammar) and back: no prediction in tokens
            can be expected to be better.
    """

    target: str
    model: Scores
    baselines: dict[str, Scores]
    bound: Scores


@dataclass(frozen=True)
class Report:
    """What was measured, on what.

    Attributes:
        model: name of the model.
        data: where the samples came from.
        inputs: modalities that were given.
        samples: how many.
        seed: of the generation; sample i used seed + i.
        targets: one entry per target.
    """

    model: str
    data: str
    inputs: tuple[str, ...]
    samples: int
    seed: int
    targets: tuple[TargetScores, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; scores that do not exist (no truth has a box, …) become None."""
        return _without_nan(asdict(self))


def evaluate(
    model: AnyToAny,
    samples: Sequence[Mapping[str, Any]],
    given: Sequence[str],
    targets: Sequence[str] | None = None,
    *,
    data: str = "",
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> tuple[Report, list[dict[str, Any]]]:
    """Generate ``targets`` from ``given`` for every sample and score them.

    Args:
        samples: held-out values by modality (:func:`~open4m.evaluation.samples.read_values`), as the model sees them
            (:meth:`~open4m.generation.pipeline.AnyToAny.view`); at least two.
        targets: default: all that the model predicts and the samples hold, but the given ones.
        progress: called with the number of samples finished since the last call.

    Returns:
        The report, and the predicted values sample by sample.
    """
    if batch_size < 1:
        raise GenerationError(f"batch_size is {batch_size}; expected at least 1.")
    if len(samples) < 2:
        raise GenerationError(f"{len(samples)} samples given; scores and their baselines need at least two.")
    targets = [t for t in (targets or model.targets) if t in samples[0] and t not in given]
    if not targets:
        raise GenerationError("Nothing to score: no target is in the samples without being given.")
    predictions: list[dict[str, Any]] = []
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        inputs = {name: [sample[name] for sample in batch] for name in given}
        seeds = [seed + start + i for i in range(len(batch))]
        result = model.generate(inputs, targets, seed=seeds)
        predictions += [{name: result[name][i].value for name in targets} for i in range(len(batch))]
        if progress is not None:
            progress(len(batch))
    scores = tuple(_score(model, name, samples, predictions) for name in targets)
    return Report(model.bundle.info.name, data, tuple(given), len(samples), seed, scores), predictions


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_nan(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
    return value


def _score(
    model: AnyToAny, name: str, samples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> TargetScores:
    modality = get_modality(name)
    truths = [sample[name] for sample in samples]
    return TargetScores(
        name,
        modality.score([prediction[name] for prediction in predictions], truths),
        {label: modality.score(make(modality, truths), truths) for label, make in baselines(modality).items()},
        modality.score(model.reconstruct(name, truths), truths),
    )
