"""Searching the plan for a target: which intermediates to think of first, and with which settings.

A random local search under a time budget, on scenes that the final comparison does not use.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import direct_plan
from open4m.evaluation.measures import Sample, Scores, better, metrics, score
from open4m.generation.defaults import NOT_AVERAGED, target_plan
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan, TargetPlan
from open4m.steering.runs import finite, run_rows, scenes_with
from open4m.streams import StreamKind, StreamSpec

STEPS = (1, 2, 4, 8, 16, 32)
TEMPERATURES = (0.01, 0.1, 0.3, 0.6, 1.0, 1.5, 2.5)
GUIDANCE = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
LONGEST = 3
"""Intermediates of a chain."""

_FIRST = 4
"""A new plan is dropped if it does worse than the best one on the first 1/4 of the scenes."""

_TRIES, _RESAMPLED = 200, 2000
_SAME = 1e-2  # of scores on machines that round differently


@dataclass(frozen=True)
class Trial:
    """One plan that was tried.

    Attributes:
        plan: what was tried.
        change: what makes it different from the best plan before it.
        score: on the search scenes; on ``scenes`` of them where it was dropped early.
        first: on the first part of them.
        scenes: how many were generated.
        seconds: that it took.
    """

    plan: Plan
    change: str
    score: float
    first: float
    scenes: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        return {
            "change": self.change,
            "chain": [t.modality for t in self.plan.targets],
            "score": finite(self.score),
            "first": finite(self.first),
            "scenes": self.scenes,
            "seconds": round(self.seconds, 3),
            "plan": self.plan.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trial:
        """Inverse of :meth:`to_dict`. Raises :class:`GenerationError` for anything else."""
        try:
            score, first = (math.nan if values[key] is None else float(values[key]) for key in ("score", "first"))
            plan, seconds = Plan.from_dict(values["plan"]), float(values["seconds"])
            return cls(plan, str(values["change"]), score, first, int(values["scenes"]), seconds)
        except (KeyError, TypeError, ValueError) as error:
            raise GenerationError(f"This is not a trial of tune-chain: {error!r}.") from error


@dataclass
class Search:
    """The search for one target; :attr:`trials` grows, and can be stored and taken up again.

    Args:
        model: a trained model.
        target: modality.
        samples: of the search; the comparison at the end must use others.
        given: modalities that are given.
        candidates: modalities that may be intermediates; default: :func:`intermediates`.
        seed: of the search, and of the generation (scene i has ``seed + i``).
        batch_size: scenes that are generated together.
        trials: of an earlier search of the same kind.
    """

    model: AnyToAny
    target: str
    samples: Sequence[Sample]
    given: tuple[str, ...] = ("rgb",)
    candidates: Sequence[str] | None = None
    seed: int = 0
    batch_size: int = 16
    trials: list[Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.samples = scenes_with(self.samples, (*self.given, self.target))
        known = intermediates(self.model, self.target, self.given)
        wrong = [name for name in self.candidates or () if name not in known]
        if wrong:
            raise GenerationError(
                f"{', '.join(wrong)} cannot be an intermediate on the way from {' and '.join(self.given)} to "
                f"{self.target}. Possible: {', '.join(known)}."
            )
        self.candidates = known if self.candidates is None else list(self.candidates)

    def settings(self) -> dict[str, Any]:
        """What a stored search must agree in to be taken up again."""
        return {
            "model": self.model.bundle.info.name,
            "dtype": _number_format(self.model),
            "target": self.target,
            "given": list(self.given),
            "candidates": list(self.candidates or ()),
            "scenes": len(self.samples),
            "seed": self.seed,
        }

    def resume(self, stored: Mapping[str, Any]) -> None:
        """Take over the trials of a stored search: ``{"settings": …, "trials": […]}``.

        Raises:
            GenerationError: it is no such thing, or was made with other settings, another model or other scenes.
        """
        found = stored.get("settings") if isinstance(stored, Mapping) else None
        if found != self.settings():
            raise GenerationError(
                f"The stored search was made with {json.dumps(found)}, this one has {json.dumps(self.settings())}. "
                "Use the same settings, or another folder."
            )
        trials = [Trial.from_dict(trial) for trial in stored.get("trials", ())]
        again = self._first(trials[0].plan)[1] if trials else 0.0
        if trials and not math.isclose(again, trials[0].first, rel_tol=_SAME):
            raise GenerationError(
                f"The stored search has {trials[0].first:.6g} for its first plan, which now scores {again:.6g}: the "
                "model or the scenes have changed. Use another folder."
            )
        self.trials = trials

    @property
    def best(self) -> Trial:
        """The best of the plans that saw all scenes."""
        how = next(iter(metrics(self.target).values()))
        whole = [trial for trial in self.trials if trial.scenes == len(self.samples)]
        best = whole[0]
        for trial in whole[1:]:
            best = trial if better(how, trial.score, best.score) else best
        return best

    def run(self, seconds: float, most: int | None = None, tell: Callable[[Trial], None] | None = None) -> None:
        """Try plans until the time is over; the default plan and the best guess in one step always.

        Args:
            most: trials, those of earlier runs included; with it and enough time, equal seeds find equal plans.
            tell: called after every trial.
        """
        end = time.monotonic() + seconds
        seen = {_key(trial.plan) for trial in self.trials}

        def attempt(plan: Plan, change: str) -> None:
            if _key(plan) not in seen:
                seen.add(_key(plan))
                self.trials.append(self._try(plan, change))
                if tell is not None:
                    tell(self.trials[-1])

        attempt(self.model.plan([self.target], self.given), "default")
        attempt(direct_plan(self.model, [self.target], self.given), "best guess in one step")
        while time.monotonic() < end and (most is None or len(self.trials) < most):
            generator = np.random.default_rng((self.seed, len(self.trials)))  # so that a search can be taken up again
            changed = self._neighbour(self.best.plan, generator, seen)
            if changed is None:
                break  # every neighbour was tried
            attempt(*changed)

    def _try(self, plan: Plan, change: str) -> Trial:
        """A plan on all scenes, or on the first part of them if it does worse there than the best plan did."""
        start, count = time.monotonic(), len(self.samples)
        predictions, first = self._first(plan)
        part = len(predictions)
        how = next(iter(metrics(self.target).values()))
        if part < count and (not self.trials or not better(how, self.best.first, first)):
            rest = self.samples[part:]
            predictions += predictions_of(self.model, rest, plan, self.given, self.seed + part, self.batch_size)
        seen = len(predictions)
        result = _primary(self.target, predictions, self.samples[:seen])
        return Trial(plan, change, result, first, seen, time.monotonic() - start)

    def _first(self, plan: Plan) -> tuple[list[Any], float]:
        """Predictions for the first part of the scenes, and their score."""
        part = self.samples[: max(2, len(self.samples) // _FIRST)]
        predictions = predictions_of(self.model, part, plan, self.given, self.seed, self.batch_size)
        return predictions, _primary(self.target, predictions, part)

    def _neighbour(self, plan: Plan, generator: np.random.Generator, seen: set[str]) -> tuple[Plan, str] | None:
        """A plan that was not yet seen, one change away (after many failures, two); and what was changed."""
        assert self.candidates is not None
        for attempt in range(_TRIES):
            changed, change = _change(self.model, plan, self.candidates, generator)
            if attempt > _TRIES // 2:
                changed, second = _change(self.model, changed, self.candidates, generator)
                change = f"{change}; {second}"
            if _key(changed) not in seen:
                return changed, change
        return None


def intermediates(model: AnyToAny, target: str, given: Sequence[str]) -> list[str]:
    """Grids and sets that the model can both predict and read, and that are neither given nor the target."""
    names = [s.modality for s in _readable(model)]
    return [name for name in dict.fromkeys(names) if name not in (target, *given)]


def _number_format(model: AnyToAny) -> str:
    """Of the weights: ``float32``, …, ``int8``."""
    weights = model.bundle.model
    return "int8" if weights.quantized else str(weights.mask_token.dtype).removeprefix("torch.")


def _readable(model: AnyToAny) -> list[StreamSpec]:
    streams = model.bundle.model.config.streams
    return [s for s in streams if s.kind is StreamKind.TOKENS and s.is_input and s.is_target]


def predictions_of(
    model: AnyToAny, samples: Sequence[Sample], plan: Plan, given: Sequence[str], seed: int, batch_size: int
) -> list[Any]:
    """The target's value for each sample; sample i has ``seed + i``."""
    rows = [({name: sample[name] for name in given}, seed + i) for i, sample in enumerate(samples)]
    (target,) = plan.requested
    return [found[target].square for found in run_rows(model, rows, plan, batch_size)]


