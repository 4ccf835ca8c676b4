"""Metadata: 21 numbers about a picture, its caption and its content, with which generation can be steered."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from open4m.errors import ModalityError, UnknownNameError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.checks import require_paired
from open4m.modalities.drawing import font
from open4m.modalities.grammar import END, MAX_VALUE, Numbers, Terms, number_value, number_word, parse_number
from open4m.modalities.merging import Merged
from open4m.modalities.registry import register
from open4m.modalities.view import View


@dataclass(frozen=True)
class Count:
    """A whole number in units of ``unit``; up to 999 units."""

    unit: int = 1
    top: int = MAX_VALUE
    near: ClassVar[int] = 3

    def code(self, value: float) -> int:
        return min(max(int(value // self.unit), 0), self.top)

    def value(self, code: int) -> float:
        """The lowest number with this code, as published."""
        return code * self.unit

    def error(self, a: int, b: int) -> float:
        return abs(a - b) / max(a, b, 1)


@dataclass(frozen=True)
class Bins:
    """A number in [low, high], clamped, in 50 codes: ``floor((x − low) / (high − low) · 49)``."""

    low: float
    high: float
    top: int = 49
    near: ClassVar[int] = 3

    def code(self, value: float) -> int:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return int(share * self.top)

    def value(self, code: int) -> float:
        """Centre of the numbers with this code; code 49 is ``high`` alone."""
        return self.low + (self.high - self.low) * min((code + 0.5) / self.top, 1.0)

    def error(self, a: int, b: int) -> float:
        return abs(a - b) / self.top


@dataclass(frozen=True)
class Levels:
    """A number reduced to a few levels: code = how many ``edges`` it reaches; ``centres`` stand for the levels."""

    edges: tuple[float, ...]
    centres: tuple[float, ...]
    near: ClassVar[int] = 0

    @property
    def top(self) -> int:
        return len(self.edges)

    def code(self, value: float) -> int:
        return sum(value >= edge for edge in self.edges)

    def value(self, code: int) -> float:
        return self.centres[code]

    def error(self, a: int, b: int) -> float:
        return abs(a - b) / self.top


FIELDS: dict[str, Count | Bins | Levels] = {
    "original_width": Count(unit=32),
    "original_height": Count(unit=32),
    "caption_n_chars": Count(),
    "caption_n_words": Count(),
    "caption_n_sentences": Count(),
    "n_humans": Count(),
    "n_sam_instances": Count(),
    "n_coco_instances": Count(),
    "coco_instance_diversity": Count(),
    "colorfulness": Bins(0, 150),
    "brightness": Bins(0, 255),
    "contrast": Bins(0, 127),
    "saturation": Bins(0, 255),
    "entropy": Bins(0, 10),
    "walkability": Bins(0, 1),
    "objectness": Bins(0, 1),
    "semantic_diversity": Count(),
    "geometric_complexity": Bins(0, 0.75),
    "occlusion_score": Bins(0, 0.25),
    "watermark_score": Levels((0.5,), (0.25, 0.75)),
    "aesthetic_score": Levels((4.5, 5.5), (4.0, 5.0, 6.0)),
}
"""Field → coding, in the order of the published field codes 0…20."""

_NAMES = tuple(FIELDS)


def field_range(name: str) -> tuple[float, float]:
    """Numbers of a field that can be told apart; beyond, they are clamped. Raises :class:`UnknownNameError`."""
    if name not in FIELDS:
        raise UnknownNameError("metadata field", name, FIELDS)
    coding = FIELDS[name]
    if isinstance(coding, Bins):
        return coding.low, coding.high
    return 0.0, float("inf") if isinstance(coding, Levels) else coding.unit * (coding.top + 1.0)


_PAPER, _BAR, _INK = (250, 250, 247), (203, 219, 238), (20, 20, 24)


class Metadata(TextModality[dict[str, float]]):
    """Field → number; grammar of spec modalities §4.2."""

    name = "metadata"
    card = Card(
        title="Metadata",
        description=(
            "Field → number in natural units (pixels, counts, bits, 0…255, shares). Read back, a number is the "
            "centre of its bin; picture sizes are multiples of 32. Fields may be left out. As published, models read "
            "20 fields at most: of all 21 they do not see the last, aesthetic_score."
        ),
        metrics={"within_3_bins": Metric("", True), "exact": Metric("", True), "error": Metric("", False)},
        source="measured on captions, pictures and pseudo labels (4M-21, Sec. 3.1); formulas of the paper not stated",
    )
    extensions = ("json",)
    max_tokens = 40

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> dict[str, float]:
        """Published JSON: an object of numbers. Unknown fields are refused."""
        try:
            value = json.loads(data)
        except ValueError as error:
            raise ModalityError(
                self.name, source, f"not JSON ({error}).", 'Write {"brightness": 120.5, "n_humans": 2, …}.'
            ) from error
        self.validate(value, source)
        return value

    def encode(self, value: dict[str, float]) -> bytes:
        plain = {field: number.item() if isinstance(number, np.generic) else number for field, number in value.items()}
        return json.dumps(plain).encode()

    def validate(self, value: dict[str, float], source: str) -> None:
        if not isinstance(value, dict):
            raise ModalityError(
                self.name, source, f"found {type(value).__name__}, expected field → number.", "Give a dict."
            )
        for field, number in value.items():
            if field not in FIELDS:
                unknown = UnknownNameError("field", field, FIELDS)
                raise ModalityError(self.name, source, str(unknown), "Remove or rename it.")
            if isinstance(number, bool) or not isinstance(number, int | float | np.number) or not math.isfinite(number):
                raise ModalityError(
                    self.name, source, f"the field {field!r} is {number!r}, expected a finite number.", "Correct it."
                )

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: dict[str, float], view: View) -> dict[str, float]:
        """Metadata is about the whole picture, whatever the crop (as published)."""
        return value

    def draw(self, value: dict[str, float], size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """A table of fields and numbers; behind each row, a bar as long as its code in the range of codes."""
        picture = Image.new("RGB", (size, size), _PAPER)
        table, step = ImageDraw.Draw(picture), size / max(len(value), 8)
        face, margin = font(min(step * 0.85, size / 14)), size // 40
        for row, field in enumerate(name for name in _NAMES if name in value):
            coding, middle = FIELDS[field], (row + 0.5) * step
            if not isinstance(coding, Count):
                length = (size - 1) * coding.code(value[field]) / coding.top
                table.rectangle((0, row * step, length, (row + 1) * step - 1), fill=_BAR)
            text = f"{value[field]:.0f}" if isinstance(coding, Count) else f"{value[field]:.2f}"
            text += " px" if field.startswith("original") else ""
            table.text((margin, middle), field.replace("_", " "), fill=_INK, font=face, anchor="lm")
            table.text((size - 1 - margin, middle), text, fill=_INK, font=face, anchor="rm")
        return picture

    def describe(self, value: dict[str, float], predicted: bool = False) -> str:
        return ", ".join(f"{field} {value[field]:.4g}" for field in _NAMES if field in value) or "no fields"

    # -- words --------------------------------------------------------------------------------------------------
    def begins_part(self, word: str) -> bool:
        number = parse_number(word)
        return number is not None and number[0] == 1

    def to_words(self, value: dict[str, float], rng: np.random.Generator | None = None) -> list[str]:
        """One chunk ``v1=<field code> v0=<value code>`` per field, in the order of the codes or shuffled."""
        chunks = [
            f"{number_word(1, index)} {number_word(0, FIELDS[field].code(value[field]))}"
            for index, field in enumerate(_NAMES)
            if field in value
        ]
        if rng is not None:
            rng.shuffle(chunks)
        return chunks

    def from_words(self, words: str) -> dict[str, float]:
        """Fields of well-formed chunks, in the order of the codes; of a repeated field the last one counts."""
        codes: dict[int, int] = {}
        for chunk in " ".join(words.split()).split("v1=")[1:]:
            numbers = [parse_number(word) for word in f"v1={chunk}".split()]
            match numbers:
                case [(1, index), (0, code)] if index < len(_NAMES) and code <= FIELDS[_NAMES[index]].top:
                    codes[index] = code
        return {_NAMES[index]: FIELDS[_NAMES[index]].value(codes[index]) for index in sorted(codes)}

    def next_terms(self, terms: Sequence[str], room: int) -> Terms:
        """Pairs of a field that was not yet named and one of its values."""
        if len(terms) % 2:
            return Terms((Numbers(0, 0, FIELDS[_NAMES[number_value(terms[-1])]].top),))
        named = {number_value(word) for word in terms[::2]}
        left = [index for index in range(len(_NAMES)) if index not in named]
        return Terms(tuple(Numbers(1, index, index) for index in left)) if left and room >= 2 else END

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[dict[str, float]], truths: Sequence[dict[str, float]]) -> dict[str, float]:
        """Over all fields of all truths: shares of codes that are right (``exact``) or near (``within_3_bins``: off by
        at most three; of the few levels only the right one), and the mean ``error`` of the code.

        Errors are relative (counts) or shares of the range (bins and levels), 0…1. A missing field is wrong: error 1.
        """
        require_paired(self.name, predictions, truths)
        errors: list[float] = []
        near: list[bool] = []
        for prediction, truth in zip(predictions, truths, strict=True):
            for field, number in truth.items():
                coding, known = FIELDS[field], field in prediction
                ours, theirs = coding.code(prediction.get(field, number)), coding.code(number)
                errors.append(coding.error(ours, theirs) if known else 1.0)
                near.append(known and abs(ours - theirs) <= coding.near)
        if not errors:
            return dict.fromkeys(self.card.metrics, math.nan)
        exact = float(np.mean(np.array(errors) == 0))
        return {"within_3_bins": float(np.mean(near)), "exact": exact, "error": float(np.mean(errors))}

    def merge(self, values: Sequence[dict[str, float]]) -> Merged[dict[str, float]]:
        """Median (of the few levels: the commonest) of every field that at least half of the samples have.

        The spread (fields,), in the order of :data:`FIELDS`, is the mean error of the codes.
        """
        merged: dict[str, float] = {}
        spread: list[float] = []
        for field, coding in FIELDS.items():
            codes = [coding.code(value[field]) for value in values if field in value]
            if 2 * len(codes) < len(values):
                continue
            code = Counter(codes).most_common(1)[0][0] if isinstance(coding, Levels) else sorted(codes)[len(codes) // 2]
            merged[field] = coding.value(code)
            spread.append(float(np.mean([coding.error(code, other) for other in codes])))
        return Merged(merged, np.array(spread, dtype=np.float32), "error of the code, 0…1")


register(Metadata())
