"""The any-to-any matrix: every modality alone into every other one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Progress, Report, predict
from open4m.evaluation.measures import Sample, metrics, score
from open4m.generation.pipeline import AnyToAny

SAMPLES = 32
"""Of a matrix; the table has more."""


@dataclass(frozen=True)
class Matrix:
    """Scores of ``targets`` (columns) from each of ``given`` (rows) alone, by the first metric of the target.

    Attributes:
        metric: target → name of its metric.
        values: NaN where the modality itself was given, and for scores that do not exist.
        shares: the same on a scale on which 0 is the constant and 1 the bound of the report; may leave [0, 1].
        count: samples.
    """

    given: tuple[str, ...]
    targets: tuple[str, ...]
    metric: dict[str, str]
    values: tuple[tuple[float, ...], ...]
    shares: tuple[tuple[float, ...], ...]
    count: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        return {
            "given": list(self.given),
            "targets": list(self.targets),
            "metric": self.metric,
            "values": _without_nan(self.values),
            "shares": _without_nan(self.shares),
            "count": self.count,
        }


def any_to_any(
    model: AnyToAny,
    samples: Sequence[Sample],
    report: Report,
    count: int = SAMPLES,
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Matrix:
    """Predict the targets of ``report`` from each input of the model alone.

    Args:
        samples: those of the report; the first ``count`` that hold all targets are used.
        report: its constants and bounds are the ends of the scale.

    Raises:
        GenerationError: fewer than two samples hold all targets.
    """
    targets = [entry.target for entry in report.targets]
    complete = [sample for sample in samples if all(name in sample for name in targets)][:count]
    if len(complete) < 2:
        raise GenerationError(f"{len(complete)} samples hold all targets; the any-to-any matrix needs at least two.")
    given = [name for name in model.inputs if all(name in sample for sample in complete)]
    metric = {name: next(iter(metrics(name))) for name in targets}
    values = []
    for row, name in enumerate(given):
        made = predict(model, complete, (name,), targets, seed=report.seed, batch_size=batch_size)
        values.append(
            tuple(
                math.nan if target == name else score(target, [p[target] for p in made], complete)[metric[target]]
                for target in targets
            )
        )
        if progress is not None:
            progress("any to any", row + 1, len(given))
    ends = [(entry.constant[metric[entry.target]], entry.bound[metric[entry.target]]) for entry in report.targets]
    shares = tuple(tuple(share(v, *end) for v, end in zip(row, ends, strict=True)) for row in values)
    return Matrix(tuple(given), tuple(targets), metric, tuple(values), shares, len(complete))


def share(value: float, constant: float, bound: float) -> float:
    """How far ``value`` is on the way from the constant (0) to the bound (1); NaN where there is no way."""
    if not np.isfinite([value, constant, bound]).all() or abs(bound - constant) < 1e-9:
        return math.nan
    return (value - constant) / (bound - constant)


def _without_nan(table: Sequence[Sequence[float]]) -> list[list[float | None]]:
    return [[value if math.isfinite(value) else None for value in row] for row in table]
