"""Canvas: what is known about B samples at a moment of generation."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from open4m.batch import TokenInputs, TokenTargets
from open4m.errors import GenerationError, UnknownNameError
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import SENTINEL_IDS

FIRST_SPAN = SENTINEL_IDS[1]
"""Id of the sentinel ``[S_1]``: where the first missing span of a sequence stands (spec: modalities §4.6)."""


@dataclass(frozen=True)
class Track:
    """One stream of a canvas.

    Attributes:
        ids: (B, L) int64; 0 where nothing is known, and for pixels and vectors.
        known: (B, L) bool, True = visible to the encoder. Sequences are left-aligned: known first, then padding.
        dense: pixels (B, C, H, W) or vectors (B, L, E), else None.
    """

    ids: Tensor
    known: Tensor
    dense: Tensor | None = None

    @property
    def length(self) -> int:
        """Number of positions L."""
        return self.ids.shape[1]

    def take(self, rows: Tensor) -> Track:
        """The same for a selection (n,) of samples."""
        return Track(self.ids[rows], self.known[rows], None if self.dense is None else self.dense[rows])

    def padded(self, length: int) -> Track:
        """The same with unknown positions appended up to ``length``."""
        extra = length - self.length
        pad = torch.nn.functional.pad
        vectors = self.dense is not None and self.dense.dim() == 3
        dense = pad(self.dense, (0, 0, 0, extra)) if self.dense is not None and vectors else self.dense
        return Track(pad(self.ids, (0, extra)), pad(self.known, (0, extra)), dense)


@dataclass(frozen=True)
class Canvas:
    """Immutable state of B samples; every change gives a new canvas that shares what stayed the same.

    Attributes:
        streams: the model's streams, in its order.
        batch: B; the samples may know nothing at all.
        tracks: known content by stream name.
    """

    streams: tuple[StreamSpec, ...]
    batch: int
    tracks: Mapping[str, Track] = field(default_factory=dict)

    # -- giving content -------------------------------------------------------------------------------------------
    def with_pixels(self, name: str, images: Tensor) -> Canvas:
        """Give images (B, C, H, W), normalised; all patches are visible."""
        spec = self.spec(name, StreamKind.PIXELS)
        ids = torch.zeros(self.batch, spec.max_tokens, dtype=torch.int64)
        return self._with(name, Track(ids, torch.ones_like(ids, dtype=torch.bool), images))

    def with_tokens(self, name: str, ids: Tensor, known: Tensor | None = None) -> Canvas:
        """Give ids (B, L) of a grid or set, all of them or those where ``known`` (B, L) bool is True."""
        spec = self.spec(name, StreamKind.TOKENS)
        if ids.shape != (self.batch, spec.max_tokens):
            raise GenerationError(f"{name}: ids {tuple(ids.shape)} given, expected {(self.batch, spec.max_tokens)}.")
        known = torch.ones_like(ids, dtype=torch.bool) if known is None else known
        ids = torch.where(known, ids, 0)
        _check_ids(spec, ids, "are they of another tokenizer?")
        return self._with(name, Track(ids, known))

    def with_sequences(self, name: str, sequences: Sequence[Sequence[int]]) -> Canvas:
        """Give one list of word-piece ids per sample; all are visible, shorter rows are padded."""
        spec = self.spec(name, StreamKind.SEQUENCE)
        longest = max((len(s) for s in sequences), default=0)
        ids = torch.zeros(len(sequences), longest, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence, dtype=torch.int64)
        _check_ids(spec, ids, "are they of another text tokenizer?")
        lengths = torch.tensor([len(s) for s in sequences])[:, None]
        return self._with(name, Track(ids, torch.arange(longest)[None] < lengths))

    def with_vectors(self, name: str, vectors: Sequence[Tensor]) -> Canvas:
        """Give one (L, E) float tensor per sample, such as text-encoder states; cut to the stream's length."""
        spec = self.spec(name, StreamKind.EMBEDDING)
        cut = [v[: spec.max_tokens] for v in vectors]
        dense = torch.nn.utils.rnn.pad_sequence(cut, batch_first=True)
        known = torch.arange(dense.shape[1])[None] < torch.tensor([len(v) for v in cut])[:, None]
        return self._with(name, Track(torch.zeros_like(known, dtype=torch.int64), known, dense))

    def fix(self, name: str, positions: Tensor, ids: Tensor) -> Canvas:
        """Decide positions (B, k) of a grid: their ids (B, k) become known."""
        track = self.tracks.get(name) or self._unknown(name)
        return self._with(
            name, Track(track.ids.scatter(1, positions, ids), track.known.scatter(1, positions, True), track.dense)
        )

    def limited(self, name: str, seen: Tensor) -> Canvas:
        """Hide the positions of a stream where ``seen`` (B, L) is False."""
        track = self.tracks[name]
        return self._with(name, Track(torch.where(seen, track.ids, 0), track.known & seen, track.dense))

    def opened(self, name: str) -> Canvas:
        """Make sure that a sequence can be generated: where nothing is given, it is one missing span ``[S_1]``."""
        if name in self.tracks:
            return self
        return self.with_sequences(name, [[FIRST_SPAN]] * self.batch)

    def adopt(self, name: str, other: Canvas) -> Canvas:
        """Take over one stream from another canvas of the same samples."""
        return self._with(name, other.tracks[name])

    # -- asking ---------------------------------------------------------------------------------------------------
    @cached_property
    def visible(self) -> int:
        """How many positions the encoder sees, of the sample with the most."""
        counts = [track.known.sum(dim=1) for track in self.tracks.values()]
        return int(torch.stack(counts).sum(dim=0).max()) if counts and self.batch else 0

    def spec(self, name: str, kind: StreamKind | None = None) -> StreamSpec:
        """The stream called ``name``; an error if it is unknown or not of ``kind``."""
        for spec in self.streams:
            if spec.name == name:
                if kind not in (None, spec.kind):
                    raise GenerationError(f"{name} holds {spec.kind}, not {kind}.")
                return spec
        raise UnknownNameError("stream", name, [s.name for s in self.streams])

    def open_positions(self, name: str) -> Tensor:
        """(B, K) int64: positions of a grid that are not known yet, ascending.

        Raises :class:`GenerationError` if their number differs between samples (they could not share steps).
        """
        track = self.tracks.get(name) or self._unknown(name)
        counts = (~track.known).sum(dim=1)
        if int(counts.min()) != int(counts.max()):
            raise GenerationError(
                f"{name}: samples with different numbers of given tokens ({counts.tolist()}) cannot share one batch. "
                "Generate them one by one."
            )
        return (~track.known).nonzero()[:, 1].view(self.batch, -1)

    def sequence(self, name: str, row: int) -> list[int]:
        """The known ids of one sample's sequence."""
        track = self.tracks[name]
        return track.ids[row][track.known[row]].tolist()

    # -- other views of the same state ----------------------------------------------------------------------------
    def take(self, rows: Iterable[int]) -> Canvas:
        """A selection of samples; they may be repeated."""
        index = torch.tensor(list(rows), dtype=torch.int64)
        return replace(self, batch=len(index), tracks={k: t.take(index) for k, t in self.tracks.items()})

    def without(self, names: Collection[str]) -> Canvas:
        """The canvas with these streams hidden entirely."""
        return replace(self, tracks={k: t for k, t in self.tracks.items() if k not in names})

    def unconditional(self, names: Collection[str]) -> Canvas:
        """The canvas as the unconditional branch of guidance sees it (spec: generation §4).

        Of the named streams, grids are hidden, sequences become the single sentinel ``[S_1]``, vectors one zero vector.
        """
        hidden = self.without(names)
        for name in (n for n in self.tracks if n in names):
            kind, dense = self.spec(name).kind, self.tracks[name].dense
            if kind is StreamKind.SEQUENCE:
                hidden = hidden.with_sequences(name, [[FIRST_SPAN]] * self.batch)
            elif kind is StreamKind.EMBEDDING and dense is not None:
                hidden = hidden.with_vectors(name, list(torch.zeros_like(dense[:, :1])))
        return hidden

    def inputs(self, device: torch.device | str = "cpu") -> TokenInputs:
        """Everything known, as the encoder takes it: streams in the model's order, positions ascending."""
        stream, position, token, known = [], [], [], []
        for index, spec in enumerate(self.streams):
            track = self.tracks.get(spec.name)
            if track is None:
                continue
            counted = spec.kind is StreamKind.SEQUENCE
            place = track.known.cumsum(1) - 1 if counted else torch.arange(track.length).expand_as(track.ids)
            stream.append(torch.full_like(track.ids, index))
            position.append(place)
            token.append(track.ids)
            known.append(track.known)
        valid = torch.cat(known, dim=1) if known else torch.zeros(self.batch, 0, dtype=torch.bool)
        order = torch.argsort((~valid).to(torch.uint8), dim=1, stable=True)
        order = order[:, : int(valid.sum(dim=1).max()) if valid.numel() else 0]
        valid = valid.gather(1, order)

        def packed(parts: list[Tensor]) -> Tensor:
            whole = torch.cat(parts, dim=1) if parts else torch.zeros(self.batch, 0, dtype=torch.int64)
            return torch.where(valid, whole.gather(1, order), 0).to(device)

        dense = {k: t.dense.to(device) for k, t in self.tracks.items() if t.dense is not None}
        return TokenInputs(packed(stream), packed(position), packed(token), valid.to(device), dense)

    def _with(self, name: str, track: Track) -> Canvas:
        if len(track.ids) != self.batch:
            raise GenerationError(f"{name}: content for {len(track.ids)} samples given, expected {self.batch}.")
        return replace(self, tracks={**self.tracks, name: track})

    def _unknown(self, name: str) -> Track:
        ids = torch.zeros(self.batch, self.spec(name, StreamKind.TOKENS).max_tokens, dtype=torch.int64)
        return Track(ids, torch.zeros_like(ids, dtype=torch.bool))


