"""Results while they are being made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from open4m.generation.codecs import Codecs
from open4m.generation.engine import Moment, Outcome
from open4m.generation.inputs import Given
from open4m.generation.masks import cover
from open4m.generation.plan import Plan
from open4m.generation.result import Result
from open4m.modalities.view import Fit


@dataclass(frozen=True)
class Partial:
    """A moment of generation.

    Attributes:
        target: the modality that was just worked on.
        step, steps: how many of its steps are done, of how many; a sequence takes one per word piece, at most.
        finished: whether the target is.
        known: share of the target's positions that are decided (sequences: of the most that it may have), over all
            samples.
        values: what there is so far, the target included. Positions of a grid that are still open show their nearest
            neighbour. With the last target this is the whole result.
    """

    target: str
    step: int
    steps: int
    finished: bool
    known: float
    values: Result


def partial_results(
    moments: Iterable[Moment], plan: Plan, codecs: Codecs, seeds: Sequence[int], given: Given, fit: Fit
) -> Iterator[Partial]:
    """What generation gives, moment by moment."""
    finished: list[str] = []
    for moment in moments:
        outcome, stream = moment.outcome(), plan[moment.target].stream
        track = outcome.canvas.tracks[stream]
        known = float(track.known.sum()) / (outcome.canvas.batch * plan[moment.target].tokens)
        if moment.finished:
            finished.append(moment.target)
        begun = [target for target in plan.targets if target.modality in (*finished, moment.target)]
        shown = [t.modality for t in begun if t.modality in (*plan.requested, moment.target)]
        now = replace(plan, targets=tuple(begun), requested=tuple(shown))
        values = Result(
            plan if len(finished) == len(plan.targets) else now, _shown(outcome, stream), codecs, seeds, given, fit
        )
        yield Partial(moment.target, moment.step, moment.steps, moment.finished, min(known, 1.0), values)


def _shown(outcome: Outcome, stream: str) -> Outcome:
    """The outcome with the open positions of a grid covered by their neighbours, so that it can be looked at."""
    track, spec = outcome.canvas.tracks[stream], outcome.canvas.spec(stream)
    if spec.grid is None or bool(track.known.all()):
        return outcome
    rows, columns = spec.grid
    ids = track.ids.view(-1, rows, columns).numpy()
    hidden = ~track.known.view(-1, rows, columns).numpy()
    covered = np.stack([cover(*pair) for pair in zip(ids, hidden, strict=True)])
    return replace(outcome, canvas=outcome.canvas.with_tokens(stream, torch.from_numpy(covered).view_as(track.ids)))
