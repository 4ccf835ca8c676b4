"""Mixtures: which modalities are shown to the model, which it must predict, and how much of each.

A mixture has components; each is a pair of Dirichlet distributions over streams, one for the tokens that are
visible and one for the tokens to be predicted (4M, Sec. 2.3; spec: masking §1, §8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from open4m.errors import DataError, UnknownNameError
from open4m.streams import StreamKind, StreamSpec


class Keep(StrEnum):
    """How much of a visible sequence is kept: the rest is replaced by sentinels and becomes the target."""

    RANDOM = "random"  # a share drawn uniformly from [0, 1]
    ALL = "all"  # everything
    BINARY = "binary"  # everything or nothing, equally likely
    PREFIX = "prefix"  # its beginning, of random length, as when some fields of metadata are given (not published)


@dataclass(frozen=True)
class Component:
    """One way of choosing visible and predicted tokens.

    Attributes:
        name: for reports.
        inputs: Dirichlet concentration α of each stream for the visible tokens; streams left out have 0 (never
            visible). Small α: few streams with many tokens; large α: all streams alike.
        targets: the same for the tokens to be predicted.
        keep: how much of a visible sequence is kept; streams left out: ``Keep.RANDOM``.
        input_tokens: fewest and most visible tokens; the number is drawn uniformly.
        target_tokens: the same for the predicted tokens; ``None`` = all tokens of target streams that are not visible.
        weight: how often the component is drawn, relative to the others.
        first: stream → first words of the units of its sequences that come before all others (fields of metadata,
            written in random order, of which the beginning is shown; not published).
    """

    name: str
    inputs: Mapping[str, float]
    targets: Mapping[str, float]
    keep: Mapping[str, Keep] = field(default_factory=dict)
    input_tokens: tuple[int, int] = (256, 256)
    target_tokens: tuple[int, int] | None = (256, 256)
    weight: float = 1.0
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for low, high in filter(None, (self.input_tokens, self.target_tokens)):
            if not 0 <= low <= high:
                raise DataError(f"mixture component {self.name!r}: {low}…{high} is no range of token numbers.")
        if self.weight < 0 or any(a < 0 for a in (*self.inputs.values(), *self.targets.values())):
            raise DataError(f"mixture component {self.name!r}: weights and alphas must not be negative.")


@dataclass(frozen=True)
class Draw:
    """A component and the numbers of tokens drawn from it."""

    component: Component
    input_tokens: int
    target_tokens: int | None


@dataclass(frozen=True)
class Mixture:
    """Components, one of which is drawn for each sample.

    Attributes:
        components: at least one.
        component_per_batch: draw component and token numbers once per batch instead of once per sample (not in the
            published training). Samples of a batch then have about equal lengths: less padding.
        redistribute: give tokens that a stream cannot use (it is shorter than its share, absent, or no target) to
            image-like streams of the component (not in the published training, where they are lost).
    """

    components: tuple[Component, ...]
    component_per_batch: bool = False
    redistribute: bool = False

    def __post_init__(self) -> None:
        if not sum(c.weight for c in self.components) > 0:
            raise DataError("A mixture needs at least one component with a positive weight.")

    @property
    def token_budget(self) -> int:
        """Most visible plus most predicted tokens of a sample: what the published schedules count (spec: training §2).

        Raises:
            DataError: a component predicts all that is not visible, so its number is not known beforehand.
        """
        targets = [c.target_tokens for c in self.components]
        if None in targets:
            raise DataError("A component of this mixture has no target budget; give the length of the run in steps.")
        return max(c.input_tokens[1] for c in self.components) + max(t[1] for t in targets if t)

    def draw(self, rng: np.random.Generator) -> Draw:
        """Draw a component by weight, and its numbers of tokens."""
        weights = np.array([c.weight for c in self.components])
        component = self.components[int(rng.choice(len(weights), p=weights / weights.sum()))]
        targets = component.target_tokens
        return Draw(component, _uniform(component.input_tokens, rng), targets and _uniform(targets, rng))

    def check(self, streams: Sequence[StreamSpec]) -> None:
        """Raise :class:`UnknownNameError` or :class:`DataError` if the mixture does not fit the streams.

        A positive target α on a stream that cannot be a target is allowed: the published mixtures have it.
        """
        specs = {s.name: s for s in streams}
        for component in self.components:
            for name in (*component.inputs, *component.targets, *component.keep, *component.first):
                if name not in specs:
                    raise UnknownNameError(f"stream in mixture component {component.name!r}", name, specs)
            for name, alpha in component.inputs.items():
                if alpha > 0 and not specs[name].is_input:
                    raise DataError(f"mixture component {component.name!r}: {name} is not an input of the model.")
            for name in component.keep:
                if specs[name].kind not in (StreamKind.SEQUENCE, StreamKind.EMBEDDING):
                    raise DataError(f"mixture component {component.name!r}: {name} has no spans to keep.")
            for name in component.first:
                if specs[name].kind is not StreamKind.SEQUENCE:
                    raise DataError(f"mixture component {component.name!r}: {name} has no words that could come first.")


def _uniform(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0], bounds[1], endpoint=True))
