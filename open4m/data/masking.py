"""Masking: which tokens of a sample the model sees, and which it must predict (4M, Sec. 2.3; spec: masking §1-5).

Positions are chosen before anything is embedded: the result lists used positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from open4m.data.mixture import Draw, Keep
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import TextTokenizer

_GRIDS = (StreamKind.PIXELS, StreamKind.TOKENS)
_Ints = np.ndarray  # 1-d int64

Units = list[list[int]]
"""A sequence as runs of ids that are masked as a whole: single ids of a text, or the chunks of metadata."""

Content = np.ndarray | Units
"""What a stream holds in a sample: pixels (C, H, W) float, ids (N,) int, states (L, E) float, or :data:`Units`."""


@dataclass
class MaskedSample:
    """The used positions of one sample.

    Attributes:
        inputs: (3, N) int64: stream, position, token, as in :class:`open4m.batch.TokenInputs`.
        targets: (5, M) int64: stream, position, token, label, order, as in :class:`open4m.batch.TokenTargets`.
        dense: content of visible pixel and embedding streams, by name.
    """

    inputs: np.ndarray
    targets: np.ndarray
    dense: dict[str, np.ndarray] = field(default_factory=dict)


# -- how many tokens of each stream ---------------------------------------------------------------------------------
def draw_budget(alphas: np.ndarray, total: int, limits: np.ndarray, rng: np.random.Generator) -> _Ints:
    """Share ``total`` tokens among streams: floor(Dirichlet · total), the remainder one by one, clamped to limits.

    Args:
        alphas: (S,) concentrations; 0 = no tokens.
        total: number of tokens to share out.
        limits: (S,) most tokens of each stream. What exceeds them is lost.

    Returns:
        (S,) int64.
    """
    budget = np.zeros(len(alphas), dtype=np.int64)
    used = np.flatnonzero(alphas > 0)
    if used.size:
        shares = np.floor(rng.dirichlet(alphas[used]) * total).astype(np.int64)
        # Each token that rounding left over goes to the largest part of a draw of its own.
        winners = rng.dirichlet(alphas[used], size=max(0, total - int(shares.sum()))).argmax(axis=-1)
        budget[used] = shares + np.bincount(winners, minlength=used.size)
    return np.minimum(budget, limits)


def draw_budgets(draw: Draw, streams: Sequence[StreamSpec], rng: np.random.Generator) -> tuple[_Ints, _Ints | None]:
    """Visible and predicted tokens allowed for each stream, (S,) int64 each; ``None`` = everything not visible."""
    limits = np.array([s.max_tokens for s in streams])
    inputs = draw_budget(_alphas(draw.component.inputs, streams), draw.input_tokens, limits, rng)
    if draw.target_tokens is None:
        return inputs, None
    is_grid = np.array([s.kind in _GRIDS for s in streams])
    remaining = limits - np.where(is_grid, inputs, 0)
    return inputs, draw_budget(_alphas(draw.component.targets, streams), draw.target_tokens, remaining, rng)


def _alphas(table: Mapping[str, float], streams: Sequence[StreamSpec]) -> np.ndarray:
    return np.array([table.get(s.name, 0.0) for s in streams], dtype=np.float64)


def top_up(counts: _Ints, room: _Ints, alphas: np.ndarray, extra: int, rng: np.random.Generator) -> _Ints:
    """``counts`` plus ``extra`` tokens, shared among streams with α > 0 that have ``room`` left (all (S,))."""
    counts, room = counts.copy(), np.where(alphas > 0, room, 0)
    while extra > 0 and room.any():
        added = draw_budget(np.where(room > 0, alphas, 0), extra, room, rng)
        counts, room, extra = counts + added, room - added, extra - int(added.sum())
    return counts


# -- images -------------------------------------------------------------------------------------------------------
def mask_grid(size: int, inputs: int, targets: int | None, rng: np.random.Generator) -> tuple[_Ints, _Ints]:
    """Disjoint random positions of a grid of ``size``: visible ones and ones to predict (``None`` = all others)."""
    order = rng.permutation(size)
    end = size if targets is None else inputs + targets
    return order[:inputs], order[inputs:end]


# -- sequences ------------------------------------------------------------------------------------------------------
def to_units(sequence: list[int] | Units, text: TextTokenizer, max_tokens: int) -> Units:
    """Units of a tokenized string (each id by itself) or of chunks, with ``[EOS]``, cut to ``max_tokens`` ids."""
    units = [[u] if isinstance(u, int) else u for u in sequence]
    units.append([text.eos])
    total = 0
    for i, unit in enumerate(units):
        total += len(unit)
        if total > max_tokens:
            return units[:i]
    return units


def draw_kept(sizes: np.ndarray, budget: int, keep: Keep, rng: np.random.Generator) -> np.ndarray:
    """Which units stay visible, (U,) bool, such that they and one sentinel per gap fit into ``budget`` ids.

    Each unit is kept with the probability that ``keep`` stands for, lowered by a tenth until the result fits; a prefix
    has any length that fits, at least one unit. ``sizes`` (U,) are the units' numbers of ids. Without any budget
    nothing is kept.
    """
    if budget == 0:
        return np.zeros(len(sizes), dtype=bool)
    match keep:
        case Keep.PREFIX:
            fitting = int(np.count_nonzero(np.cumsum(sizes) + 1 <= budget))  # 1: the sentinel behind it
            return np.arange(len(sizes)) < (rng.integers(1, fitting, endpoint=True) if fitting else 0)
        case Keep.RANDOM:
            probability = float(rng.random())
        case Keep.ALL:
            probability = 1.0
        case Keep.BINARY:
            probability = float(rng.integers(2))
    while True:
        kept = rng.random(len(sizes)) <= probability
        gaps = np.count_nonzero(~kept[1:] & kept[:-1]) + int(not kept[:1].all())
        if sizes[kept].sum() + gaps <= budget:
            return kept
        probability *= 0.9


def span_mask(units: Units, kept: np.ndarray, text: TextTokenizer) -> tuple[list[int], list[int]]:
    """Ids of the visible sequence, each gap a sentinel, and of the target: the gaps, each behind its sentinel.

    The target is closed by the next unused sentinel: ``[S_1] gap1 [S_2] gap2 [S_3]``.
    """
    visible: list[int] = []
    target: list[int] = []
    gaps, in_gap = 0, False
    for unit, keep in zip(units, kept.tolist(), strict=True):
        if keep:
            visible += unit
        else:
            if not in_gap:
                gaps += 1
                visible.append(text.sentinel(gaps))
                target.append(text.sentinel(gaps))
            target += unit
        in_gap = not keep
    target.append(text.sentinel(gaps + 1))
    return visible, target


def crop_target(target: list[int], budget: int | None, text: TextTokenizer, rng: np.random.Generator) -> list[int]:
    """At most ``budget`` consecutive ids of a target, from one of its sentinels on."""
    if budget is None or len(target) <= budget:
        return target
    starts = [i for i, token in enumerate(target) if text.is_sentinel(token)]
    start = starts[int(rng.integers(max(1, len(starts) - 1)))]
    if len(target) - start < budget:
        start = next(s for s in starts if len(target) - s <= budget)
    return target[start : start + budget]


def put_first(value: Content, words: Sequence[str], text: TextTokenizer) -> Content:
    """Units that begin with one of ``words`` before all others; apart from that the order stays."""
    if not words or isinstance(value, np.ndarray):
        return value
    ids = {text.encode(word)[0] for word in words}
    return sorted(value, key=lambda unit: unit[0] not in ids)


def mask_sequence(
    units: Units, inputs: int, targets: int | None, keep: Keep, text: TextTokenizer, rng: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Visible ids (at most ``inputs``; none at 0) and target ids (at most ``targets``; ``None`` = no limit)."""
    sizes = np.array([len(u) for u in units], dtype=np.int64)
    visible, target = span_mask(units, draw_kept(sizes, inputs, keep, rng), text)
    return visible if inputs else [], crop_target(target, targets, text, rng)


