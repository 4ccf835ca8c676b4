"""Running one plan on many scenes, with any seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Progress
from open4m.evaluation.measures import Sample as Scene
from open4m.generation.agreement import best_rows
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan
from open4m.generation.result import Sample

Row = tuple[Mapping[str, Any], int]
"""Inputs by modality, and a seed."""


def scenes_with(samples: Sequence[Scene], names: Sequence[str]) -> list[Scene]:
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
    best_of: int = 1,
) -> list[Sample]:
    """For every row, what the plan was asked for, and its seed. All rows give the same modalities, those of the plan.

    Args:
        batch_size: samples that are generated together (all candidates of a row are); results do not depend on it.
        best_of: candidates of each row, of which the one that agrees best with the inputs is kept
            (:mod:`open4m.generation.agreement`); those of seed s have the seeds ``s · best_of`` and on.
        progress: called as ``progress(what, done, total)``.
    """
    found: list[Sample] = []
    together = max(1, batch_size // best_of)
    for start in range(0, len(rows), together):
        batch = [(given, seed * best_of + k) for given, seed in rows[start : start + together] for k in range(best_of)]
        names = list(batch[0][0])
        inputs = {name: [given[name] for given, _ in batch] for name in names}
        result = model.generate(inputs, plan=plan, seed=[seed for _, seed in batch], samples=len(batch))
        kept = range(len(batch))
        if best_of > 1:
            kept = best_rows(model.bundle.model, result, best_of)
        found += [result.samples[row] for row in kept]
        if progress is not None:
            progress(what, len(found), len(rows))
    return found