# -- changes ----------------------------------------------------------------------------------------------------------
def _change(model: AnyToAny, plan: Plan, candidates: Sequence[str], generator: np.random.Generator) -> tuple[Plan, str]:
    """One random change of a plan: an intermediate more or less, or a setting of one of its targets."""
    on_the_way = [t.modality for t in plan.targets if t.modality not in plan.requested]
    free = [name for name in candidates if name not in on_the_way]
    kind = generator.random()
    if kind < 0.3 and free and len(on_the_way) < LONGEST:
        name, place = str(generator.choice(free)), int(generator.integers(len(on_the_way) + 1))
        spec = next(s for s in _readable(model) if s.modality == name)
        new = replace(target_plan(model.bundle, spec, True), decode="tokens")
        return _chained([*plan.targets[:place], new, *plan.targets[place:]], plan), f"{name} at place {place + 1}"
    if kind < 0.45 and on_the_way:
        name = str(generator.choice(on_the_way))
        return _chained([t for t in plan.targets if t.modality != name], plan), f"without {name}"
    number = int(generator.integers(len(plan.targets)))
    old = plan.targets[number]
    new, what = _setting(old, generator)
    targets = [*plan.targets[:number], new, *plan.targets[number + 1 :]]
    return _chained(targets, plan), f"{old.modality} {what}"


