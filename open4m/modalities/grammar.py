"""What every text grammar is made of: numbers ``v<axis>=<value>``, and which terms may follow (spec: modalities §4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_WORD = re.compile(r"v([0-3])=(\d{1,3})")

AXES = range(4)
MAX_VALUE = 999


def number_word(axis: int, value: int) -> str:
    """``v<axis>=<value>``; axis 0…3, value 0…999."""
    if not (axis in AXES and 0 <= value <= MAX_VALUE):
        raise ValueError(f"there is no word for axis {axis}, value {value}: axes are 0…3, values 0…{MAX_VALUE}")
    return f"v{axis}={value}"


def parse_number(word: str) -> tuple[int, int] | None:
    """(axis, value) of a coordinate word, None for any other word."""
    match = _WORD.fullmatch(word)
    return (int(match[1]), int(match[2])) if match else None


_HALF_CODEBOOK = 512


def code_word(code: int) -> str:
    """Word of a tokenizer's id 0…1023 inside a sentence: ``v0=<id>`` below 512, else ``v1=<id - 512>``."""
    if not 0 <= code < 2 * _HALF_CODEBOOK:
        raise ValueError(f"there is no word for the tokenizer id {code}: ids are 0…{2 * _HALF_CODEBOOK - 1}")
    return number_word(code // _HALF_CODEBOOK, code % _HALF_CODEBOOK)


def parse_code(word: str) -> int | None:
    """Inverse of :func:`code_word`; any axis but 0 counts as 1 (as published), None for what is no such word."""
    number = parse_number(word)
    if number is None or number[1] >= _HALF_CODEBOOK:
        return None
    return number[1] + (_HALF_CODEBOOK if number[0] else 0)


@dataclass(frozen=True)
class Numbers:
    """The words ``v<axis>=<low>`` … ``v<axis>=<high>``."""

    axis: int
    low: int = 0
    high: int = MAX_VALUE

    def words(self) -> list[str]:
        """All of them."""
        return [number_word(self.axis, value) for value in range(self.low, self.high + 1)]


CODES = (Numbers(0, 0, _HALF_CODEBOOK - 1), Numbers(1, 0, _HALF_CODEBOOK - 1))
"""Every :func:`code_word`."""


@dataclass(frozen=True)
class Terms:
    """What may come next in a sentence; a term is a number, or words that belong together such as a class name.

    Attributes:
        choices: the terms.
        end: the sentence may also end here.
        question: the term asks (a query point) instead of telling; questions are drawn as the model was trained on
            them, whatever the temperature of the answers.
    """

    choices: tuple[Numbers | str, ...] = ()
    end: bool = False
    question: bool = False

    def words(self) -> list[str]:
        """All choices, spelled out."""
        return [word for c in self.choices for word in (c.words() if isinstance(c, Numbers) else [c])]


END = Terms(end=True)


def number_value(word: str) -> int:
    """Value of a coordinate word that is known to be one."""
    number = parse_number(word)
    assert number is not None, word
    return number[1]


def next_corner(corners: Sequence[str], top: int = MAX_VALUE) -> Terms:
    """What follows the first 0…3 words of a box ``v0=<xmin> v1=<ymin> v2=<xmax> v3=<ymax>``, which has an area."""
    axis = len(corners)
    if axis < 2:
        return Terms((Numbers(axis, 0, top - 1),))
    return Terms((Numbers(axis, number_value(corners[axis - 2]) + 1, top),))
