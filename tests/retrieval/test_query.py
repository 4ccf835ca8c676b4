"""Weights, negative terms, and what a term has to do with a hit."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.errors import GenerationError
from open4m.retrieval.embedding import unit
from open4m.retrieval.query import Term, compose, layers, terms_of


def embed(inputs: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """A vector of its own for every set of modalities."""
    seed = zlib.crc32(" ".join(sorted(inputs)).encode())
    return unit(np.random.default_rng(seed).normal(size=(1, 12)))


def alone(*names: str) -> np.ndarray:
    return embed({name: [0] for name in names})[0]


def query(**weights: float) -> np.ndarray:
    return compose(embed, [Term(name, 0, weight) for name, weight in weights.items()]).vector


def test_equal_weights_are_seen_together() -> None:
    assert np.allclose(query(a=1, b=1, c=1), alone("a", "b", "c"))
    assert np.allclose(query(a=3, b=3), alone("a", "b"))


def test_what_a_term_has_more_counts_alone() -> None:
    assert np.allclose(query(a=1, b=3), unit(alone("a", "b") + 2 * alone("b")), atol=1e-6)
    expected = unit(0.5 * alone("a", "b", "c") + 0.5 * alone("b", "c") + alone("c"))
    assert np.allclose(query(a=0.5, b=1, c=2), expected, atol=1e-6)


def test_negative_terms_are_subtracted() -> None:
    assert np.allclose(query(a=1, b=-0.5), unit(alone("a") - 0.5 * alone("b")), atol=1e-6)
    assert np.allclose(query(b=-2), -alone("b"), atol=1e-6)


WEIGHTS = st.lists(st.integers(1, 9).map(lambda n: n / 4), min_size=1, max_size=4)


@given(WEIGHTS, st.sampled_from([0.5, 2.0, 8.0]))
def test_only_ratios_matter_and_layers_sum_to_the_weights(weights: list[float], scale: float) -> None:
    terms = [Term(f"m{i}", 0, weight) for i, weight in enumerate(weights)]
    total = {term.label: sum(share for share, group in layers(terms) if term in group) for term in terms}
    assert total == pytest.approx({term.label: term.weight for term in terms})
    scaled = [Term(term.modality, 0, scale * term.weight) for term in terms]
    assert np.allclose(compose(embed, terms).vector, compose(embed, scaled).vector, atol=1e-6)


def test_a_weight_near_zero_is_a_term_left_out() -> None:
    assert np.allclose(query(a=1, b=1e-6), alone("a"), atol=1e-5)
    assert [t.modality for t in terms_of([Term("a", 0), Term("b", 0, 0.0)])] == ["a"]


def test_shares_say_what_the_query_would_lose() -> None:
    made = compose(embed, [Term("a", 0), Term("b", 0), Term("c", 0, -1)])
    assert set(made.shares) == {"a", "b", "not c"}
    assert np.allclose(made.vector - made.shares["a"], unit(alone("b") - alone("c")), atol=1e-6)
    assert np.allclose(made.vector - made.shares["not c"], alone("a", "b"), atol=1e-6)
    only = compose(embed, [Term("a", 0)])
    assert np.array_equal(only.shares["a"], only.vector)


def test_each_set_is_embedded_once() -> None:
    asked: list[tuple[str, ...]] = []

    def counting(inputs: Mapping[str, Sequence[Any]]) -> np.ndarray:
        asked.append(tuple(inputs))
        return embed(inputs)

    compose(counting, [Term("a", 0), Term("b", 0)])
    assert sorted(asked) == [("a",), ("a", "b"), ("b",)]


def test_the_same_modality_may_be_wanted_and_unwanted() -> None:
    terms = terms_of([Term("caption", "a dog"), Term("caption", "snow", -1)])
    assert [term.label for term in terms] == ["caption", "not caption"]


def test_a_query_of_which_nothing_is_left_is_refused() -> None:
    def same(inputs: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """What is the same but for rounding."""
        return unit(np.ones((1, 12)) + 1e-7 * len(inputs) * np.arange(12))

    with pytest.raises(GenerationError, match=r"query caption, not caption: .*parts cancel.*differ from"):
        compose(embed, [Term("caption", 0), Term("caption", 0, -1)])
    with pytest.raises(GenerationError, match="parts cancel"):
        compose(same, [Term("a", 0), Term("b", 0), Term("c", 0, -1)])
    made = compose(embed, [Term("caption", 0), Term("caption", 0, -1), Term("a", 0)])
    assert np.allclose(made.shares["a"], made.vector)  # which is all that is left


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "query is empty"),
        ([Term("a", 0, 0.0)], "query is empty"),
        ([Term("a", 0), Term("a", 1, 2.0)], "holds a twice"),
        ({"caption": ""}, "part caption is empty.*Say what is looked for, or leave this part out"),
        ([Term("rgb", 0), Term("caption", " \n", -1)], "part not caption is empty"),
        ({"det": []}, "part det is empty"),
        ({"metadata": {}}, "part metadata is empty"),
        ([Term("a", 0, math.nan)], "not a finite number"),
        ([Term("a", 0, -math.inf)], "not a finite number"),
    ],
)
def test_bad_queries_are_refused(bad: Any, message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        terms_of(bad)
