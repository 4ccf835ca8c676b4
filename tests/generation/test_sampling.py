"""Schedules and sampling: their own laws (test_reference.py compares them with the reference)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.errors import GenerationError
from open4m.generation.sampling import Sampler, filter_logits, uniforms
from open4m.generation.schedules import (
    TOKEN_SCHEDULES,
    check_temperature_schedule,
    temperature_schedule,
    token_schedule,
)


@given(st.sampled_from(TOKEN_SCHEDULES), st.integers(1, 300), st.integers(1, 800))
def test_a_schedule_decides_every_token_once(name: str, steps: int, tokens: int) -> None:
    parts = token_schedule(name, steps, tokens)
    assert sum(parts) == tokens and min(parts) >= 0 and len(parts) <= steps


@given(st.sampled_from(TOKEN_SCHEDULES), st.integers(1, 60), st.integers(1, 200), st.floats(0, 1), st.floats(0, 5))
def test_onex_ends_at_its_minimum_and_never_leaves_its_range(
    kind: str, steps: int, tokens: int, lowest: float, extra: float
) -> None:
    start, parts = lowest + extra, token_schedule(kind, steps, tokens)
    values = temperature_schedule(f"onex:{lowest}:0.5", start, parts)
    assert values[-1] == lowest and len(values) == len(parts)
    assert all(lowest - 1e-9 <= t <= start + 1e-9 for t in values)


@pytest.mark.parametrize("name", ["warm", "onex", "onex:1", "onex:a:b", "onex:1:-1"])
def test_unknown_temperature_schedules_are_named(name: str) -> None:
    with pytest.raises(GenerationError, match="Known: constant, linear, onex"):
        check_temperature_schedule(name)


def test_the_monotone_schedule_is_that_of_maskgit() -> None:
    parts = token_schedule("monotone_cosine", 8, 196)
    assert parts == [4, 11, 19, 24, 30, 33, 37, 38]
    assert [sum(parts[i:]) for i in range(8)] == [int(196 * math.cos(math.pi * i / 16)) for i in range(8)]


def test_unknown_token_schedule() -> None:
    with pytest.raises(GenerationError, match="Known: linear, cosine"):
        token_schedule("square", 3, 4)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    draws, _ = Sampler(temperature=0.5)(logits.expand(20_000, 4), uniforms([3], "x", 0, 20_000)[0])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    expected = (logits / 0.5).softmax(-1)
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / len(draws)).sqrt() + 1e-4).all()


@settings(deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 5), st.floats(0, 0.99))
def test_only_allowed_ids_are_drawn(uniform: float, k: int, p: float) -> None:
    logits = torch.linspace(-3, 3, 30)[torch.randperm(30, generator=torch.Generator().manual_seed(1))]
    token, probability = Sampler(2.0, k, p)(logits[None], torch.tensor([uniform]))
    assert filter_logits(logits, k, p)[token].isfinite() and probability > 0


def test_greedy_takes_the_best_and_ranks_confidences() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [0.0, 0.1, 9.0]])
    ids, confidence = Sampler(temperature=0.0)(logits, torch.zeros(2))
    assert ids.tolist() == [1, 2] and confidence[1] > confidence[0]


def test_draws_depend_on_seed_target_and_step_only() -> None:
    both = uniforms([7, 8], "depth", 2, 5)
    assert torch.equal(both[1:], uniforms([8], "depth", 2, 5))
    assert torch.equal(both[:, :3], uniforms([7, 8], "depth", 2, 3))
    for other in (uniforms([7, 8], "depth", 3, 5), uniforms([7, 8], "normal", 2, 5), uniforms([9, 10], "depth", 2, 5)):
        assert not torch.equal(both, other)
