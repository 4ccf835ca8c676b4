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


_CANCELLED = 1e-6
"""A sum of unit vectors shorter than this share of its weights is rounding, and points nowhere."""

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
        GenerationError: there are none, a weight is not finite, a term says nothing (an empty text, list or mapping),
            or two terms say the same thing.
    """
    terms = [Term(name, value) for name, value in query.items()] if isinstance(query, Mapping) else list(query)
    if not np.isfinite([term.weight for term in terms]).all():
        raise GenerationError("A weight of the query is not a finite number.")
    terms = [term for term in terms if term.weight]
    labels = [term.label for term in terms]
    if not terms:
        raise GenerationError("The query is empty. Give at least one modality with a weight other than 0.")
    for term in terms:
        require_said(term, term.value)
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

    Raises:
        GenerationError: nothing is left of the query, as what is wanted is just what is unwanted.
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
        total = np.sum(parts, axis=0) if parts else np.zeros(0, np.float32)
        smallest = _CANCELLED * sum(abs(term.weight) for term in chosen)
        return unit(total) if np.linalg.norm(total) > smallest else np.zeros_like(total)

    whole = vector(terms)
    if not whole.any():
        raise GenerationError(
            f"Nothing is left of the query {', '.join(term.label for term in terms)}: its wanted and unwanted parts "
            "cancel, or a given feature is 0. Make what is wanted differ from what is unwanted, in value or in weight."
        )
    rest = {term.label: vector([t for t in terms if t is not term]) for term in terms}
    return QueryVector(whole, {label: whole - other if other.size else whole for label, other in rest.items()})


def require_said(term: Term, value: Any) -> None:
    """Raise :class:`GenerationError` if ``value``, of this term, is an empty (or blank) text, list or mapping."""
    if not value.strip() if isinstance(value, str) else isinstance(value, Sequence | Mapping) and not value:
        raise GenerationError(
            f"The query's part {term.label} is empty, and nothing is more like it than anything else. Say what is "
            "looked for, or leave this part out; what is not looked for goes into a part of negative weight."
        )


def layers(terms: Sequence[Term]) -> list[tuple[float, list[Term]]]:
    """(share, terms that have it in common), from all terms to the one of the largest weight; in the order given."""
    found: list[tuple[float, list[Term]]] = []
    below = 0.0
    for size in sorted({abs(term.weight) for term in terms}):
        found.append((size - below, [term for term in terms if abs(term.weight) >= size]))
        below = size
    return found
