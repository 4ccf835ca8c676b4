"""The three ways to fill a canvas – MaskGIT, ROAR, autoregressive – and guidance (spec: generation §3 and §4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from open4m.batch import TokenTargets
from open4m.generation.canvas import Canvas, grid_targets, span_bounds, stack
from open4m.generation.grammar import Grammar
from open4m.generation.sampling import Sampler, uniforms
from open4m.model import DecoderCache, FourM

Weights = float | Mapping[str, float]
"""Guidance: one weight for all conditions together, or one for each of several conditions."""


@dataclass(frozen=True)
class Views:
    """What the passes of guidance see of one canvas, and how their logits are mixed.

    Attributes:
        canvases: the canvas alone; or first the unconditional one, then one for each weight.
        weights: () or w_i of ``l = l_u + Σ w_i (l_i − l_u)``.
    """

    canvases: tuple[Canvas, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, canvas: Canvas, guidance: Weights, conditions: Collection[str]) -> Views:
        """Views of ``canvas``.

        A single weight contrasts it with the canvas without ``conditions`` (as :meth:`Canvas.unconditional` hides
        them); weight 1, or no condition present, needs no second pass. A mapping stream → weight contrasts each of
        its streams alone with none of them; streams it does not name are visible to all.
        """
        if isinstance(guidance, Mapping):
            present = [name for name in guidance if name in canvas.tracks]
            alone = [canvas.without([n for n in present if n != name]) for name in present]
            if not present:
                return cls((canvas,))
            return cls((canvas.without(present), *alone), tuple(float(guidance[n]) for n in present))
        if guidance == 1.0 or not any(name in canvas.tracks for name in conditions):
            return cls((canvas,))
        return cls((canvas.unconditional(conditions), canvas), (float(guidance),))

    def mix(self, logits: Tensor) -> Tensor:
        """Logits (views, …) of all views → (…)."""
        base = logits[0]
        mixed = base
        for weight, guided in zip(self.weights, logits[1:], strict=True):
            mixed = mixed + weight * (guided - base)
        return mixed


# -- grids ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Candidates:
    """What a step may choose from: ``positions`` (B, K) still open, of which ``count`` are to be decided.

    MaskGIT has predicted all of them: ``ids`` and ``confidence`` (B, K). ROAR chooses before it predicts: None.
    """

    step: int
    count: int
    positions: Tensor
    ids: Tensor | None = None
    confidence: Tensor | None = None


Chooser = Callable[[Candidates], Tensor]
"""Candidates → positions (B, count) to decide now."""


def most_confident(candidates: Candidates) -> Tensor:
    """MaskGIT's choice; of equally confident positions the first."""
    assert candidates.confidence is not None
    best = candidates.confidence.argsort(dim=1, descending=True, stable=True)[:, : candidates.count]
    return candidates.positions.gather(1, best)


def random_order(seeds: Sequence[int], stream: str, length: int) -> Chooser:
    """ROAR's choice: along one random order of the ``length`` positions per sample."""
    rank = uniforms(seeds, f"{stream}/order", 0, length)

    def choose(candidates: Candidates) -> Tensor:
        first = rank.gather(1, candidates.positions).argsort(dim=1)[:, : candidates.count]
        return candidates.positions.gather(1, first)

    return choose


@dataclass(frozen=True)
class GridStep:
    """One step of a grid target: how many tokens it decides, and how they are drawn."""

    count: int
    sampler: Sampler


