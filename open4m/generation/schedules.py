"""How many tokens each step decides, and how boldly (spec: generation §1)."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from open4m.errors import GenerationError

TOKEN_SCHEDULES = ("linear", "cosine", "monotone_cosine")

_COLDEST = 1e-9


def token_schedule(name: str, steps: int, tokens: int) -> list[int]:
    """Number of tokens that each step decides; they sum to ``tokens``.

    ``linear``: as even as possible, larger steps first, empty steps dropped (so there are at most ``tokens`` steps).
    ``cosine``: few, many, few – the published S-curve ``½(1 + cos(πi/n))``, not MaskGIT's monotone one; with many
    steps some may be empty. ``monotone_cosine``: MaskGIT's own (Chang et al. 2022, Sec. 3.3): ``⌊T cos(πi/2n)⌋`` tokens
    are open after step i, so that few are decided first and most last.
    """
    if steps < 1 or tokens < 1:
        raise GenerationError(f"A schedule needs at least one step and one token, not {steps} and {tokens}.")
    check_token_schedule(name)
    if name == "linear":
        marks = [i * tokens // steps for i in range(steps + 1)]
        parts = sorted((b - a for a, b in pairwise(marks)), reverse=True)
        return [part for part in parts if part]
    if name == "cosine":
        curve = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps)]
        parts, left = [], tokens
        for a, b in pairwise(curve):
            parts.append(min(left, round(tokens * (a - b))))
            left -= parts[-1]
        return [*parts, left]
    still_open = [math.floor(tokens * math.cos(math.pi * i / (2 * steps))) for i in range(steps)]
    return [a - b for a, b in pairwise([*still_open, 0])]


def temperature_schedule(name: str, start: float, tokens: list[int]) -> list[float]:
    """Temperature of every step of a token schedule ``tokens``.

    ``constant``: ``start`` throughout. ``linear``: proportional to the share still undecided before the step.
    ``onex:<min>:<power>``: from ``start`` down to ``min`` like ``x^-power`` times the share undecided after the step;
    ``x`` runs over 1…100 in as many points as there are tokens, of which the first ``len(tokens)`` count (published;
    empty steps beyond them repeat the last one).
    """
    total, decided = sum(tokens), np.cumsum(tokens) / sum(tokens)
    if name == "constant":
        return [start] * len(tokens)
    if name == "linear":
        open_before = 1 - np.concatenate([[0.0], decided[:-1]])
        return [max(float(t), _COLDEST) for t in start * open_before]
    lowest, power = _onex(name)
    curve = np.linspace(1, 100, total) ** -power
    curve = (curve - curve.min()) / (curve.max() - curve.min()) if total > 1 else np.ones(1)
    points = np.minimum(np.arange(len(tokens)), total - 1)
    values = lowest + (start - lowest) * (1 - decided) * curve[points]
    return [float(t) for t in values[:-1]] + [lowest]


def check_token_schedule(name: str) -> None:
    """Raise :class:`GenerationError` unless ``name`` is a token schedule."""
    if name not in TOKEN_SCHEDULES:
        raise GenerationError(f"Unknown token schedule {name!r}. Known: {', '.join(TOKEN_SCHEDULES)}.")


def check_temperature_schedule(name: str) -> None:
    """Raise :class:`GenerationError` unless ``name`` is a temperature schedule."""
    if name not in ("constant", "linear"):
        _onex(name)


def _onex(name: str) -> tuple[float, float]:
    """(min, power) of ``onex:<min>:<power>``."""
    try:
        kind, lowest, power = name.split(":")
        if kind == "onex" and 0 <= float(lowest) < math.inf and 0 < float(power) < math.inf:
            return float(lowest), float(power)
    except ValueError:
        pass
    raise GenerationError(f"Unknown temperature schedule {name!r}. Known: constant, linear, onex:<min>:<power>.")
