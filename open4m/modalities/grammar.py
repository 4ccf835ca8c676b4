"""Coordinate words ``v<axis>=<value>``: the numbers of every text grammar (spec: modalities §4)."""

from __future__ import annotations

import re

_WORD = re.compile(r"v([0-3])=(\d{1,3})")

MAX_VALUE = 999


def number_word(axis: int, value: int) -> str:
    """``v<axis>=<value>``; axis 0…3, value 0…999."""
    if not (0 <= axis <= 3 and 0 <= value <= MAX_VALUE):
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
