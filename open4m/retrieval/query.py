"""Queries: any modalities, with weights, as one vector – and what each of them has to do with a hit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.retrieval.embedding import unit

Embed = Callable[[Mapping[str, Sequence[Any]]], np.ndarray]
"""Modality → B values, seen together → (B, D) unit vectors."""


@dataclass(frozen=True)
class Term:
    """A part of a query.

    Attributes:
        modality: what kind of data ``value`` is.
        value: as for :meth:`~open4m.generation.pipeline.AnyToAny.generate`.
        weight: relative to the other terms; below 0 for what the hits should not be like.
    """

    modality: str
    value: Any
    weight: float = 1.0

    @property
    def label(self) -> str:
        """``caption``, or ``not caption``."""
        return self.modality if self.weight >= 0 else f"not {self.modality}"


Query = Mapping[str, Any] | Sequence[Term]
"""Modality → value, all of weight 1; or terms."""


@dataclass(frozen=True)
class QueryVector:
    """A query in the space of the gallery.

    Attributes:
        vector: (D,) of length 1.
        shares: label of a term → (D,): ``vector`` minus the query without this term.
    """

    vector: np.ndarray
    shares: dict[str, np.ndarray]


def terms_of(query: Query) -> list[Term]:
    """The terms that count.

    Raises:
        GenerationError: there are none, a weight is not finite, or two terms say the same thing.
    """
    terms = [Term(name, value) for name, value in query.items()] if isinstance(query, Mapping) else list(query)
    if not np.isfinite([term.weight for term in terms]).all():
        raise GenerationError("A weight of the query is not a finite number.")
    terms = [term for term in terms if term.weight]
    labels = [term.label for term in terms]
    if not terms:
        raise GenerationError("The query is empty. Give at least one modality with a weight other than 0.")
    for label in labels:
        if labels.count(label) > 1:
            raise GenerationError(f"The query holds {label} twice. Join the two into one.")
    return terms


def compose(embed: Embed, terms: Sequence[Term]) -> QueryVector:
    """The query as a vector.

    Terms of equal weight are seen together by the model, as in the paper. Of different weights, the smallest is that
    of all terms together, what is left of the others that of these together, and so on:
    ``q = w₁ e(1, 2, 3) + (w₂ − w₁) e(2, 3) + (w₃ − w₂) e(3)``. So a weight that goes to 0 is a term left out, and only
    ratios matter. Negative terms are composed alike and subtracted.
    """
    seen: dict[tuple[str, ...], np.ndarray] = {}

    def together(group: Sequence[Term]) -> np.ndarray:
        key = tuple(term.label for term in group)
        if key not in seen:
            seen[key] = embed({term.modality: [term.value] for term in group})[0]
        return seen[key]

    def vector(chosen: Sequence[Term]) -> np.ndarray:
        signs = [(1.0, [t for t in chosen if t.weight > 0]), (-1.0, [t for t in chosen if t.weight < 0])]
        parts = [sign * share * together(group) for sign, side in signs for share, group in layers(side)]
        return unit(np.sum(parts, axis=0)) if parts else np.zeros(0, np.float32)

    whole = vector(terms)
    rest = {term.label: vector([t for t in terms if t is not term]) for term in terms}
    return QueryVector(whole, {label: whole - other if other.size else whole for label, other in rest.items()})


def layers(terms: Sequence[Term]) -> list[tuple[float, list[Term]]]:
    """(share, terms that have it in common), from all terms to the one of the largest weight; in the order given."""
    found: list[tuple[float, list[Term]]] = []
    below = 0.0
    for size in sorted({abs(term.weight) for term in terms}):
        found.append((size - below, [term for term in terms if abs(term.weight) >= size]))
        below = size
    return found