def stack(canvases: Sequence[Canvas]) -> Canvas:
    """One canvas with the samples of all, in order; a stream missing in some is unknown there."""
    first = canvases[0]
    if len(canvases) == 1:
        return first
    tracks = {}
    for name in dict.fromkeys(n for c in canvases for n in c.tracks):
        present = [c.tracks[name] for c in canvases if name in c.tracks]
        length = max(t.length for t in present)
        blank = _blank_like(present[0].padded(length))
        parts = [
            c.tracks[name].padded(length) if name in c.tracks else blank.take(torch.zeros(c.batch, dtype=torch.int64))
            for c in canvases
        ]
        dense = [p.dense for p in parts if p.dense is not None]
        tracks[name] = Track(
            torch.cat([p.ids for p in parts]),
            torch.cat([p.known for p in parts]),
            torch.cat(dense) if dense else None,
        )
    return Canvas(first.streams, sum(c.batch for c in canvases), tracks)


def _check_ids(spec: StreamSpec, ids: Tensor, question: str) -> None:
    if bool(((ids < 0) | (ids >= spec.vocab_size)).any()):
        raise GenerationError(f"{spec.name}: ids must be in 0…{spec.vocab_size - 1}; {question}")


def _blank_like(track: Track) -> Track:
    """One sample with nothing known."""
    dense = None if track.dense is None else torch.zeros_like(track.dense[:1])
    return Track(torch.zeros_like(track.ids[:1]), torch.zeros_like(track.known[:1]), dense)


def grid_targets(requests: Sequence[tuple[int, Tensor]], device: torch.device | str = "cpu") -> TokenTargets:
    """Decoder targets for grid positions: (stream index, positions (B, K)) each; tokens of a stream see each other."""
    position = torch.cat([p for _, p in requests], dim=1).to(device)
    stream = torch.cat([torch.full_like(p, index) for index, p in requests], dim=1).to(device)
    zero = torch.zeros_like(position)
    return TokenTargets(stream, position, zero, zero, zero, torch.ones_like(position, dtype=torch.bool))


def span_bounds(sequence: Sequence[int], name: str) -> tuple[int, int]:
    """Sentinels between which the missing spans of a sequence are generated: the first in it, and the one to stop at.

    Raises :class:`GenerationError` if the sequence has no sentinel, that is, nothing is missing.
    """
    sentinels = [token for token in sequence if token in SENTINEL_IDS[1:]]
    if not sentinels:
        raise GenerationError(
            f"{name}: is given completely, so there is nothing to generate. Leave it out of the targets, or mark where "
            "it may continue with [S_1]."
        )
    return sentinels[0], min(sentinels[-1] + 1, SENTINEL_IDS[-1])