def mask_states(states: np.ndarray, inputs: int, keep: Keep, rng: np.random.Generator) -> np.ndarray:
    """Visible rows of (L, E) embeddings, at most ``inputs``; each gap becomes one row of zeros."""
    kept = draw_kept(np.ones(len(states), dtype=np.int64), inputs, keep, rng)
    starts_gap = ~kept & np.concatenate([[True], kept[:-1]])
    return np.where(kept[:, None], states, 0)[kept | starts_gap][:inputs]


# -- samples --------------------------------------------------------------------------------------------------------
def mask_sample(
    draw: Draw,
    streams: Sequence[StreamSpec],
    content: Callable[[StreamSpec], Content | None],
    text: TextTokenizer,
    rng: np.random.Generator,
    redistribute: bool = False,
) -> MaskedSample:
    """Choose the visible positions of a sample and those to predict.

    Args:
        draw: mixture component and numbers of tokens.
        streams: the model's streams; results refer to them by index.
        content: what a stream holds; asked only for streams that are used. ``None`` = the sample does not have this
            modality: its share of tokens is lost.
        text: for the ids of ``[EOS]`` and the sentinels.
        rng: the only source of chance.
        redistribute: see :class:`open4m.data.mixture.Mixture`.
    """
    inputs, targets = draw_budgets(draw, streams, rng)
    parts = _Parts(streams)
    for index, spec in enumerate(streams):
        if spec.kind not in _GRIDS:
            n_in = int(inputs[index])
            n_tgt = None if targets is None else int(targets[index])
            if (n_in or (spec.is_target and n_tgt != 0)) and (value := content(spec)) is not None:
                keep = draw.component.keep.get(spec.name, Keep.RANDOM)
                value = put_first(value, draw.component.first.get(spec.name, ()), text)
                parts.add_sequence(index, value, n_in, n_tgt, keep, text, rng)
    if redistribute:
        inputs, targets = _redistribute(draw, streams, inputs, targets, parts, rng)
    for index, spec in enumerate(streams):
        if spec.kind in _GRIDS:
            n_in = int(inputs[index])
            n_tgt = 0 if not spec.is_target else None if targets is None else int(targets[index])
            if (n_in or n_tgt != 0) and (value := content(spec)) is not None:
                parts.add_grid(index, value, *mask_grid(spec.max_tokens, n_in, n_tgt, rng))
    return parts.sample()


