"""Running a plan on a canvas: which targets share passes, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from open4m.generation.canvas import Canvas
from open4m.generation.decoding import SequenceJob, draw, fill_grid, write_sequences
from open4m.generation.grammar import grammar_of
from open4m.generation.passes import Passes, Views, predict
from open4m.generation.plan import Plan, TargetPlan
from open4m.modalities.registry import get_modality
from open4m.tokenizers.text import TextTokenizer

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)`` after every finished target."""


@dataclass
class Outcome:
    """What running a plan gave.

    Attributes:
        canvas: inputs and all targets.
        probabilities: (B, L, K) on the CPU, by stream, where the plan decodes expected values.
        repeated: by stream, for targets that are written repeatedly: for each sample the ids of every repeat. The
            canvas holds the first repeat only.
    """

    canvas: Canvas
    probabilities: dict[str, Tensor] = field(default_factory=dict)
    repeated: dict[str, list[list[list[int]]]] = field(default_factory=dict)


def run(
    plan: Plan,
    canvas: Canvas,
    passes: Passes,
    seeds: Sequence[int],
    text: TextTokenizer | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Generate the plan's targets.

    A target's random draws depend on its stream and the sample's seed only, so an independent target comes out the
    same in every company (up to rounding), and every sample the same in every batch.

    Args:
        plan: see :class:`Plan`. Chained: one target after the other, each on the canvas that the last one left.
            Independent: every target on ``canvas``; one-step targets that are guided alike share one encoder and one
            decoder pass, all sequences are rows of one batch.
        canvas: the inputs of B samples.
        passes: of a trained model.
        seeds: one per sample.
        text: merges generated spans into their sequence; needed for sequence targets.
        progress: told about finished targets.
    """
    runner = _Runner(passes, seeds, text)
    done = 0
    outcome = Outcome(canvas)
    for group in [[t] for t in plan.targets] if plan.chained else _companies(plan.targets):
        part = runner.targets(group, outcome.canvas if plan.chained else canvas)
        for target in group:
            outcome.canvas = outcome.canvas.adopt(target.stream, part.canvas)
            done += 1
            if progress is not None:
                progress(target.modality, done, len(plan.targets))
        outcome.probabilities |= part.probabilities
        outcome.repeated |= part.repeated
    passes.forget()
    return outcome


def _companies(targets: Iterable[TargetPlan]) -> list[list[TargetPlan]]:
    """Independent targets that are generated together."""

    def company(numbered: tuple[int, TargetPlan]) -> str:
        number, target = numbered
        if not target.is_sequence and target.steps > 1:
            return f"alone {number:6}"
        return f"{target.is_sequence} {target.guide}"

    ordered = sorted(enumerate(targets), key=company)
    groups = [list(group) for _, group in groupby(ordered, key=company)]
    return [[target for _, target in group] for group in sorted(groups, key=lambda group: group[0][0])]


@dataclass(frozen=True)
class _Runner:
    passes: Passes
    seeds: Sequence[int]
    text: TextTokenizer | None

    def targets(self, group: list[TargetPlan], canvas: Canvas) -> Outcome:
        """Targets that share their passes."""
        if group[0].is_sequence:
            return self.sequences(group, canvas)
        if group[0].steps > 1:
            return Outcome(self.grid(group[0], canvas))
        return self.grids_at_once(group, canvas)

    def grid(self, target: TargetPlan, canvas: Canvas) -> Canvas:
        """A grid target in several steps."""
        steps = target.grid_steps(canvas.open_positions(target.stream).shape[1])
        scheme = "maskgit" if target.scheme == "maskgit" else "roar"

        def guide(state: Canvas) -> Views:
            return Views.of(state, target.guidance, target.conditions)

        return fill_grid(self.passes, canvas, target.stream, scheme, steps, guide, self.seeds)

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

    def sequences(self, group: list[TargetPlan], canvas: Canvas) -> Outcome:
        """Sequence targets that are guided alike, each with its own missing span in the encoder's view."""
        assert self.text is not None
        outcome, jobs, starts = Outcome(canvas), [], []
        for target in group:
            starts.append(canvas.opened(target.stream))
            views = Views.of(starts[-1], target.guidance, target.conditions)
            grammar = grammar_of(get_modality(target.modality), self.text) if target.grammar else None
            jobs += [
                SequenceJob(target.stream, views, target.sampler, target.tokens - 1, grammar, repeat)
                for repeat in range(target.repeats)
            ]
        written = iter(write_sequences(self.passes, jobs, self.seeds))
        for target, start in zip(group, starts, strict=True):
            begun = [start.sequence(target.stream, row) for row in range(start.batch)]
            runs = [list(map(self.text.merge_spans, begun, next(written))) for _ in range(target.repeats)]
            outcome.canvas = outcome.canvas.with_sequences(target.stream, runs[0])
            if target.repeats > 1:
                outcome.repeated[target.stream] = [list(repeats) for repeats in zip(*runs, strict=True)]
        return outcome
