"""The three ways to fill a canvas – MaskGIT, ROAR, autoregressive – and guidance (spec: generation §3 and §4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from open4m.batch import TokenTargets
from open4m.generation.canvas import Canvas, span_bounds
from open4m.generation.grammar import Grammar
from open4m.generation.passes import Passes, Views, predict
from open4m.generation.sampling import Sampler, uniforms
from open4m.model import DecoderCache
from open4m.model.compiled import uncompiled


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
    """One step of a grid target: how many tokens it decides (at least one), and how they are drawn.

    ``noise`` scales the Gumbel noise on MaskGIT's log confidences (Chang et al. 2022); 0 = none, as published for 4M.
    """

    count: int
    sampler: Sampler
    noise: float = 0.0


def filling_grid(
    passes: Passes,
    canvas: Canvas,
    stream: str,
    scheme: Literal["maskgit", "roar"],
    steps: Iterable[GridStep],
    guide: Callable[[Canvas], Views],
    seeds: Sequence[int],
    choose: Chooser | None = None,
) -> Iterator[Canvas]:
    """Decide the open positions of a grid stream step by step, with a new encoder pass before each.

    Args:
        scheme: ``maskgit`` predicts all open positions and keeps the most confident; ``roar`` predicts only positions
            chosen in a random order, which see each other.
        steps: each decides at least one token, together as many as there are open positions.
        guide: the views of a canvas, see :meth:`Views.of`.
        seeds: one per sample.
        choose: which positions to decide, instead of the scheme's own rule.
    """
    length = canvas.spec(stream).max_tokens
    choose = choose or (most_confident if scheme == "maskgit" else random_order(seeds, stream, length))
    for number, step in enumerate(steps):
        positions = canvas.open_positions(stream)
        if scheme == "roar":
            positions = choose(Candidates(number, step.count, positions))
        with uncompiled(passes.model):  # every step has shapes of its own
            ((_, logits),) = predict(passes, guide(canvas), {stream: positions})
        ids, confidence = draw(logits, step.sampler, seeds, stream, number, positions)
        if scheme == "maskgit":
            confidence = perturbed(confidence, step.noise, seeds, stream, number, positions)
            kept = choose(Candidates(number, step.count, positions, ids, confidence))
            ids = torch.zeros(len(ids), length, dtype=torch.int64).scatter(1, positions, ids).gather(1, kept)
            positions = kept
        canvas = canvas.fix(stream, positions, ids)
        yield canvas


def perturbed(
    confidence: Tensor, noise: float, seeds: Sequence[int], stream: str, step: int, positions: Tensor
) -> Tensor:
    """Confidences (B, K) to be ranked, with Gumbel noise on their logarithms (see :class:`GridStep`)."""
    if not noise:
        return confidence
    chance = uniforms(seeds, f"{stream}/confidence", step, int(positions.max()) + 1).gather(1, positions)
    return confidence.log() - noise * (-chance.log()).log()


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
        grammar: of the sentence, where a whole one is written or one gap is filled; None, or several gaps: any ids.
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


Written = list[list[list[int]]]
"""For each job and sample the generated ids, beginning with the first sentinel."""


def write_sequences(passes: Passes, jobs: Sequence[SequenceJob], seeds: Sequence[int]) -> Written:
    """What is written in the end of :func:`writing_sequences`."""
    *_, written = writing_sequences(passes, jobs, seeds)
    return written


@torch.inference_mode()
def writing_sequences(passes: Passes, jobs: Sequence[SequenceJob], seeds: Sequence[int]) -> Iterator[Written]:
    """Autoregressive decoding of all jobs and samples as rows of one batch, with cached keys and values.

    Jobs with the same canvas share its encoding. A row starts with the first sentinel of its input and ends after the
    one that follows its last (``[S_2]`` for a single span), or at its limit. Finished rows leave the batch.

    Yields:
        what is written so far, at the beginning and after every step; the lists grow.
    """
    writer, size = _Writer(passes, jobs, seeds), len(seeds)
    written = [writer.written[i * size : (i + 1) * size] for i in range(len(jobs))]
    yield written
    while writer.active:
        writer.step()
        yield written


class _Writer:
    """State of :func:`write_sequences`. Row = job · B + sample; the model sees each row once per view."""

    def __init__(self, passes: Passes, jobs: Sequence[SequenceJob], seeds: Sequence[int]) -> None:
        self.model, self.jobs, self.size = passes.model, jobs, len(seeds)
        self.views = len(jobs[0].views.canvases)
        given = [job.views.canvases[-1].sequence(job.stream, row) for job in jobs for row in range(self.size)]
        bounds = [span_bounds(ids, jobs[row // self.size].stream) for row, ids in enumerate(given)]
        self.written = [[start] for start, _ in bounds]
        self.stops = [stop for _, stop in bounds]
        self.sentences = [
            grammar.begin(ids, self.stops[row]) if (grammar := jobs[row // self.size].grammar) else None
            for row, ids in enumerate(given)
        ]
        self.uniform = [u for job in jobs for u in uniforms(seeds, job.key, 0, job.limit)]
        self.indices = [self.model.config.index(job.stream) for job in jobs]
        self.active = [row for row in range(len(bounds)) if jobs[row // self.size].limit > 0]
        alike = [(job.stream, job.sampler, job.views.weights) for job in jobs]
        self.leader = [alike.index(settings) for settings in alike]
        self.cache = self._encode(passes)

    def _encode(self, passes: Passes) -> DecoderCache:
        """The context of every row, once per view; each different canvas is encoded and projected once."""
        canvases = [job.views.canvases[view] for view in range(self.views) for job in self.jobs]
        different = list({id(canvas): canvas for canvas in canvases}.values())
        cache = self.model.start_decoding(passes.encode(different))
        if len(different) == len(canvases):
            return cache
        place = {id(canvas): number for number, canvas in enumerate(different)}
        rows = [place[id(canvas)] * self.size + row for canvas in canvases for row in range(self.size)]
        return cache.take(torch.tensor(rows, dtype=torch.int64, device=passes.device))

    def step(self) -> None:
        """Write one more id in every active row, then drop the rows that are finished."""
        hidden = self.model.decode_next(self._targets(), self.cache)[:, 0].unflatten(0, (self.views, -1))
        for leader, group in groupby(sorted(range(len(self.active)), key=self._leader_at), key=self._leader_at):
            places = list(group)
            rows = [self.active[place] for place in places]
            drawn = self._draw(self.jobs[leader], rows, hidden[:, places])
            for row, token in zip(rows, drawn, strict=True):
                self.written[row].append(token)
                sentence = self.sentences[row]
                if sentence is not None:
                    sentence.write(token)
        self._drop_finished()

    def _leader_at(self, place: int) -> int:
        """The first job that reads and draws as the one of an active row does: all of them are served together."""
        return self.leader[self.active[place] // self.size]

    def _draw(self, job: SequenceJob, rows: list[int], hidden: Tensor) -> list[int]:
        """The next id of ``rows`` from their states (views, rows, D); logits only of ids that a sentence can reach."""
        device = hidden.device
        reach = [self._reach(row) for row in rows]
        ids = None
        if all(allowed is not None for allowed, _ in reach):
            ids = torch.cat([allowed for allowed, _ in reach if allowed is not None]).unique()
        logits = job.views.mix(self.model.logits(hidden, job.stream, None if ids is None else ids.to(device)).float())
        for place, (allowed, _) in enumerate(reach):
            if allowed is not None and len(allowed) < logits.shape[1]:
                kept = allowed if ids is None else torch.searchsorted(ids, allowed)
                logits[place] = _only(logits[place], kept.to(device))
        uniform = torch.stack([self.uniform[row][len(self.written[row]) - 1] for row in rows]).to(device)
        vocabulary = self.model.config.stream(job.stream).vocab_size
        drawn, _ = (job.sampler if ids is None else _absolute(job.sampler, vocabulary))(logits, uniform)
        questions = torch.tensor([asks for _, asks in reach], device=device)
        if questions.any():
            drawn = torch.where(questions, QUESTIONS(logits, uniform)[0], drawn)
        return drawn.tolist() if ids is None else ids[drawn.cpu()].tolist()

    def _reach(self, row: int) -> tuple[Tensor | None, bool]:
        """The ids that may come next in a row (None = all), and whether they are a question."""
        sentence, job = self.sentences[row], self.jobs[row // self.size]
        return (None, False) if sentence is None else sentence.allowed(job.limit + 1 - len(self.written[row]))

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


def _only(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits (V,) that are −∞ everywhere but at ``ids``."""
    return torch.full_like(logits, -torch.inf).index_copy(0, ids, logits[ids])


def _absolute(sampler: Sampler, vocabulary: int) -> Sampler:
    """The same sampler for logits of a part of the vocabulary: a share of it becomes a number of ids."""
    if isinstance(sampler.top_k, float) and sampler.top_k:
        return replace(sampler, top_k=max(1, int(sampler.top_k * vocabulary)))
    return sampler