def _redistribute(
    draw: Draw,
    streams: Sequence[StreamSpec],
    inputs: _Ints,
    targets: _Ints | None,
    parts: _Parts,
    rng: np.random.Generator,
) -> tuple[_Ints, _Ints | None]:
    """Budgets in which image-like streams take what the sequences (already in ``parts``) did not use."""
    is_grid = np.array([s.kind in _GRIDS for s in streams])
    limits = np.array([s.max_tokens for s in streams])
    alphas = np.where(is_grid, _alphas(draw.component.inputs, streams), 0)
    spare = draw.input_tokens - parts.length(parts.inputs) - int(inputs[is_grid].sum())
    inputs = top_up(inputs, limits - inputs, alphas, spare, rng)
    if targets is None or draw.target_tokens is None:
        return inputs, targets
    usable = is_grid & np.array([s.is_target for s in streams])
    alphas = np.where(usable, _alphas(draw.component.targets, streams), 0)
    targets = np.minimum(targets, np.where(is_grid, limits - inputs, targets))
    spare = draw.target_tokens - parts.length(parts.targets) - int(targets[usable].sum())
    return inputs, top_up(targets, limits - inputs - targets, alphas, spare, rng)


class _Parts:
    """Collects the used positions of a sample, stream by stream."""

    def __init__(self, streams: Sequence[StreamSpec]) -> None:
        self._streams = streams
        self.inputs: list[np.ndarray] = []
        self.targets: list[np.ndarray] = []
        self._dense: dict[str, np.ndarray] = {}

    @staticmethod
    def length(parts: list[np.ndarray]) -> int:
        """Number of positions collected."""
        return sum(part.shape[1] for part in parts)

    def add_sequence(
        self,
        index: int,
        value: Content,
        n_in: int,
        n_tgt: int | None,
        keep: Keep,
        text: TextTokenizer,
        rng: np.random.Generator,
    ) -> None:
        """Mask a sequence or given states. Targets are teacher-forced: each id predicts the next one."""
        spec = self._streams[index]
        if isinstance(value, np.ndarray):
            states = mask_states(value[: spec.max_tokens], n_in, keep, rng)
            self._dense[spec.name] = states
            self._add_input(index, np.arange(len(states)), 0)
            return
        visible, target = mask_sequence(value, n_in, n_tgt, keep, text, rng)
        self._add_input(index, np.arange(len(visible)), visible)
        if spec.is_target:
            steps = np.arange(max(0, len(target) - 1))
            self._add_target(index, steps, target[:-1], target[1:], steps)

    def add_grid(self, index: int, value: Content, visible: _Ints, target: _Ints) -> None:
        """Add the chosen positions of an image-like stream."""
        spec, value = self._streams[index], np.asarray(value)
        if spec.kind is StreamKind.PIXELS:
            if visible.size:
                self._dense[spec.name] = value
                self._add_input(index, visible, 0)
            return
        self._add_input(index, visible, value[visible])
        self._add_target(index, target, 0, value[target], 0)

    def _add_input(self, index: int, position: np.ndarray, token: object) -> None:
        self.inputs.append(_rows(position, (index, position, token)))

    def _add_target(self, index: int, position: np.ndarray, token: object, label: object, order: object) -> None:
        self.targets.append(_rows(position, (index, position, token, label, order)))

    def sample(self) -> MaskedSample:
        """What was collected."""
        empty_in, empty_tgt = np.zeros((3, 0), dtype=np.int64), np.zeros((5, 0), dtype=np.int64)
        return MaskedSample(
            np.concatenate([empty_in, *self.inputs], axis=1),
            np.concatenate([empty_tgt, *self.targets], axis=1),
            self._dense,
        )


def _rows(position: np.ndarray, values: tuple[object, ...]) -> np.ndarray:
    """Rows of a table with one column per position; scalars are repeated."""
    table = np.empty((len(values), len(position)), dtype=np.int64)
    for row, value in zip(table, values, strict=True):
        row[:] = value  # type: ignore[assignment]
    return table
