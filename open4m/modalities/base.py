"""Modality: what one kind of data *is* – its values, files, crops, checks, pictures and scores.

A modality is one file in this folder: a subclass of :class:`DenseModality` (image-like and vector data that a
tokenizer turns into codes) or :class:`TextModality` (data written as words of a small grammar), and one
``register(...)`` call at its end. Nothing else has to be edited; other packages register through the entry-point
group ``open4m.modalities``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.files import write_bytes
from open4m.modalities.grammar import Terms
from open4m.modalities.merging import Merged, medoid
from open4m.modalities.view import View
from open4m.streams import Position, StreamKind, StreamSpec

Value = TypeVar("Value")


@dataclass(frozen=True)
class Metric:
    """How to read a score: its unit (``""`` for none) and its direction."""

    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Card:
    """What a user should know about a modality.

    Attributes:
        title: heading for pictures, such as ``Surface normals``.
        description: one or two sentences: what a value holds (shape, dtype, units, range), how invalid parts look.
        metrics: every key that :meth:`Modality.score` may return; the first is the one to compare models by.
        source: who labelled it in the published system (paper, Table/Section), its licence where one is attached.
    """

    title: str
    description: str
    metrics: dict[str, Metric] = field(default_factory=dict)
    source: str = ""


class Modality(ABC, Generic[Value]):
    """Description and behaviour of one kind of data. Stateless; one registered instance each."""

    name: ClassVar[str]
    card: ClassVar[Card]
    extensions: ClassVar[tuple[str, ...]]
    """File endings that :meth:`decode` understands, without dot; the first is the one written."""
    value_is_list: ClassVar[bool] = False
    """Whether one value is itself a list (of boxes, of people), so that a batch is a list of lists."""

    # -- files ------------------------------------------------------------------------------------------------
    @abstractmethod
    def decode(self, data: bytes, source: str) -> Value:
        """Bytes of a file (published format) → value. Raises :class:`ModalityError` naming ``source``."""

    def decode_all(self, data: bytes, source: str) -> list[Value]:
        """Every value that a file offers (several captions, seven palettes): training draws one of them."""
        return [self.decode(data, source)]

    @abstractmethod
    def encode(self, value: Value) -> bytes:
        """Value → bytes of a file with the first of ``extensions``."""

    def read(self, path: str | Path) -> Value:
        """Read and validate a file."""
        path = Path(path)
        if not path.is_file():
            raise ModalityError(self.name, str(path), "there is no such file.", "Check the path.")
        value = self.decode(path.read_bytes(), str(path))
        self.validate(value, str(path))
        return value

    def write(self, value: Value, path: str | Path) -> None:
        """Write a file atomically."""
        write_bytes(path, self.encode(value))

    @abstractmethod
    def validate(self, value: Value, source: str) -> None:
        """Raise :class:`ModalityError` (what was found, expected, and how to fix it) if the value is malformed."""

    # -- geometry, pictures, scores ----------------------------------------------------------------------------
    @abstractmethod
    def apply(self, value: Value, view: View) -> Value:
        """The value as seen through a crop/flip/resize."""

    @abstractmethod
    def draw(self, value: Value, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """A picture (RGB, ``size`` × ``size``) as a person would want to see it.

        Args:
            background: the square picture that the value belongs to, under overlays.
        """

    def draw_all(
        self, values: Sequence[Value], size: int = 224, backgrounds: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """Pictures (:meth:`draw`) of values that are looked at side by side."""
        grounds = backgrounds or [None] * len(values)
        return [self.draw(value, size, ground) for value, ground in zip(values, grounds, strict=True)]

    def describe(self, value: Value, predicted: bool = False) -> str:
        """One line to read beside the picture: words, counts, ranges with their unit. Empty where there is nothing.

        Args:
            predicted: the value is a model's; matters where predictions have another unit (depth).
        """
        return ""

    @abstractmethod
    def score(self, predictions: Sequence[Value], truths: Sequence[Value]) -> dict[str, float]:
        """Scores of a list of predictions against the truth; keys are documented in ``card.metrics``."""

    def errors(self, prediction: Value, truth: Value) -> np.ndarray:
        """How wrong a prediction is, place by place: (H, W) float32, NaN where the truth is unknown.

        For values without places, one number (): how far the first score of the prediction is from that of the truth.
        """
        metric = next(iter(self.card.metrics))
        found, best = (self.score([value], [truth])[metric] for value in (prediction, truth))
        return np.array(abs(best - found), dtype=np.float32)

    def merge(self, values: Sequence[Value]) -> Merged[Value]:
        """Samples of the same thing (at least one) as one value, with their spread.

        Here, for values that cannot be averaged: the sample that is nearest to all others by :meth:`errors`.
        """
        best, distance = medoid(values, lambda a, b: float(self.errors(a, b)))
        metric = next(iter(self.card.metrics))
        return Merged(values[best], np.array(distance, dtype=np.float32), f"mean distance in {metric}")

    # -- the transformer's side ----------------------------------------------------------------------------------
    @abstractmethod
    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """The published streams of this modality at a resolution (vocabulary, length, position kind)."""


class DenseModality(Modality[Value]):
    """Data that a VQ tokenizer turns into a grid or a set of codes."""

    channels: ClassVar[int]
    """Channels of the tokenizer's input (published; an own tokenizer's config wins)."""

    @abstractmethod
    def to_array(self, value: Value) -> np.ndarray:
        """Value → tokenizer input: (C, H, W) float32, or (H, W) int64 class ids; normalisation happens here."""

    @abstractmethod
    def from_array(self, array: np.ndarray) -> Value:
        """Tokenizer output (C, H, W) float32 → value. Inverse of :meth:`to_array` where it is invertible."""


class TextModality(Modality[Value]):
    """Data written as words: each is a run of WordPiece tokens (spec: modalities §4)."""

    @abstractmethod
    def to_words(self, value: Value, rng: np.random.Generator | None = None) -> str | list[str]:
        """Value → words separated by one space, or a list of chunks that masking keeps whole.

        ``rng`` draws the free choices of the grammar (orders, query points); None = canonical order.
        """

    @abstractmethod
    def from_words(self, words: str) -> Value:
        """Words (special tokens stripped) → value. Malformed parts of a prediction are dropped, never raised on."""

    def shown(self, value: Value) -> Value:
        """What of a value counts as there: what pictures show of it, and a model reads that it is given to.

        Parts that a detector, or the samples that were merged, doubt are left out; the others are certain.
        """
        return value

    def begins_part(self, word: str) -> bool:
        """Whether a word is the first of a part (box, person, field) of a well-formed sentence."""
        return False

    def next_terms(self, terms: Sequence[str], room: int) -> Terms | None:
        """What may follow the first ``terms`` of a sentence, so that predictions are well-formed; None = anything.

        Args:
            terms: as chosen so far from what this method allowed.
            room: how many more ids the sentence may have; no part should be begun that does not fit.
        """
        return None

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """One sequence stream over the text vocabulary (30 000 ids in the published models)."""
        return (text_stream(self.name, self.max_tokens, self.max_target_position),)

    max_tokens: ClassVar[int]
    max_target_position: ClassVar[int | None] = None


def text_stream(name: str, max_tokens: int, max_target_position: int | None = None) -> StreamSpec:
    """A sequence stream with the published vocabulary size."""
    return StreamSpec(
        name, name, StreamKind.SEQUENCE, max_tokens, vocab_size=30_000, max_target_position=max_target_position
    )


def token_stream(
    base: str, modality: str, image_size: int, patch_size: int, vocab_size: int, **options: Any
) -> StreamSpec:
    """An image-token stream ``tok_<base>@<size>`` on a square grid."""
    side = image_size // patch_size
    return StreamSpec(
        f"tok_{base}@{image_size}",
        modality,
        StreamKind.TOKENS,
        side * side,
        vocab_size=vocab_size,
        grid=(side, side),
        position=Position.SINCOS_2D,
        **options,
    )
