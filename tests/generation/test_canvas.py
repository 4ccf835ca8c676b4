"""The canvas: what the encoder sees at every moment, and how spans are put together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import CODES, GRID, SIZE, WIDTH, streams

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.canvas import Canvas, span_bounds, stack
from open4m.streams import StreamKind

DEPTH, RGB = f"tok_depth@{SIZE}", f"rgb@{SIZE}"
LENGTH = GRID[0] * GRID[1]
NAMES = [s.name for s in streams()]


def blank(batch: int = 2) -> Canvas:
    return Canvas(streams(), batch)


def rows(canvas: Canvas) -> list[list[tuple[str, int, int]]]:
    """(stream, position, id) of everything visible, per sample."""
    inputs = canvas.inputs()
    return [
        [(NAMES[s], p, t) for s, p, t, v in zip(*(x[i].tolist() for x in columns), strict=True) if v]
        for columns in [(inputs.stream, inputs.position, inputs.token, inputs.valid)]
        for i in range(canvas.batch)
    ]


def test_empty_canvas_is_an_input() -> None:
    inputs = blank().inputs()
    assert inputs.stream.shape == (2, 0) and not inputs.dense


def test_grid_positions_are_places_and_sequence_positions_count() -> None:
    known = torch.zeros(2, LENGTH, dtype=torch.bool)
    known[0, 3] = known[0, 7] = known[1, 15] = True
    ids = torch.arange(LENGTH).repeat(2, 1)
    canvas = blank().with_sequences("caption", [[50, 5], [60, 61, 3]]).with_tokens(DEPTH, ids, known)
    assert rows(canvas) == [
        [(DEPTH, 3, 3), (DEPTH, 7, 7), ("caption", 0, 50), ("caption", 1, 5)],
        [(DEPTH, 15, 15), ("caption", 0, 60), ("caption", 1, 61), ("caption", 2, 3)],
    ]


def test_ids_of_unknown_positions_do_not_matter() -> None:
    known = torch.arange(LENGTH).repeat(2, 1) < 3
    given_ids = torch.where(known, 7, -1)
    assert rows(blank().with_tokens(DEPTH, given_ids, known))[0] == [(DEPTH, 0, 7), (DEPTH, 1, 7), (DEPTH, 2, 7)]


def test_fixing_makes_known_and_leaves_the_old_canvas_alone() -> None:
    before = blank().fix(DEPTH, torch.tensor([[2], [5]]), torch.tensor([[9], [8]]))
    after = before.fix(DEPTH, torch.tensor([[1, 3], [0, 1]]), torch.tensor([[7, 6], [5, 4]]))
    assert before.open_positions(DEPTH).shape == (2, LENGTH - 1)
    assert rows(after)[0] == [(DEPTH, 1, 7), (DEPTH, 2, 9), (DEPTH, 3, 6)]
    assert rows(after)[1] == [(DEPTH, 0, 5), (DEPTH, 1, 4), (DEPTH, 5, 8)]


def test_unconditional_view_follows_the_published_rules() -> None:
    canvas = (
        blank()
        .with_pixels(RGB, torch.zeros(2, 3, SIZE, SIZE))
        .with_sequences("caption", [[50, 51], [52]])
        .with_vectors("t5_caption", [torch.ones(3, WIDTH), torch.ones(2, WIDTH)])
        .fix(DEPTH, torch.tensor([[0], [0]]), torch.tensor([[1], [1]]))
    )
    hidden = canvas.unconditional([RGB, "caption", "t5_caption", "metadata"])
    assert rows(hidden) == [[(DEPTH, 0, 1), ("caption", 0, 5), ("t5_caption", 0, 0)]] * 2
    assert not hidden.inputs().dense["t5_caption"].any()
    assert rows(canvas.unconditional(["caption"]))[0][0] == (RGB, 0, 0)


def test_stack_is_rows_below_each_other() -> None:
    first = blank(1).with_pixels(RGB, torch.ones(1, 3, SIZE, SIZE)).with_vectors("t5_caption", [torch.ones(2, WIDTH)])
    second = blank(2).with_sequences("caption", [[9], [8, 7]]).with_vectors("t5_caption", [torch.ones(4, WIDTH)] * 2)
    both = stack([first, second, blank(1)])
    assert rows(both) == [*rows(first), *rows(second), []]
    dense = both.inputs().dense
    assert dense[RGB].shape[0] == dense["t5_caption"].shape[0] == 4
    assert dense["t5_caption"][0, :2].all() and not dense["t5_caption"][3].any()


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_inputs_hold_exactly_what_is_known(data: st.DataObject) -> None:
    canvas, expected = blank(2), [set(), set()]
    for name in data.draw(st.lists(st.sampled_from([DEPTH, f"tok_rgb@{SIZE}", "caption", "det"]), unique=True)):
        if canvas.spec(name).kind is StreamKind.SEQUENCE:
            texts = data.draw(st.lists(st.lists(st.integers(1, 99), max_size=6), min_size=2, max_size=2))
            canvas = canvas.with_sequences(name, texts)
            found = [{(name, i, t) for i, t in enumerate(text)} for text in texts]
        else:
            ids = torch.tensor(data.draw(st.lists(st.integers(0, CODES - 1), min_size=32, max_size=32))).view(2, -1)
            known = torch.tensor(data.draw(st.lists(st.booleans(), min_size=32, max_size=32))).view(2, -1)
            canvas = canvas.with_tokens(name, ids, known)
            found = [{(name, p, int(ids[b, p])) for p in range(16) if known[b, p]} for b in range(2)]
        expected = [e | f for e, f in zip(expected, found, strict=True)]
    assert [set(row) for row in rows(canvas)] == expected
    assert canvas.inputs().stream.shape[1] == max(len(e) for e in expected)
    swapped = canvas.take([1, 0, 1])
    assert [set(row) for row in rows(swapped)] == [expected[1], expected[0], expected[1]]


def test_spans_run_from_the_first_sentinel_to_the_one_after_the_last() -> None:
    assert span_bounds([5], "caption") == (5, 6)
    assert span_bounds([900, 5, 901, 6, 902], "caption") == (5, 7)
    with pytest.raises(GenerationError, match="caption: is given completely"):
        span_bounds([900, 901, 3], "caption")


def test_a_given_prompt_is_not_opened_again() -> None:
    prompted = blank(1).with_sequences("caption", [[70, 5]])
    assert prompted.opened("caption") is prompted
    assert prompted.opened("det").sequence("det", 0) == [5]


def test_wrong_content_is_refused() -> None:
    ids = torch.zeros(2, LENGTH, dtype=torch.int64)
    with pytest.raises(GenerationError, match="another tokenizer"):
        blank().with_tokens(DEPTH, ids + CODES)
    for wrong in (-1, 10_000):
        with pytest.raises(GenerationError, match="another text tokenizer"):
            blank(1).with_sequences("caption", [[wrong, 5]])
    with pytest.raises(GenerationError, match="expected"):
        blank().with_tokens(DEPTH, ids[:, 1:])
    with pytest.raises(GenerationError, match="for 1 samples"):
        blank().with_sequences("caption", [[5]])
    with pytest.raises(GenerationError, match="holds sequence"):
        blank().with_tokens("caption", ids)
    with pytest.raises(UnknownNameError, match="tok_depth@32"):
        blank().with_tokens("tok_dept@32", ids)
    known = torch.zeros_like(ids, dtype=torch.bool)
    known[0, 0] = True
    with pytest.raises(GenerationError, match="one by one"):
        blank().with_tokens(DEPTH, ids, known).open_positions(DEPTH)