@torch.inference_mode()
def predict(model: FourM, views: Views, requests: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mixed logits (B, K, V) float32 at positions (B, K) of grid streams; one encoder and one decoder pass for all.

    Exact for any number of streams, since decoder positions of different streams do not see each other.
    """
    device, count = model.mask_token.device, len(views.canvases)
    encoded = model.encode(stack(views.canvases).inputs(device))
    indexed = [(model.config.index(name), positions.repeat(count, 1)) for name, positions in requests.items()]
    hidden = model.decode(grid_targets(indexed, device), encoded)
    parts = hidden.split([positions.shape[1] for _, positions in indexed], dim=1)
    return {
        name: views.mix(model.logits(part, name).float().unflatten(0, (count, -1)))
        for name, part in zip(requests, parts, strict=True)
    }


def fill_grid(
    model: FourM,
    canvas: Canvas,
    stream: str,
    scheme: Literal["maskgit", "roar"],
    steps: Iterable[GridStep],
    guide: Callable[[Canvas], Views],
    seeds: Sequence[int],
    choose: Chooser | None = None,
) -> Canvas:
    """Decide the open positions of a grid stream step by step, with a new encoder pass before each.

    Args:
        scheme: ``maskgit`` predicts all open positions and keeps the most confident; ``roar`` predicts only positions
            chosen in a random order, which see each other.
        steps: numbers of tokens must sum to the number of open positions; empty steps are skipped.
        guide: the views of a canvas, see :meth:`Views.of`.
        seeds: one per sample.
        choose: which positions to decide, instead of the scheme's own rule.
    """
    length = canvas.spec(stream).max_tokens
    choose = choose or (most_confident if scheme == "maskgit" else random_order(seeds, stream, length))
    for number, step in enumerate(steps):
        if not step.count:
            continue
        positions = canvas.open_positions(stream)
        if scheme == "roar":
            positions = choose(Candidates(number, step.count, positions))
        logits = predict(model, guide(canvas), {stream: positions})[stream]
        ids, confidence = draw(logits, step.sampler, seeds, stream, number, positions)
        if scheme == "maskgit":
            kept = choose(Candidates(number, step.count, positions, ids, confidence))
            ids = torch.zeros(len(ids), length, dtype=torch.int64).scatter(1, positions, ids).gather(1, kept)
            positions = kept
        canvas = canvas.fix(stream, positions, ids)
    return canvas


def draw(
    logits: Tensor, sampler: Sampler, seeds: Sequence[int], stream: str, step: int, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Ids and their probabilities (B, K), on the CPU; each draw depends on seed, stream, step and position only."""
    uniform = uniforms(seeds, stream, step, int(positions.max()) + 1 if positions.numel() else 0).gather(1, positions)
    ids, probability = sampler(logits, uniform.to(logits.device))
    return ids.cpu(), probability.cpu()


# -- sequences --------------------------------------------------------------------------------------------------------
QUESTIONS = Sampler(temperature=1.0)
"""Query points are drawn as they were in training. The answers' low temperature would ask the same ones every time."""


@dataclass(frozen=True)
class SequenceJob:
    """A sequence to write for every sample of a canvas.

    Attributes:
        stream: its name; ``views`` contain it with at least one sentinel (see :meth:`Canvas.opened`).
        views: what the passes see, see :meth:`Views.of`. Jobs that run together have equally many.
        sampler: how ids are drawn.
        limit: ids to generate at most, beside the first sentinel.
        grammar: of the sentence, where a whole one is written; None, or a sequence of which parts are given: any ids.
        repeat: which of several sequences of the same stream; each has its own random draws.
    """

    stream: str
    views: Views
    sampler: Sampler
    limit: int
    grammar: Grammar | None = None
    repeat: int = 0

    @property
    def key(self) -> str:
        """Names its random draws."""
        return f"{self.stream}/repeat {self.repeat}" if self.repeat else self.stream


@torch.inference_mode()
def write_sequences(model: FourM, jobs: Sequence[SequenceJob], seeds: Sequence[int]) -> list[list[list[int]]]:
    """Autoregressive decoding of all jobs and samples as rows of one batch, with cached keys and values.

    Jobs with the same canvas share its encoding. A row starts with the first sentinel of its input and ends after the
    one that follows its last (``[S_2]`` for a single span), or at its limit. Finished rows leave the batch.

    Returns:
        for each job and sample the generated ids, beginning with the first sentinel.
    """
    writer = _Writer(model, jobs, seeds)
    while writer.active:
        writer.step()
    size = len(seeds)
    return [writer.written[i * size : (i + 1) * size] for i in range(len(jobs))]


class _Writer:
    """State of :func:`write_sequences`. Row = job · B + sample; the model sees each row once per view."""

    def __init__(self, model: FourM, jobs: Sequence[SequenceJob], seeds: Sequence[int]) -> None:
        self.model, self.jobs, self.size = model, jobs, len(seeds)
        self.views = len(jobs[0].views.canvases)
        given = [job.views.canvases[-1].sequence(job.stream, row) for job in jobs for row in range(self.size)]
        bounds = [span_bounds(ids, jobs[row // self.size].stream) for row, ids in enumerate(given)]
        self.written = [[start] for start, _ in bounds]
        self.stops = [stop for _, stop in bounds]
        self.sentences = [
            grammar.begin(self.stops[row]) if len(ids) == 1 and (grammar := jobs[row // self.size].grammar) else None
            for row, ids in enumerate(given)
        ]
        self.uniform = [u for job in jobs for u in uniforms(seeds, job.key, 0, job.limit)]
        self.indices = [model.config.index(job.stream) for job in jobs]
        self.active = [row for row in range(len(bounds)) if jobs[row // self.size].limit > 0]
        canvases = [job.views.canvases[view] for view in range(self.views) for job in jobs]
        self.cache = self._encode(canvases)

    def _encode(self, canvases: Sequence[Canvas]) -> DecoderCache:
        """The rows of all canvases, one after the other; each different canvas is encoded once."""
        different = list({id(canvas): canvas for canvas in canvases}.values())
        device = self.model.mask_token.device
        cache = self.model.start_decoding(self.model.encode(stack(different).inputs(device)))
        if len(different) == len(canvases):
            return cache
        place = {id(canvas): number for number, canvas in enumerate(different)}
        rows = [place[id(canvas)] * self.size + row for canvas in canvases for row in range(self.size)]
        return cache.take(torch.tensor(rows, dtype=torch.int64, device=device))

    def step(self) -> None:
        """Write one more id in every active row, then drop the rows that are finished."""
        hidden = self.model.decode_next(self._targets(), self.cache)[:, 0].unflatten(0, (self.views, -1))
        for number, job in enumerate(self.jobs):
            places = [place for place, row in enumerate(self.active) if row // self.size == number]
            if not places:
                continue
            rows = [self.active[place] for place in places]
            logits = job.views.mix(self.model.logits(hidden[:, places], job.stream).float())
            for row, token in zip(rows, self._draw(job, rows, logits), strict=True):
                self.written[row].append(token)
                sentence = self.sentences[row]
                if sentence is not None:
                    sentence.write(token)
        self._drop_finished()

    def _draw(self, job: SequenceJob, rows: list[int], logits: Tensor) -> list[int]:
        """The next id of ``rows`` from their logits (rows, V), as the sentences allow."""
        questions = torch.zeros(len(rows), dtype=torch.bool)
        for place, row in enumerate(rows):
            sentence = self.sentences[row]
            if sentence is not None:
                allowed, questions[place] = sentence.allowed(job.limit + 1 - len(self.written[row]))
                logits[place] = logits[place].masked_fill(~allowed.to(logits.device), -torch.inf)
        uniform = torch.stack([self.uniform[row][len(self.written[row]) - 1] for row in rows]).to(logits.device)
        ids, _ = job.sampler(logits, uniform)
        if questions.any():
            ids = torch.where(questions.to(ids.device), QUESTIONS(logits, uniform)[0], ids)
        return ids.tolist()

    def _targets(self) -> TokenTargets:
        """The newest id of every active row, once per view."""
        device = self.model.mask_token.device

        def column(values: list[int]) -> Tensor:
            return torch.tensor(values, device=device).repeat(self.views)[:, None]

        stream = column([self.indices[row // self.size] for row in self.active])
        position = column([len(self.written[row]) - 1 for row in self.active])
        token = column([self.written[row][-1] for row in self.active])
        zero = torch.zeros_like(token)
        return TokenTargets(stream, position, token, zero, zero, torch.ones_like(token, dtype=torch.bool))

    def _drop_finished(self) -> None:
        kept = [
            place
            for place, row in enumerate(self.active)
            if self.written[row][-1] != self.stops[row] and len(self.written[row]) <= self.jobs[row // self.size].limit
        ]
        if len(kept) < len(self.active):
            rows = [view * len(self.active) + place for view in range(self.views) for place in kept]
            self.cache = self.cache.take(torch.tensor(rows, dtype=torch.int64, device=self.cache.valid.device))
            self.active = [self.active[place] for place in kept]
