"""Sweeps: one control over several values, and whether what is generated follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Progress, direct_plan
from open4m.generation.agreement import check_best_of
from open4m.generation.defaults import as_names
from open4m.generation.passes import Weights
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan
from open4m.generation.result import Item
from open4m.steering.controls import Control
from open4m.steering.ranks import mean_rank_correlation, rank_correlation
from open4m.steering.runs import finite, run_rows

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Follows:
    """Whether one measure follows what was asked for.

    Attributes:
        measure: what was measured.
        correlation: mean over the contexts of the rank correlation of asked and measured numbers.
        chance: of at least this correlation if nothing followed (permutation test).
        pooled: rank correlation over all pictures at once; lower where the contexts differ among themselves.
        asked: (V,) the numbers asked for.
        found: (V,) what was measured, means over the contexts.
        unmeasured: pictures that the measure says nothing of (no surface, no normals), left out everywhere.
    """

    measure: str
    correlation: float
    chance: float
    pooled: float
    asked: tuple[float, ...]
    found: tuple[float, ...]
    unmeasured: int

    @property
    def follows(self) -> bool:
        """More than chance allows."""
        return self.correlation > 0 and self.chance < SIGNIFICANT

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        return {
            "measure": self.measure,
            "rank_correlation": finite(self.correlation),
            "chance": self.chance,
            "pooled_rank_correlation": finite(self.pooled),
            "follows": self.follows,
            "asked": list(self.asked),
            "measured": [finite(value) for value in self.found],
            "unmeasured": self.unmeasured,
        }


@dataclass(frozen=True)
class Sweep:
    """What a sweep made.

    Attributes:
        control: name of what was varied.
        modality: what carried the control.
        given: modalities of the contexts.
        via: modalities that were asked for on the way.
        labels: (V,) the asked values.
        requests: (V,) the values of ``modality`` in the first context.
        output: what was generated.
        items: (contexts, V) generated items.
        seeds: (contexts, V) of the items: the same along a strip, but where candidates were chosen.
        best_of: candidates of every item.
        checks: one per measure.
        plan: how everything was generated.
    """

    control: str
    modality: str
    given: tuple[str, ...]
    via: tuple[str, ...]
    labels: tuple[str, ...]
    requests: tuple[Any, ...]
    output: str
    items: tuple[tuple[Item, ...], ...]
    seeds: tuple[tuple[int, ...], ...]
    best_of: int
    checks: tuple[Follows, ...]
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "control": self.control,
            "given": list(self.given),
            "via": list(self.via),
            "values": list(self.labels),
            "output": self.output,
            "contexts": len(self.items),
            "seeds": [list(strip) for strip in self.seeds],
            "best_of": self.best_of,
            "checks": [check.to_dict() for check in self.checks],
            "plan": self.plan.to_dict(),
        }


def sweep(
    model: AnyToAny,
    control: Control,
    values: Sequence[Any],
    contexts: Sequence[Mapping[str, Any]],
    *,
    via: Sequence[str] = (),
    guidance: Weights | None = None,
    best_of: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Sweep:
    """Generate the control's output for every value in every context, and measure it.

    Args:
        values: at least two.
        contexts: what else is given, as the model sees it; the same modalities in all, or none. Context i has the seed
            ``seed + i`` at every value, so that only the control differs along a strip (candidates: :func:`run_rows`).
        via: modalities to generate first, in this order: of a number of people first their boxes, then the picture.
        guidance: as of :meth:`AnyToAny.plan`, but one number is the weight of the control alone,
            ``{control.modality: guidance}``; default: as in the plan, on everything that is given.
        best_of: candidates of every picture, of which the one that agrees best with what was given is kept.

    Raises:
        GenerationError: fewer than two values or no context, or the model knows the control or its output not.
    """
    if len(values) < 2 or not contexts:
        raise GenerationError(f"{control.name}: {len(values)} values in {len(contexts)} contexts; expected 2 and 1.")
    rows = [
        ({**context, control.modality: control.value(value, context.get(control.modality))}, seed + number)
        for number, context in enumerate(contexts)
        for value in values
    ]
    via = as_names(via)
    plan = sweep_plan(model, control, contexts[0], via=via, guidance=guidance, best_of=best_of)
    made = run_rows(model, rows, plan, batch_size, progress, control.name, best_of)
    outputs = [items[control.output] for items in made]
    pictures, seeds = [item.square for item in outputs], [seed for _, seed in rows]
    read = _read(model, control, pictures, seeds, batch_size, progress)
    numbers = np.array([control.measure(found) for found in read])
    table = numbers.reshape(len(contexts), len(values), -1)
    asked = np.array([control.expected(value) for value in values], dtype=np.float64)
    checks = tuple(_check(name, asked[:, column], table[:, :, column]) for column, name in enumerate(control.measures))
    strips = [made[start : start + len(values)] for start in range(0, len(made), len(values))]
    return Sweep(
        control.name,
        control.modality,
        tuple(contexts[0]),
        tuple(via),
        tuple(map(control.label, values)),
        tuple(row[control.modality] for row, _ in rows[: len(values)]),
        control.output,
        tuple(tuple(sample[control.output] for sample in strip) for strip in strips),
        tuple(tuple(sample.seed for sample in strip) for strip in strips),
        best_of,
        checks,
        plan,
    )


def sweep_plan(
    model: AnyToAny,
    control: Control,
    context: Mapping[str, Any],
    *,
    via: Sequence[str] = (),
    guidance: Weights | None = None,
    best_of: int = 1,
) -> Plan:
    """How a sweep generates. Raises :class:`GenerationError` for what cannot be done; arguments: :func:`sweep`."""
    given = list(dict.fromkeys((*context, control.modality)))
    if both := [name for name in via if name in given and name != "metadata"]:  # of which there is more to generate
        raise GenerationError(f"{control.name}: {', '.join(both)} on the way, yet given. Leave out one of them.")
    weights = {control.modality: guidance} if isinstance(guidance, float | int) else guidance
    plan = model.plan([control.output], given, via=via, guidance=weights)
    check_best_of(model.bundle.model.config, plan, best_of)
    return plan


def reading(
    model: AnyToAny,
    control: Control,
    samples: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> tuple[float, ...]:
    """How well a control's measures can be trusted: rank correlation of measured and true, on real pictures.

    1 where nothing is read. A sweep can hardly show a higher correlation than this.

    Args:
        samples: labelled, with ``control.output``, ``control.reads``, and metadata for a field of them.

    Returns:
        one correlation for each measure; NaN if the samples do not vary.
    """
    if not control.reads:
        return (1.0,) * len(control.measures)
    pictures = [sample[control.output] for sample in samples]
    read = _read(model, control, pictures, [0] * len(pictures), batch_size, progress)
    measured, true = (np.array(rows) for rows in ([*map(control.measure, read)], [*map(control.truth, samples)]))
    return tuple(rank_correlation(true[:, column], measured[:, column]) for column in range(len(control.measures)))


def _read(
    model: AnyToAny,
    control: Control,
    pictures: Sequence[Any],
    seeds: Sequence[int],
    batch_size: int,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Values of the control's output, with what the model reads from them."""
    found = [{control.output: picture} for picture in pictures]
    if control.reads:
        plan = direct_plan(model, control.reads, (control.output,))
        rows = list(zip(found, seeds, strict=True))
        read = run_rows(model, rows, plan, batch_size, progress, f"{control.name}, measured")
        for values, items in zip(found, read, strict=True):
            values |= {name: item.square for name, item in items.items()}
    return found


def _check(name: str, asked: np.ndarray, found: np.ndarray) -> Follows:
    """One measure: asked (V,), found (contexts, V), NaN where there was nothing to measure."""
    correlation, chance = mean_rank_correlation(asked, found)
    pooled = rank_correlation(np.broadcast_to(asked, found.shape), found)
    known = np.ma.masked_invalid(found)
    means = tuple(known.mean(axis=0).filled(np.nan).tolist())
    return Follows(name, correlation, chance, pooled, tuple(asked.tolist()), means, found.size - int(known.count()))
