"""Every fast path decides what the plain algorithm decides (benchmarks.plain): same tokens, or same distribution."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
from scipy.stats import chi2, ncx2
from tiny_bundle import SIZE, bundle, picture, text_tokenizer
from torch import Tensor

from benchmarks import plain
from benchmarks.tasks import as_chain
from open4m.generation.canvas import Canvas
from open4m.generation.decoding import SequenceJob, write_sequences
from open4m.generation.defaults import make_plan
from open4m.generation.engine import run
from open4m.generation.passes import Passes, Views, predict
from open4m.generation.plan import Plan
from open4m.generation.sampling import Sampler, filter_logits
from open4m.generation.schedules import TOKEN_SCHEDULES
from open4m.modalities.rgb import Rgb
from open4m.model import FourM

RGB, DEPTH, CLIP = f"rgb@{SIZE}", f"tok_depth@{SIZE}", f"tok_clip@{SIZE}"
GRIDS = ("depth", "normal", "clip", "dinov2_global")
WORDS = ("caption", "det", "color_palette", "metadata", "human_poses", "sam_instance")
CAPTIONS = [[4300, 4301, 3], [4302, 3], [4303, 4304, 4305, 3]]


def canvas(batch: int = 3) -> Canvas:
    """Pictures, and captions of different lengths."""
    pixels = [torch.from_numpy(Rgb().pixels_for_model(picture(i, SIZE, SIZE))) for i in range(batch)]
    empty = Canvas(bundle().model.config.streams, batch)
    return empty.with_pixels(RGB, torch.stack(pixels))


def plan(targets: Sequence[str], state: Canvas, chained: bool = False, **settings: Any) -> Plan:
    """The default plan with equal settings for all targets."""
    made = make_plan(bundle(), list(targets), list(state.tracks))
    for target in made.targets:
        unused = ("steps", "scheme", "token_schedule") if target.is_sequence else ("tokens", "grammar")
        changes = {key: value for key, value in settings.items() if key not in unused}
        made = made.edit(target.modality, decode="tokens", **changes)
    return as_chain(made) if chained else made.independent()


def assert_equal(made: Plan, state: Canvas, model: FourM | None = None) -> Canvas:
    """Both algorithms with the same seeds: the same canvas."""
    seeds = [11 + i for i in range(state.batch)]
    model = model or bundle().model
    wanted = plain.generate(made, state, model, seeds, text_tokenizer())
    found = run(made, state, Passes(model), seeds, text_tokenizer()).canvas
    for target in made.targets:
        ours, theirs = found.tracks[target.stream], wanted.tracks[target.stream]
        assert torch.equal(ours.known, theirs.known), target.stream
        assert torch.equal(ours.ids, theirs.ids), target.stream
    return found


def test_targets_that_see_some_of_the_others() -> None:
    """Companies are made of targets that see the same, wherever in the plan they stand."""
    state = canvas(2)
    depth, canny = f"tok_depth@{SIZE}", f"tok_canny_edge@{SIZE}"
    sees = {"normal": [depth], "semseg": [], "canny_edge": [depth], "caption": [depth, canny], "det": []}
    sees["color_palette"] = ["caption"]
    made = plan(["depth", *sees], state, steps=1, tokens=6, temperature=1.0, guidance=1.5)
    for name, seen in sees.items():
        made = made.edit(name, sees=seen)
    mixed = assert_equal(made, state)
    alone = assert_equal(made.independent(), state)
    assert not torch.equal(mixed.tracks[canny].ids, alone.tracks[canny].ids)
    assert torch.equal(mixed.tracks["det"].ids, alone.tracks["det"].ids)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_independent_one_step_targets(temperature: float) -> None:
    assert_equal(plan(GRIDS, canvas(), temperature=temperature, guidance=2.0, top_p=0.8), canvas())


@pytest.mark.parametrize("steps", [5, 30])
@pytest.mark.parametrize("schedule", TOKEN_SCHEDULES)
def test_token_schedules_with_empty_steps(schedule: str, steps: int) -> None:
    """With 30 steps for 16 tokens some are empty: neither side takes them, nor counts them in its random numbers."""
    settings = {"token_schedule": schedule, "temperature_schedule": "linear", "gumbel": 4.0, "temperature": 2.0}
    made = plan(["depth"], canvas(2), scheme="maskgit", steps=steps, guidance=1.0, **settings)
    taken = made["depth"].grid_steps(16)
    assert len(taken) == min(steps, 16) and all(step.count for step in taken)
    assert_equal(made, canvas(2))


@pytest.mark.parametrize(("scheme", "gumbel"), [("maskgit", 0.0), ("maskgit", 4.0), ("roar", 0.0)])
@pytest.mark.parametrize("several", [False, True])
def test_grids_in_steps_with_guidance(scheme: str, gumbel: float, several: bool) -> None:
    state = canvas().with_sequences("caption", CAPTIONS)
    guidance = {RGB: 2.0, "caption": -0.5} if several else 2.0
    made = plan(["depth"], state, scheme=scheme, steps=5, temperature=0.7, guidance=guidance, gumbel=gumbel)
    assert_equal(made, state)


def test_a_picture_from_nothing_but_words_and_from_nothing() -> None:
    words = Canvas(bundle().model.config.streams, 3).with_sequences("caption", CAPTIONS)
    assert_equal(plan(["rgb"], words, chained=True, steps=3, temperature=1.0), words)
    nothing = Canvas(bundle().model.config.streams, 2)
    assert_equal(plan(["depth"], nothing, steps=1, temperature=1.0), nothing)


@pytest.mark.parametrize("grammar", [False, True])
def test_sequences_written_together(grammar: bool) -> None:
    made = plan(WORDS, canvas(), tokens=14, temperature=0.8, grammar=grammar, top_k=0.01)
    assert_equal(made, canvas())


def test_guided_sequences() -> None:
    state = canvas().with_sequences("caption", CAPTIONS)
    assert_equal(plan(["det", "metadata"], state, tokens=10, temperature=0.5, guidance=2.0), state)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chains(temperature: float) -> None:
    targets = ["depth", "clip", "caption", "det", "metadata"]
    settings = {"temperature": temperature, "steps": 2, "guidance": 2.0, "tokens": 8}
    assert_equal(plan(targets, canvas(2), chained=True, **settings), canvas(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """Runs, and its first decisions stay close to those in float32."""
    model = deepcopy(bundle().model).to(dtype)
    whole = Views.of(canvas(), 2.0, (RGB,))
    requests = {DEPTH: torch.arange(16).repeat(3, 1)}
    ((_, half),) = predict(Passes(model), whole, requests)
    ((_, full),) = predict(Passes(bundle().model), whole, requests)
    assert half.dtype == torch.float32
    assert (half - full).square().mean() < 1e-3 * full.var()
    made = plan([*GRIDS, *WORDS], canvas(), tokens=5)
    outcome = run(made, canvas(), Passes(model), [1, 2, 3], text_tokenizer())
    assert set(outcome.canvas.tracks) == {RGB, *(target.stream for target in made.targets)}


# -- no pass too many -------------------------------------------------------------------------------------------------
def counted(made: Plan, state: Canvas, passes: Passes) -> list[tuple[int, int]]:
    """(samples, positions of the longest of them) of every encoder pass."""
    model, seen = passes.model, []
    encode = model.encode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "encode", lambda inputs: seen.append(tuple(inputs.token.shape)) or encode(inputs))
        run(made, state, passes, range(state.batch), text_tokenizer())
    return seen


def test_independent_targets_share_one_encoder_pass() -> None:
    passes, one_step = Passes(bundle().model), plan(GRIDS, canvas(2), guidance=2.0)
    assert counted(one_step, canvas(2), passes) == [(2, 16), (1, 0)]  # and what is said with nothing visible
    assert counted(one_step, canvas(2), passes) == [(2, 16)]  # which is known from now on
    mixed = one_step.edit("clip", guidance=3.0).edit("normal", guidance=1.0).edit("depth", steps=2)
    first, *rest = counted(mixed, canvas(2), passes)
    assert first == (2, 16)
    assert rest == [(2, 0), (4, 24)]  # depth: its first half without rgb, then both views of the second


def test_chains_encode_again_only_what_changed() -> None:
    state = canvas(2).with_sequences("caption", [[4300, 3], [4301, 3]])
    made = plan(["depth", "clip", "det"], state, chained=True, guidance=2.0, steps=1, tokens=4)
    made = made.edit("clip", conditions=(RGB,)).edit("depth", conditions=(RGB, CLIP)).edit("det", guidance=1.0)
    # clip: the caption alone, and with rgb; depth: the caption alone again, and with rgb and clip; det: everything
    assert counted(made, state, Passes(bundle().model)) == [(4, 18), (2, 34), (2, 51)]


def test_what_is_remembered_is_forgotten_when_a_weight_changes() -> None:
    model = deepcopy(bundle().model)
    passes, made = Passes(model), plan(["depth"], canvas(2), guidance=2.0)
    before = run(made, canvas(2), passes, [0, 1]).canvas.tracks[DEPTH].ids
    with torch.no_grad():
        model.decoder_norm.weight.mul_(torch.linspace(-1, 1, 32))
    assert counted(made, canvas(2), passes) == [(2, 16), (1, 0)]
    after = assert_equal(made, canvas(2), model).tracks[DEPTH].ids
    assert not torch.equal(before, after)


# -- distributions ----------------------------------------------------------------------------------------------------
def chi_square(counts: Tensor, expected: Tensor) -> float:
    """p-value of counts (…, K) under probabilities (…, K); rare outcomes are pooled.

    The test can see what it must see: were the temperature a quarter higher, it would say so in 99 of 100 cases.
    """
    total = counts.sum(dim=-1, keepdim=True)
    hotter = (expected.log() / 1.25).softmax(dim=-1)

    def pooled(x: Tensor) -> Tensor:
        rare = expected * total < 5
        rest = torch.where(rare, x, 0).sum(dim=-1, keepdim=True)
        return torch.cat([torch.where(rare, 0, x), rest], dim=-1)

    found, wanted, other = pooled(counts.double()), pooled(expected * total), pooled(hotter * total)
    used = wanted > 0
    freedom = int(used.sum() - used[..., 0].numel())
    distance = ((other - wanted).square()[used] / wanted[used]).sum()
    assert ncx2.sf(chi2.isf(0.001, freedom), freedom, distance) > 0.99
    return float(chi2.sf(((found - wanted).square()[used] / wanted[used]).sum(), freedom))


def test_grid_draws_follow_the_plain_distribution() -> None:
    state = canvas(1)
    made = plan(["depth"], state, temperature=1.3, top_p=0.9, guidance=2.0)
    positions = torch.arange(16)[None]
    logits = plain.grid_logits(bundle().model, Views.of(state, 2.0, (RGB,)), DEPTH, positions)[0]
    expected = (filter_logits(logits, top_p=0.9) / 1.3).softmax(dim=-1).double()
    drawn = run(made, state.take([0] * 800), Passes(bundle().model), range(800)).canvas.tracks[DEPTH].ids
    counts = torch.stack([torch.bincount(column, minlength=expected.shape[1]) for column in drawn.T])
    assert not counts[expected == 0].any()
    assert chi_square(counts, expected) > 0.001


def test_words_follow_the_plain_distribution() -> None:
    """The first two words of a caption together, each out of four."""
    state, model = canvas(1).opened("caption"), bundle().model
    sampler = Sampler(0.4, top_k=4)

    def next_word(prefixes: list[list[int]]) -> Tensor:
        targets = plain._prefix(model.config.index("caption"), prefixes)
        hidden = plain.decode(model, targets, plain.encode(model, state.take([0] * len(prefixes))))
        return (filter_logits(model.logits(hidden[:, -1], "caption"), top_k=4) / 0.4).softmax(dim=-1).double()

    with torch.inference_mode():
        first = next_word([[5]])[0]
        words = first.nonzero()[:, 0].tolist()
        joint = first[words, None] * next_word([[5, word] for word in words])
    job = SequenceJob("caption", Views((state.take([0] * 3000),)), sampler, limit=2)
    (rows,) = write_sequences(Passes(model), [job], range(3000))
    index = torch.tensor([words.index(row[1]) * joint.shape[1] + row[2] for row in rows])
    counts = torch.bincount(index, minlength=joint.numel())
    assert chi_square(counts, joint.flatten()) > 0.001
