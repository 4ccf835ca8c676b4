"""Running one plan on many scenes, with any seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Progress
from open4m.evaluation.measures import Sample
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan
from open4m.generation.result import Item

Row = tuple[Mapping[str, Any], int]
"""Inputs by modality, and a seed."""


def scenes_with(samples: Sequence[Sample], names: Sequence[str]) -> list[Sample]:
    """The samples that hold all of these modalities. Raises :class:`GenerationError` if there are fewer than two."""
    held = [sample for sample in samples if all(name in sample for name in names)]
    if len(held) < 2:
        raise GenerationError(f"{len(held)} scenes hold {' and '.join(names)}; expected at least 2. Give more scenes.")
    return held


def finite(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None


def run_rows(
    model: AnyToAny,
    rows: Sequence[Row],
    plan: Plan,
    batch_size: int = 16,
    progress: Progress | None = None,
    what: str = "",
) -> list[dict[str, Item]]:
    """For every row, what the plan was asked for. All rows give the same modalities, those of the plan.

    Args:
        batch_size: rows that are generated together; results do not depend on it.
        progress: called as ``progress(what, done, total)``.
    """
    found: list[dict[str, Item]] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        names = list(batch[0][0])
        inputs = {name: [given[name] for given, _ in batch] for name in names}
        result = model.generate(inputs, plan=plan, seed=[seed for _, seed in batch], samples=len(batch))
        found += [{name: sample[name] for name in plan.requested} for sample in result.samples]
        if progress is not None:
            progress(what, len(found), len(rows))
    return found