def _chained(targets: Sequence[TargetPlan], plan: Plan) -> Plan:
    """A chain of these targets."""
    return replace(plan, targets=tuple(replace(target, sees=()) for target in targets)).chain()


def _setting(target: TargetPlan, generator: np.random.Generator) -> tuple[TargetPlan, str]:
    """One setting moved to a neighbouring value."""
    names = ["guidance"] if target.decode == "expected" else ["guidance", "temperature"]  # whose draws do not count
    names += [] if target.is_sequence else ["steps", "decode"]
    name = str(generator.choice(names))
    if name == "decode" and target.steps == 1 and target.modality not in NOT_AVERAGED:
        decode = "expected" if target.decode == "tokens" else "tokens"
        return replace(target, decode=decode), f"decode {decode}"
    if name == "temperature":
        value = _near(TEMPERATURES, target.temperature, generator)
        return replace(target, temperature=value, temperature_schedule="constant"), f"temperature {value:g}"
    if name == "guidance":
        current = target.guidance if isinstance(target.guidance, float | int) else 1.0
        value = _near(GUIDANCE, current, generator)
        return replace(target, guidance=float(value)), f"guidance {value:g}"
    steps = int(_near([s for s in STEPS if s <= target.tokens], target.steps, generator))
    return replace(target, steps=steps, decode="tokens" if steps > 1 else target.decode), f"steps {steps}"


def _near(ladder: Sequence[float], value: float, generator: np.random.Generator) -> float:
    """A neighbour of ``value`` on a ladder, or of its nearest rung."""
    place = int(np.abs(np.log(np.array(ladder) / value)).argmin())
    moved = place + int(generator.choice([-1, 1]))
    return ladder[min(max(moved, 0), len(ladder) - 1)]


def _primary(target: str, predictions: Sequence[Any], samples: Sequence[Sample]) -> float:
    return score(target, predictions, samples)[next(iter(metrics(target)))]


def _key(plan: Plan) -> str:
    """Equal for plans that do the same."""
    return json.dumps(plan.to_dict()["targets"], sort_keys=True)


# -- comparison -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """Two plans on scenes that the search did not see.

    Attributes:
        count: scenes.
        before, after: metric → score of the two plans.
        wins: share of random choices of the scenes (with replacement) in which the second plan is better, by the first
            metric of every scene by itself; about 0.5 where there is no difference.
    """

    count: int
    before: Scores
    after: Scores
    wins: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        sides = {"before": self.before, "after": self.after}
        scores = {side: {name: finite(value) for name, value in found.items()} for side, found in sides.items()}
        return {"count": self.count, **scores, "wins": self.wins}


def compare(
    model: AnyToAny,
    target: str,
    samples: Sequence[Sample],
    before: Plan,
    after: Plan,
    given: tuple[str, ...] = ("rgb",),
    *,
    seed: int = 0,
    batch_size: int = 16,
) -> Comparison:
    """Scores of two plans on the same scenes with the same seeds."""
    held = scenes_with(samples, (*given, target))
    first, second = (predictions_of(model, held, plan, given, seed, batch_size) for plan in (before, after))
    single = [[_primary(target, [p], [s]) for p, s in zip(side, held, strict=True)] for side in (first, second)]
    gain = np.nan_to_num(np.array(single[1]) - np.array(single[0]))
    gain = gain if next(iter(metrics(target).values())).higher_is_better else -gain
    drawn = gain[np.random.default_rng(seed).integers(len(held), size=(_RESAMPLED, len(held)))].mean(axis=1)
    wins = float(np.mean((drawn > 0) + 0.5 * (drawn == 0)))
    return Comparison(len(held), score(target, first, held), score(target, second, held), wins)
