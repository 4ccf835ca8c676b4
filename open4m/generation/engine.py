"""Running a plan on a canvas: which targets share passes, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor

from open4m.generation.canvas import Canvas
from open4m.generation.decoding import SequenceJob, Written, draw, filling_grid, writing_sequences
from open4m.generation.grammar import grammar_of
from open4m.generation.passes import Passes, Views, predict
from open4m.generation.plan import Plan, TargetPlan
from open4m.modalities.registry import get_modality
from open4m.streams import StreamSpec
from open4m.tokenizers.text import TextTokenizer

Progress = Callable[[str, int, int], None]
"""Called as ``progress(target, done, total)`` after every step: of all steps of all targets ``done`` are done."""

Merge = Callable[[StreamSpec, Sequence[Sequence[int]]], tuple[Any, list[int]]]
"""The ids of every repeat of a sequence → what their values merge to, and the ids that say it."""


@dataclass
class Outcome:
    """What running a plan gave.

    Attributes:
        canvas: inputs and all targets.
        probabilities: (B, L, K) on the CPU, by stream, where the plan decodes expected values.
        repeated: by stream, for targets that are written repeatedly: for each sample the ids of every repeat. The
            canvas holds what they merge to (the first repeat, until the target is finished).
        merged: by stream, for the same targets: for each sample the value that the repeats merge to.
    """

    canvas: Canvas
    probabilities: dict[str, Tensor] = field(default_factory=dict)
    repeated: dict[str, list[list[list[int]]]] = field(default_factory=dict)
    merged: dict[str, list[Any]] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> Outcome:
        """The same for a selection of samples."""
        return Outcome(
            self.canvas.take(rows),
            {name: found[list(rows)] for name, found in self.probabilities.items()},
            {name: [ids[row] for row in rows] for name, ids in self.repeated.items()},
            {name: [values[row] for row in rows] for name, values in self.merged.items()},
        )

    def with_target(self, stream: str, made: Callable[[], Outcome]) -> Outcome:
        """The same with one more target, taken from where it was made."""
        part = made()
        probabilities = {name: p for name, p in part.probabilities.items() if name == stream}
        repeated = {name: ids for name, ids in part.repeated.items() if name == stream}
        merged = {name: values for name, values in part.merged.items() if name == stream}
        canvas = self.canvas.adopt(stream, part.canvas)
        return Outcome(canvas, self.probabilities | probabilities, self.repeated | repeated, self.merged | merged)


@dataclass(frozen=True)
class Moment:
    """Where generation stands.

    Attributes:
        target: modality that is being generated.
        step, steps: how many of its steps are done; a sequence takes one per word piece, and may end earlier.
        finished: whether the target is.
        outcome: makes the outcome so far, with this target as far as it is known; ask before generation goes on.
    """

    target: str
    step: int
    steps: int
    finished: bool
    outcome: Callable[[], Outcome]


def run(
    plan: Plan,
    canvas: Canvas,
    passes: Passes,
    seeds: Sequence[int],
    text: TextTokenizer | None = None,
    progress: Progress | None = None,
    merge: Merge | None = None,
) -> Outcome:
    """The outcome after the last of :func:`moments`.

    Args:
        progress: told about every step; a sequence that ends early is done with all of its steps.
        plan, canvas, passes, seeds, text, merge: see there.
    """
    outcome, done = Outcome(canvas), {}
    planned = {target.modality: target.tokens - 1 if target.is_sequence else target.steps for target in plan.targets}
    for moment in moments(plan, canvas, passes, seeds, text, merge):
        done[moment.target] = planned[moment.target] if moment.finished else moment.step
        if moment.finished:
            outcome = moment.outcome()
        if progress is not None:
            progress(moment.target, sum(done.values()), sum(planned.values()))
    return outcome


def moments(
    plan: Plan,
    canvas: Canvas,
    passes: Passes,
    seeds: Sequence[int],
    text: TextTokenizer | None = None,
    merge: Merge | None = None,
) -> Iterator[Moment]:
    """Generate the plan's targets, stopping after every step.

    A target's random draws depend on its stream and the sample's seed only, so an independent target comes out the
    same in every company (up to rounding), and every sample the same in every batch.

    Args:
        plan: see :class:`Plan`. Of targets that see the same, one-step ones that are guided alike share one encoder
            and one decoder pass, and all sequences are rows of one batch.
        canvas: the inputs of B samples.
        passes: of a trained model.
        seeds: one per sample.
        text: merges generated spans into their sequence; needed for sequence targets.
        merge: merges what was written repeatedly; needed for targets with repeats.
    """
    runner = _Runner(passes, seeds, text, merge)
    outcome = Outcome(canvas)
    try:
        for group in _companies(plan.targets):
            seen = canvas
            for name in group[0].sees:
                seen = seen.adopt(name, outcome.canvas)
            for moment in runner.targets(group, seen):
                made = partial(outcome.with_target, plan[moment.target].stream, moment.outcome)
                yield replace(moment, outcome=made)
                if moment.finished:
                    outcome = made()
    finally:
        passes.forget()


def _companies(targets: Iterable[TargetPlan]) -> list[list[TargetPlan]]:
    """Targets that are generated together, since they share their passes; grids in steps are alone.

    A target that sees another one comes after it: whatever the first of a company sees is finished before it.
    """
    groups: dict[Hashable, list[TargetPlan]] = {}
    for number, target in enumerate(targets):
        alone = not target.is_sequence and target.steps > 1
        groups.setdefault(number if alone else (target.sees, target.is_sequence, target.guide), []).append(target)
    return list(groups.values())


@dataclass(frozen=True)
class _Runner:
    passes: Passes
    seeds: Sequence[int]
    text: TextTokenizer | None
    merge: Merge | None

    def targets(self, group: list[TargetPlan], canvas: Canvas) -> Iterator[Moment]:
        """Targets that share their passes; the outcomes are theirs alone."""
        if group[0].is_sequence:
            yield from self.sequences(group, canvas)
        elif group[0].steps > 1:
            yield from self.grid(group[0], canvas)
        else:
            made = partial(_same, self.grids_at_once(group, canvas))
            yield from (Moment(target.modality, 1, 1, True, made) for target in group)

    def grid(self, target: TargetPlan, canvas: Canvas) -> Iterator[Moment]:
        """A grid target in several steps."""
        steps = target.grid_steps(canvas.open_positions(target.stream).shape[1])
        scheme = "maskgit" if target.scheme == "maskgit" else "roar"

        def guide(state: Canvas) -> Views:
            return Views.of(state, target.guidance, target.conditions)

        states = filling_grid(self.passes, canvas, target.stream, scheme, steps, guide, self.seeds)
        for number, state in enumerate(states, start=1):
            yield Moment(target.modality, number, len(steps), number == len(steps), partial(_same, Outcome(state)))

    def grids_at_once(self, group: list[TargetPlan], canvas: Canvas) -> Outcome:
        """One-step grid targets that are guided alike: one encoder and one decoder pass for all of them."""
        requests = {target.stream: canvas.open_positions(target.stream) for target in group}
        views = Views.of(canvas, group[0].guidance, group[0].conditions)
        outcome = Outcome(canvas)
        for target, (name, logits) in zip(group, predict(self.passes, views, requests), strict=True):
            positions = requests[name]
            ids, _ = draw(logits, target.grid_steps(positions.shape[1])[0].sampler, self.seeds, name, 0, positions)
            complete = positions.shape[1] == canvas.spec(name).max_tokens
            outcome.canvas = outcome.canvas.fix(name, positions, ids)
            if target.decode == "expected" and complete:
                outcome.probabilities[name] = logits.softmax(dim=-1).cpu()
        return outcome

    def sequences(self, group: list[TargetPlan], canvas: Canvas) -> Iterator[Moment]:
        """Sequence targets that are guided alike, each with its own missing span in the encoder's view."""
        assert self.text is not None
        jobs, starts = [], []
        for target in group:
            starts.append(canvas.opened(target.stream))
            views = Views.of(starts[-1], target.guidance, target.conditions)
            grammar = grammar_of(get_modality(target.modality), self.text) if target.grammar else None
            jobs += [
                SequenceJob(target.stream, views, target.sampler, target.tokens - 1, grammar, repeat)
                for repeat in range(target.repeats)
            ]
        step, written = -1, []
        for step, written in enumerate(writing_sequences(self.passes, jobs, self.seeds)):
            made = partial(self._placed, group, starts, written)
            yield from (Moment(target.modality, step, target.tokens - 1, False, made) for target in group)
        made = partial(_same, self._merged(self._placed(group, starts, written)))
        yield from (Moment(target.modality, step, target.tokens - 1, True, made) for target in group)

    def _placed(self, group: list[TargetPlan], starts: list[Canvas], written: Written) -> Outcome:
        """What is written, in the places that it was written for; of repeats the first on the canvas."""
        assert self.text is not None
        outcome, runs_of_all = Outcome(starts[0]), iter(written)
        for target, start in zip(group, starts, strict=True):
            begun = [start.sequence(target.stream, row) for row in range(start.batch)]
            runs = [list(map(self.text.merge_spans, begun, next(runs_of_all))) for _ in range(target.repeats)]
            outcome.canvas = outcome.canvas.with_sequences(target.stream, runs[0])
            if target.repeats > 1:
                outcome.repeated[target.stream] = [list(repeats) for repeats in zip(*runs, strict=True)]
        return outcome

    def _merged(self, outcome: Outcome) -> Outcome:
        """The same with the repeats merged: all that comes later sees one value, which is the one that users see."""
        for stream, rows in outcome.repeated.items():
            assert self.merge is not None
            values, sequences = zip(*(self.merge(outcome.canvas.spec(stream), row) for row in rows), strict=True)
            outcome.canvas = outcome.canvas.with_sequences(stream, sequences)
            outcome.merged[stream] = list(values)
        return outcome


def _same(outcome: Outcome) -> Outcome:
    return outcome
