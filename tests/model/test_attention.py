"""Attention: one result whatever the kernel, and nothing leaks through masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.batch import TokenTargets
from open4m.model.attention import KeyValues, Mask, Past, Segments, attend, key_mask, target_mask


def tensors(seed: int, queries: int, keys: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, n, 8, generator=generator, requires_grad=True) for n in (queries, keys, keys)]


def masks(seed: int, keys: int) -> list[torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(3, keys, generator=generator) < 0.6
    return [None, torch.ones(3, keys, dtype=torch.bool), valid, torch.zeros(3, keys, dtype=torch.bool)]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_both_kernels_agree_forward_and_backward(seed: int, queries: int, keys: int) -> None:
    for valid in masks(seed, keys):
        mask = None if valid is None else key_mask(valid)
        results = []
        for plain in (True, False):
            q, k, v = tensors(seed, queries, keys)
            out = attend(q, k, v, mask, plain)
            out.square().sum().backward()
            results.append([out, q.grad, k.grad, v.grad])
        for ours, fused in zip(*results, strict=True):
            torch.testing.assert_close(ours, fused, atol=3e-5, rtol=1e-5)


def test_where_the_cpu_chooses_the_plain_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        calls.append(args[0].dtype)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    q, k, v = tensors(0, 3, 4)
    attend(q, k, v)
    attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    with torch.no_grad():
        attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
        attend(q[:, :, :1].bfloat16(), k.bfloat16(), v.bfloat16())
    assert calls == [torch.float32, torch.bfloat16, torch.bfloat16]


@pytest.mark.parametrize("plain", [True, False])
def test_a_query_without_keys_gets_zero(plain: bool) -> None:
    q, k, v = tensors(1, 3, 4)
    valid = torch.tensor([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    out = attend(q, k, v, key_mask(valid), plain)
    assert torch.equal(out[1], torch.zeros(2, 3, 8))
    assert out[0].any()
    assert torch.equal(attend(q, k[:, :, :0], v[:, :, :0], None, plain), torch.zeros(3, 2, 3, 8))


def test_no_mask_where_nothing_is_padded() -> None:
    assert key_mask(torch.ones(2, 5, dtype=torch.bool)) is None
    assert key_mask(torch.ones(2, 0, dtype=torch.bool)) is None


def allowed(stream: list[int], order: list[int], valid: list[int]) -> list[list[int]] | None:
    zeros = torch.zeros(1, len(stream), dtype=torch.int64)
    targets = TokenTargets(
        torch.tensor([stream]), zeros, zeros, zeros, torch.tensor([order]), torch.tensor([valid]).bool()
    )
    mask = target_mask(targets)
    return None if mask is None else mask.allowed[0, 0].int().tolist()


def test_target_masks() -> None:
    assert allowed([1, 1, 1], [0, 0, 0], [1, 1, 1]) is None
    assert allowed([1, 1, 1], [0, 1, 2], [1, 1, 1]) == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert allowed([1, 1, 2], [0, 0, 0], [1, 1, 1]) == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert allowed([1, 1, 1, 1], [0, 0, 1, 2], [1, 1, 1, 1]) == [
        [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1],
    ]  # fmt: skip
    assert allowed([1, 1, 1], [0, 0, 0], [1, 1, 0]) == [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    assert allowed([1, 2, 1], [0, 0, 0], [1, 1, 1]) == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@settings(max_examples=15)
@given(st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_segments_attend_as_their_mask_says(seed: int, lengths: list[int]) -> None:
    q, k, v = tensors(seed, sum(lengths), sum(lengths))
    segments = Segments(tuple(lengths))
    wanted = attend(q, k, v, Mask(segments.allowed), plain=True)
    torch.testing.assert_close(attend(q, k, v, segments), wanted, atol=1e-6, rtol=1e-5)


def test_grids_in_a_row_are_segments_only_if_all_samples_have_the_same() -> None:
    def mask(streams: list[list[int]], valid: bool = True) -> Mask | Segments | None:
        stream = torch.tensor(streams)
        zero = torch.zeros_like(stream)
        return target_mask(TokenTargets(stream, zero, zero, zero, zero, torch.full_like(stream, valid).bool()))

    assert mask([[3, 3, 1], [3, 3, 1]]) == Segments((2, 1))
    assert isinstance(mask([[3, 3, 1], [3, 1, 1]]), Mask)
    assert isinstance(mask([[3, 3, 1], [3, 3, 1]], valid=False), Mask)


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 1000))
def test_the_past_holds_what_was_added_whatever_its_room(steps: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    given = [torch.randn(2, 3, 2, n, 4, generator=generator) for n in steps]
    past = Past.before(KeyValues(given[0][0], given[0][1]))
    for number, (keys, values) in enumerate(given, 1):
        seen = past.append(keys, values)
        whole = torch.cat(given[:number], dim=3)
        assert torch.equal(seen.keys, whole[0]) and torch.equal(seen.values, whole[1])
    rows = torch.tensor([2, 0])
    after = past.take(rows).append(given[0][0][rows], given[0][1][rows])
    assert torch.equal(after.keys, torch.cat([*given, given[0]], dim=3)[0][rows])
    assert past.length == sum(steps)  # a selection leaves the original as it was
