"""Masking against the reference's statistics and exact examples, and its invariants."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.data.collate import collate
from open4m.data.masking import (
    Content,
    crop_target,
    draw_budget,
    draw_budgets,
    draw_kept,
    mask_grid,
    mask_sample,
    mask_sequence,
    mask_states,
    put_first,
    span_mask,
    to_units,
    top_up,
)
from open4m.data.mixture import Component, Draw, Keep, Mixture
from open4m.errors import DataError, UnknownNameError
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import TextTokenizer
from recipes import mixtures
from tests.reference import golden, verified

LENGTHS = {"caption": 256, "det": 256, "metadata": 40, "human_poses": 275, "color_palette": 23, "sam_instance": 290}


@cache
def text_tokenizer() -> TextTokenizer:
    return TextTokenizer.train(["a red car parked near the old house with two dogs"] * 3, vocab_size=5000)


@pytest.fixture(scope="module")
def text() -> TextTokenizer:
    return text_tokenizer()


@cache
def reference() -> dict[str, Any]:
    return json.loads((golden("masking") / "masking.json").read_text())


def spec(name: str) -> StreamSpec:
    """A published stream, as far as masking looks at it."""
    base, _, size = name.partition("@")
    if name in LENGTHS:
        return StreamSpec(name, name, StreamKind.SEQUENCE, LENGTHS[name], vocab_size=30_000)
    if base == "t5_caption":
        return StreamSpec(name, name, StreamKind.EMBEDDING, 77, channels=4, is_target=False)
    count = 256 if base in ("tok_dinov2", "tok_imagebind") else (int(size or 64) // 16) ** 2
    if base == "rgb":
        return StreamSpec(name, base, StreamKind.PIXELS, count, channels=3, patch_size=16, is_target=False)
    return StreamSpec(name, base, StreamKind.TOKENS, count, vocab_size=1024)


def specs_of(mixture: Mixture) -> list[StreamSpec]:
    return [spec(name) for name in sorted({n for c in mixture.components for n in (*c.inputs, *c.targets)})]


def uniform_content(text: TextTokenizer, lengths: dict[str, int]) -> Callable[[StreamSpec], Content]:
    """Every sample alike, as in the reference statistics; only the lengths of the sequences matter."""

    def content(stream: StreamSpec) -> Content:
        if stream.kind is StreamKind.EMBEDDING:
            return np.ones((lengths["t5_caption"], 4), np.float32)
        if stream.kind is StreamKind.PIXELS:
            return np.zeros((3, 2, 2), np.float32)
        if stream.kind is StreamKind.TOKENS:
            return np.zeros(stream.max_tokens, np.int64)
        ids = list(range(900, 900 + lengths[stream.name]))
        chunks = [ids[i : i + 2] for i in range(0, len(ids), 2)] if stream.name == "metadata" else ids
        return to_units(chunks, text, stream.max_tokens)  # type: ignore[arg-type]

    return content


# -- statistics -----------------------------------------------------------------------------------------------------
CASES = ["mixture_mod21_256_256", *(f"mod21_component_{i}" for i in range(7)), "mixture_mod7_128_128"]


def mixture_of(case: str) -> Mixture:
    if case.startswith("mod21_component"):
        return Mixture((mixtures.mod21().components[int(case[-1])],))
    return mixtures.mod21() if "mod21" in case else mixtures.mod7()


@pytest.mark.parametrize("case", CASES)
def test_statistics_of_the_published_mixtures(case: str, text: TextTokenizer) -> None:
    expected, mixture = reference()[case], mixture_of(case)
    content = uniform_content(text, reference()["sequence_lengths_without_eos"])
    specs, rng, count = specs_of(mixture), np.random.default_rng(3), 1200
    names = [s.name for s in specs]
    assert set(names) == set(expected["input_tokens"])
    rows: dict[str, list[np.ndarray]] = {
        k: [] for k in ("input_tokens", "target_pairs", "input_budget", "target_budget")
    }
    for _ in range(count):
        draw = mixture.draw(rng)
        budget_in, budget_tgt = draw_budgets(draw, specs, rng)
        assert budget_tgt is not None
        sample = mask_sample(draw, specs, content, text, rng)
        rows["input_budget"].append(budget_in)
        rows["target_budget"].append(budget_tgt)
        rows["input_tokens"].append(np.bincount(sample.inputs[0], minlength=len(specs)))
        rows["target_pairs"].append(np.bincount(sample.targets[0], minlength=len(specs)))
    for kind, counts in rows.items():
        for i, name in enumerate(names):
            ours = np.array([c[i] for c in counts], float)
            theirs = expected[{"target_pairs": "target_tokens"}.get(kind, kind)][name]
            mean = theirs["mean"]
            if kind == "target_pairs" and specs[i].kind is StreamKind.SEQUENCE:
                mean -= theirs["fraction_nonzero"]  # k ids of a sequence are k - 1 pairs
            error = np.hypot(theirs["std"] / expected["draws"] ** 0.5, ours.std() / count**0.5)
            assert abs(ours.mean() - mean) <= 4 * error + 1e-9, (kind, name, ours.mean(), mean)
            if kind in ("input_budget", "target_budget"):
                share, p = (ours > 0).mean(), theirs["fraction_nonzero"]
                assert abs(share - p) <= 4 * (p * (1 - p) * (1 / count + 1 / expected["draws"])) ** 0.5 + 0.004, (
                    kind,
                    name,
                )


# -- exact examples ---------------------------------------------------------------------------------------------------
def test_examples_equal_the_reference() -> None:
    checks = verified("masking").checks
    assert {item: check.parts for item, check in checks.items()} == {"span masking": 10, "sequence masking": 7}


def test_teacher_forcing_pairs(text: TextTokenizer) -> None:
    streams = [spec("caption"), spec("tok_depth@224")]
    component = Component("caption", {}, {"caption": 1.0}, input_tokens=(0, 0), target_tokens=(64, 64))
    units = to_units([900, 901], text, 256)
    sample = mask_sample(Draw(component, 0, 64), streams, lambda _: units, text, np.random.default_rng(0))
    ids = [5, 900, 901, 3, 6]
    assert sample.inputs.shape == (3, 0)
    assert sample.targets.tolist() == [[0] * 4, [0, 1, 2, 3], ids[:-1], ids[1:], [0, 1, 2, 3]]


# -- invariants -------------------------------------------------------------------------------------------------------
seeds = st.integers(0, 2**32 - 1)
alphas = st.lists(st.sampled_from([0.0, 0.01, 0.5, 1.0, 1000.0]), min_size=1, max_size=8)


@settings(deadline=None)
@given(alphas, st.integers(0, 300), st.integers(0, 200), seeds)
def test_budget_is_spent_and_never_exceeded(alpha: list[float], total: int, limit: int, seed: int) -> None:
    limits = np.full(len(alpha), limit)
    budget = draw_budget(np.array(alpha), total, np.full(len(alpha), total), np.random.default_rng(seed))
    clamped = draw_budget(np.array(alpha), total, limits, np.random.default_rng(seed))
    assert budget.sum() == (total if any(alpha) else 0)
    assert (clamped == np.minimum(budget, limits)).all()
    assert not budget[np.array(alpha) == 0].any()
    full = top_up(clamped, limits - clamped, np.array(alpha), total - int(clamped.sum()), np.random.default_rng(seed))
    assert full.sum() == min(total, limit * np.count_nonzero(alpha))
    assert (full <= limits).all()


@given(st.integers(1, 64), st.data(), seeds)
def test_grid_positions_are_disjoint(size: int, data: st.DataObject, seed: int) -> None:
    inputs = data.draw(st.integers(0, size))
    targets = data.draw(st.none() | st.integers(0, size - inputs))
    visible, target = mask_grid(size, inputs, targets, np.random.default_rng(seed))
    assert len(visible) == inputs
    assert len(target) == (size - inputs if targets is None else targets)
    assert len(set(visible) | set(target)) == len(visible) + len(target)


units = st.lists(st.lists(st.integers(4300, 4400), min_size=1, max_size=3), max_size=30)


@settings(deadline=None)
@given(units, st.integers(1, 40), st.sampled_from(list(Keep)), seeds)
def test_spans_reassemble_to_the_original(sequence: list[list[int]], budget: int, keep: Keep, seed: int) -> None:
    text = text_tokenizer()
    sequence = to_units(sequence, text, 60)
    visible, target = mask_sequence(sequence, budget, None, keep, text, np.random.default_rng(seed))
    assert len(visible) <= budget
    assert text.merge_spans(visible, target) == [i for unit in sequence for i in unit]
    assert text.is_sentinel(target[-1]) and target[-1] not in visible
    if keep is Keep.ALL and budget >= 60:
        assert target == [text.sentinel(1)]


@settings(deadline=None)
@given(units, st.integers(0, 30), seeds)
def test_cropped_targets_start_at_a_sentinel(sequence: list[list[int]], budget: int, seed: int) -> None:
    text, rng = text_tokenizer(), np.random.default_rng(seed)
    sizes = np.array([len(u) for u in sequence], dtype=np.int64)
    _, target = span_mask(sequence, draw_kept(sizes, 40, Keep.RANDOM, rng), text)
    cropped = crop_target(target, budget, text, rng)
    assert len(cropped) <= budget
    if len(target) <= budget:
        assert cropped == target
    elif cropped:
        assert text.is_sentinel(cropped[0])
        start = target.index(cropped[0])
        assert cropped == target[start : start + budget]
        assert len(cropped) == budget or cropped[-1] == target[-1]


@given(st.integers(1, 77), st.integers(0, 77), st.sampled_from(list(Keep)), seeds)
def test_states_keep_their_order(length: int, budget: int, keep: Keep, seed: int) -> None:
    states = np.arange(1, length + 1, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    visible = mask_states(states, budget, keep, np.random.default_rng(seed))[:, 0]
    assert len(visible) <= budget
    kept = visible[visible > 0]
    assert (np.diff(kept) > 0).all()
    assert not ((visible[1:] == 0) & (visible[:-1] == 0)).any()  # one row of zeros per gap
    if budget:
        assert 2 * np.count_nonzero(visible == 0) <= 2 + 2 * len(kept)
        assert (visible == 0).any() == (len(kept) < length)


MIXTURES = [
    mixtures.mod21,
    mixtures.mod7,
    mixtures.mod7_caption_bias,
    mixtures.text_to_image,
    mixtures.super_resolution,
]


@pytest.mark.parametrize("make", MIXTURES)
@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_nothing_is_both_input_and_target(make: Callable[[], Mixture], seed: int) -> None:
    mixture, text, rng = make(), text_tokenizer(), np.random.default_rng(seed)
    streams = specs_of(mixture)
    mixture.check(streams)
    content = uniform_content(text, {**dict.fromkeys(LENGTHS, 38), "t5_caption": 20})
    draw = mixture.draw(rng)
    sample = mask_sample(draw, streams, content, text, rng)
    assert sample.inputs.shape[1] <= draw.input_tokens
    assert draw.target_tokens is not None and sample.targets.shape[1] <= draw.target_tokens
    grids = [i for i, s in enumerate(streams) if s.kind is StreamKind.TOKENS]
    inside = {(s, p) for s, p in sample.inputs[:2].T.tolist() if s in grids}
    assert not inside & {(s, p) for s, p in sample.targets[:2].T.tolist()}


def test_scenes_mixture_leaves_hardly_any_padding(text: TextTokenizer) -> None:
    mixture = mixtures.scenes(224)
    streams, rng = specs_of(mixture), np.random.default_rng(0)
    assert len(streams) == 19
    mixture.check(streams)
    lengths = reference()["sequence_lengths_without_eos"]
    for component in mixture.components:
        draw = Mixture((component,)).draw(rng)
        for _ in range(20):
            sample = mask_sample(draw, streams, uniform_content(text, lengths), text, rng, redistribute=True)
            assert sample.targets.shape[1] == draw.target_tokens
            if any(a > 0 for n, a in component.inputs.items() if "@" in n):
                least = 0.8 if len(component.inputs) == 2 else 0.9  # pairs are shown whole, with room for long texts
                assert least * draw.input_tokens <= sample.inputs.shape[1] <= draw.input_tokens


def test_all_unseen_tokens_can_be_targets(text: TextTokenizer) -> None:
    streams = [spec("tok_depth@224"), spec("caption")]
    component = Component("all", {"tok_depth@224": 1.0}, {}, input_tokens=(50, 50), target_tokens=None)
    content = uniform_content(text, {"caption": 20})
    sample = mask_sample(Draw(component, 50, None), streams, content, text, np.random.default_rng(0))
    assert np.bincount(sample.inputs[0]).tolist() == [50]
    assert np.bincount(sample.targets[0]).tolist() == [146, 22]


def test_absent_modalities_leave_no_trace(text: TextTokenizer) -> None:
    streams = specs_of(mixtures.mod21())
    content = uniform_content(text, reference()["sequence_lengths_without_eos"])
    rng = np.random.default_rng(0)
    for _ in range(20):
        draw = mixtures.mod21().draw(rng)
        sample = mask_sample(draw, streams, lambda s: content(s) if s.modality == "tok_depth" else None, text, rng)
        used = {streams[i].name for i in (*sample.inputs[0], *sample.targets[0])}
        assert used <= {"tok_depth@224"} and not sample.dense


def test_collate_pads_to_the_longest(text: TextTokenizer) -> None:
    streams, rng = specs_of(mixtures.mod21()), np.random.default_rng(1)
    content = uniform_content(text, reference()["sequence_lengths_without_eos"])
    samples = [mask_sample(mixtures.mod21().draw(rng), streams, content, text, rng) for _ in range(6)]
    batch = collate(samples, streams)
    assert batch.streams == tuple(s.name for s in streams)
    assert batch.inputs.valid.sum(1).tolist() == [s.inputs.shape[1] for s in samples]
    assert batch.targets.valid.sum(1).tolist() == [s.targets.shape[1] for s in samples]
    assert batch.targets.label.shape[1] == max(s.targets.shape[1] for s in samples)
    for i, sample in enumerate(samples):
        n = sample.targets.shape[1]
        got = [getattr(batch.targets, f)[i, :n].numpy() for f in ("stream", "position", "token", "label", "order")]
        assert (np.stack(got) == sample.targets).all()
        assert not batch.targets.label[i, n:].any()
    rows = batch.inputs.dense["t5_caption"]
    assert rows.shape[1] == max(len(s.dense.get("t5_caption", ())) for s in samples)


def test_mixtures_are_checked() -> None:
    with pytest.raises(DataError, match="no range"):
        Component("x", {}, {}, input_tokens=(5, 2))
    with pytest.raises(DataError, match="negative"):
        Component("x", {"rgb": -1.0}, {})
    with pytest.raises(DataError, match="positive weight"):
        Mixture((Component("x", {}, {}, weight=0.0),))
    with pytest.raises(UnknownNameError, match="tok_depth@224"):
        Mixture((Component("x", {"tok_deph@224": 1.0}, {}),)).check([spec("tok_depth@224")])
    with pytest.raises(DataError, match="no spans"):
        Mixture((Component("x", {}, {}, {"tok_depth@224": Keep.ALL}),)).check([spec("tok_depth@224")])
    with pytest.raises(DataError, match="no words"):
        Mixture((Component("x", {}, {}, first={"tok_depth@224": ("v1=1",)}),)).check([spec("tok_depth@224")])


@given(st.permutations(range(21)), st.sets(st.integers(0, 20), min_size=1))
def test_chosen_units_come_first(order: list[int], chosen: set[int]) -> None:
    text = text_tokenizer()
    fields = {number: text.encode(f"v1={number} v0=7") for number in order}
    found = put_first([*fields.values()], [f"v1={number}" for number in chosen], text)
    expected = [*(n for n in order if n in chosen), *(n for n in order if n not in chosen)]
    assert found == [fields[number] for number in expected]


def test_a_component_shows_the_fields_that_it_puts_first(text: TextTokenizer) -> None:
    streams, rng = [spec("tok_rgb@224"), spec("metadata")], np.random.default_rng(0)
    keep, first = {"metadata": Keep.PREFIX}, {"metadata": ("v1=10", "v1=12")}
    component = Component("x", {"metadata": 1.0}, {"tok_rgb@224": 1.0}, keep, (5, 5), (9, 9), first=first)
    Mixture((component,)).check(streams)
    ids = np.arange(196)
    shown = set()
    for _ in range(30):
        fields = [text.encode(f"v1={number} v0=7") for number in rng.permutation(21)]
        content = {"metadata": fields, "tok_rgb@224": ids}
        sample = mask_sample(Draw(component, 5, 9), streams, lambda s, c=content: c[s.name], text, rng)
        shown |= {sample.inputs[2, 0], *sample.inputs[2, 2:3]}
        assert sample.inputs.shape[1] in (3, 5) and text.is_sentinel(sample.inputs[2, -1])
    words = {text.encode(word)[0] for word in ("v1=10", "v1=12")}
    assert words == {number for number in shown if not text.is_sentinel(int(number))}


def test_kept_share_follows_the_keep_mode() -> None:
    """Kolmogorov–Smirnov distance to the uniform distribution; the reference draws uniformly (spec: masking §3)."""
    rng, sizes, count = np.random.default_rng(0), np.ones(400, np.int64), 2000
    shares = {k: np.sort([draw_kept(sizes, 1000, k, rng).mean() for _ in range(count)]) for k in Keep}
    ranks = np.arange(1, count + 1) / count
    assert np.abs(shares[Keep.RANDOM] - ranks).max() < 1.95 / count**0.5
    assert (shares[Keep.ALL] == 1).all()
    assert set(shares[Keep.BINARY]) == {0.0, 1.0}
    assert abs(shares[Keep.BINARY].mean() - 0.5) < 4 * 0.5 / count**0.5
    lengths, beginnings = np.unique(shares[Keep.PREFIX] * 400, return_counts=True)
    assert lengths.min() >= 1 and abs(lengths.mean() - 200.5) < 5 and beginnings.max() < 20
    kept = draw_kept(np.full(400, 2), 101, Keep.PREFIX, rng)
    assert 1 <= kept.sum() <= 50 and kept[: kept.sum()].all()
    assert not draw_kept(sizes, 1, Keep.PREFIX, rng).any()
