"""Materials: two colours, a procedural pattern in metres, gloss and glow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

Rgb = tuple[float, float, float]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (196, 38, 36), "orange": (232, 122, 30), "yellow": (238, 202, 56), "green": (62, 148, 66),
    "blue": (46, 92, 186), "purple": (120, 60, 160), "pink": (236, 138, 172), "brown": (118, 72, 38),
    "beige": (218, 198, 160), "white": (236, 236, 232), "gray": (132, 134, 138), "black": (34, 34, 38),
}  # fmt: skip
"""Colour names that captions use, as sRGB."""

WOODS: tuple[tuple[int, int, int], ...] = (
    (150, 96, 52), (176, 124, 74), (112, 68, 40), (196, 154, 104), (134, 78, 46), (92, 60, 44),
)  # fmt: skip


class Pattern(IntEnum):
    """How the two colours of a material are laid out on a surface."""

    PLAIN = 0
    CHECKER = 1
    STRIPES = 2
    BRICK = 3
    PLANKS = 4
    GRAIN = 5
    TILES = 6
    DOTS = 7
    MOTTLED = 8
    PLAID = 9


@dataclass(frozen=True)
class Material:
    """Look of a part.

    Attributes:
        colour, second: linear RGB in [0, 1].
        pattern: layout of the two colours.
        scale: metres per repetition of the pattern.
        gloss: strength of the highlight, 0…1.
        glow: share of the colour that is emitted, 0…1.
        name: colour name as a caption would say it.
    """

    colour: Rgb
    second: Rgb = (0.0, 0.0, 0.0)
    pattern: Pattern = Pattern.PLAIN
    scale: float = 0.2
    gloss: float = 0.0
    glow: float = 0.0
    name: str = "gray"


def to_linear(srgb: Sequence[float] | np.ndarray) -> np.ndarray:
    """sRGB 0…255 → linear RGB 0…1 (power 2.2)."""
    return (np.asarray(srgb, dtype=np.float64) / 255.0) ** 2.2


def jitter(srgb: Sequence[float] | np.ndarray, rng: np.random.Generator, amount: float = 0.1) -> Rgb:
    """A linear colour near an sRGB one: the brightness varies most, the hue little."""
    factor = rng.uniform(1 - amount, 1 + amount) * rng.uniform(1 - amount / 3, 1 + amount / 3, size=3)
    red, green, blue = to_linear(np.clip(np.array(srgb) * factor, 4, 250))
    return float(red), float(green), float(blue)


def scaled(colour: Rgb, factor: float, lift: float = 0.0) -> Rgb:
    """A linear colour times ``factor`` plus ``lift``, at most 1."""
    red, green, blue = (min(1.0, c * factor + lift) for c in colour)
    return red, green, blue


def named(name: str, rng: np.random.Generator, **options: Any) -> Material:
    """A plain material in a named colour."""
    return Material(jitter(COLOURS[name], rng), name=name, **options)


def any_colour(rng: np.random.Generator, among: tuple[str, ...] = tuple(COLOURS)) -> str:
    """A random colour name."""
    return among[int(rng.integers(len(among)))]


def patterned(
    name: str, second: str, pattern: Pattern, scale: float, rng: np.random.Generator, **options: Any
) -> Material:
    """Two named colours in a pattern; captions use the first."""
    return Material(jitter(COLOURS[name], rng), jitter(COLOURS[second], rng), pattern, scale, name=name, **options)


def wood(rng: np.random.Generator, gloss: float = 0.1) -> Material:
    """Grained wood; called brown or beige."""
    tone = WOODS[int(rng.integers(len(WOODS)))]
    dark = np.array(tone) * 0.72
    return Material(
        jitter(tone, rng, 0.06), jitter(dark, rng, 0.04), Pattern.GRAIN, rng.uniform(0.05, 0.1), gloss,
        name="beige" if sum(tone) > 420 else "brown",
    )  # fmt: skip


def metal(rng: np.random.Generator) -> Material:
    """Plain glossy grey."""
    level = int(rng.integers(110, 200))
    return Material(jitter((level, level, level + 4), rng, 0.03), gloss=0.6, name="gray")


def fabric(name: str, rng: np.random.Generator) -> Material:
    """Cloth in a named colour: plain, striped, dotted or plaid with a paler or darker second colour."""
    base = np.array(COLOURS[name], dtype=float)
    other = base * 0.72 if base.mean() > 110 else base + (255 - base) * 0.35
    pattern = (Pattern.PLAIN, Pattern.PLAIN, Pattern.STRIPES, Pattern.DOTS, Pattern.PLAID)[int(rng.integers(5))]
    return Material(jitter(COLOURS[name], rng), jitter(other, rng, 0.04), pattern, rng.uniform(0.1, 0.22), name=name)


# -- evaluation ---------------------------------------------------------------------------------------------------


def _hash(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A number in [0, 1) per pair of integers (stored as floats)."""
    value = np.sin(a * 12.9898 + b * 78.233) * 43758.547
    return value - np.floor(value)


def value_noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth noise in [0, 1] with one feature per unit."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    low = _hash(iu, iv) * (1 - fu) + _hash(iu + 1, iv) * fu
    high = _hash(iu, iv + 1) * (1 - fu) + _hash(iu + 1, iv + 1) * fu
    return low * (1 - fv) + high * fv


def pattern_weight(pattern: Pattern, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Share of the second colour, in [0, 1], at surface coordinates (N,) in units of the pattern's scale."""
    if pattern is Pattern.CHECKER:
        return (np.floor(u) + np.floor(v)) % 2
    if pattern is Pattern.STRIPES:
        return np.floor(u * 2) % 2
    if pattern is Pattern.BRICK:
        row = np.floor(v * 2)
        across = u + 0.5 * (row % 2)
        mortar = ((v * 2 - row) < 0.14) | ((across - np.floor(across)) < 0.07)
        return np.where(mortar, 1.0, 0.3 * _hash(np.floor(across), row))
    if pattern is Pattern.PLANKS:
        row = np.floor(v)
        board = np.floor(u / 6 + _hash(row, row))
        gap = (v - row) < 0.08
        return np.where(gap, 1.0, 0.55 * _hash(row, board) + 0.15 * np.sin(u * 2 + 9 * row) ** 2)
    if pattern is Pattern.GRAIN:
        return 0.5 + 0.5 * np.sin(6.3 * (v + 0.6 * value_noise(u * 0.4, v)))
    if pattern is Pattern.TILES:
        joint = ((u - np.floor(u)) < 0.09) | ((v - np.floor(v)) < 0.09)
        return np.where(joint, 1.0, 0.12 * _hash(np.floor(u), np.floor(v)))
    if pattern is Pattern.DOTS:
        return ((u - np.floor(u) - 0.5) ** 2 + (v - np.floor(v) - 0.5) ** 2 < 0.07).astype(np.float32)
    if pattern is Pattern.MOTTLED:
        return 0.65 * value_noise(u, v) + 0.35 * value_noise(u * 2.7 + 5, v * 2.7)
    if pattern is Pattern.PLAID:
        return 0.5 * (np.floor(u * 2) % 2) + 0.5 * (np.floor(v * 2) % 2)
    return np.zeros_like(u)
