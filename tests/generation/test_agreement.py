"""The best of several samples: its scores against decoding word by word, and what is kept of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_bundle import bundle, depth_map, picture

from open4m.batch import TokenTargets
from open4m.errors import GenerationError
from open4m.generation import AnyToAny, Masked, Result, best_of
from open4m.generation.agreement import agreement, best_rows, check_best_of, standing
from open4m.generation.canvas import FIRST_SPAN, Canvas
from open4m.generation.passes import Passes, Views, predict
from open4m.model import FourM

GIVEN = {"caption": "a red ball on a wooden floor", "metadata": {"brightness": 90.0}, "depth": depth_map()}


def model() -> AnyToAny:
    return AnyToAny(bundle())


def drawn(inputs: dict[str, Any] = GIVEN, samples: int = 3, **options: Any) -> Result:
    return model().generate(inputs, ["rgb"], samples=samples, **options)


def seen_alone(result: Result, row: int) -> Canvas:
    """The generated picture of one sample, and nothing else."""
    ids = result.canvas.tracks["tok_rgb@32"].ids[[row]]
    return Canvas(result.canvas.streams, 1).with_tokens("tok_rgb@32", ids)


def word_by_word(network: Any, canvas: Canvas, stream: str, ids: list[int]) -> float:
    """Mean log-probability of a sequence, one word after the other from a cache."""
    cache = network.start_decoding(network.encode(canvas.inputs()))
    found, before = [], FIRST_SPAN
    for place, word in enumerate(ids):
        one = torch.ones(1, 1, dtype=torch.int64)
        position, index = one * place, one * network.config.index(stream)
        targets = TokenTargets(index, position, one * before, one * 0, position, one > 0)
        hidden = network.decode_next(targets, cache)
        found.append(float(network.logits(hidden[0, 0], stream).log_softmax(dim=-1)[word]))
        before = word
    return float(np.mean(found))


@torch.inference_mode()
def test_scores_are_those_of_the_model_that_sees_the_sample_alone() -> None:
    network, result = bundle().model, drawn(samples=3)
    scores = agreement(network, result)
    assert set(scores) == {"caption", "metadata", "tok_depth@32"}
    for row in range(3):
        # All that is read shares the encoder pass, with the sentinels that stand for the sequences.
        opened = seen_alone(result, row).opened("caption").opened("metadata")
        for stream in ("caption", "metadata"):
            words = result.canvas.sequence(stream, row)
            if stream == "metadata":  # given are some fields, and [S_1] says that there are others
                assert words.pop() == FIRST_SPAN
            expected = word_by_word(network, opened, stream, words)
            assert scores[stream][row] == pytest.approx(expected, abs=1e-4)
        views = Views.of(opened, 1.0, ())
        ((_, logits),) = predict(Passes(network), views, {"tok_depth@32": torch.arange(16)[None]})
        ids = result.canvas.tracks["tok_depth@32"].ids[row]
        expected = float(logits[0].log_softmax(dim=-1)[torch.arange(16), ids].mean())
        assert scores["tok_depth@32"][row] == pytest.approx(expected, abs=1e-4)


def test_a_sample_is_scored_alike_in_every_company() -> None:
    network = bundle().model
    inputs = {"caption": ["a red ball", "two dogs and a green chair near the window", "a person"] * 7}
    together = agreement(network, model().generate(inputs, ["rgb"], samples=21))
    for row in (0, 1, 20):
        alone = model().generate({"caption": inputs["caption"][row]}, ["rgb"], seed=row)
        np.testing.assert_allclose(agreement(network, alone)["caption"], together["caption"][[row]], atol=1e-4)


def test_the_best_one_is_a_result_of_its_own(tmp_path: Path) -> None:
    system, result = model(), drawn(samples=6, seed=4)
    best = best_of(system, result)
    row = best.seeds[0] - 4
    assert row == standing(system.bundle.model, result, 6)[0].argmax() and not best.batched
    assert best["rgb"].tokens.tolist() == result["rgb"][row].tokens.tolist()
    best.save(tmp_path / "best")
    assert system.repeat(tmp_path / "best")["rgb"].tokens.tolist() == best["rgb"].tokens.tolist()
    system.generate(GIVEN, ["rgb"], seed=best.seeds[0]).save(tmp_path / "alone")
    kept, alone = (load_file(tmp_path / name / "tokens.safetensors") for name in ("best", "alone"))
    assert set(kept) == set(alone)  # nothing that was given is stored as if it had been made
    edited = system.edit(best, {"caption": "two dogs"})
    assert edited["rgb"].tokens.shape == best["rgb"].tokens.shape


def test_merged_sequences_stay_with_their_sample() -> None:
    plan = model().plan(["det", "rgb"], ["caption"]).edit("det", repeats=2)
    result = model().generate({"caption": "a dog"}, plan=plan, samples=4)
    best = best_of(model(), result)
    row = result.seeds.index(best.seeds[0])
    assert best["det"].value == result["det"][row].value


def test_of_texts_with_gaps_the_beginning_counts() -> None:
    network = bundle().model
    result = drawn({"caption": "a red ball"}, 2)
    whole = agreement(network, result)["caption"]
    ids = result.canvas.sequence("caption", 0)
    result.outcome.canvas = result.canvas.with_sequences("caption", [[*ids, FIRST_SPAN, 9, 9]] * 2)
    np.testing.assert_allclose(agreement(network, result)["caption"], whole, atol=1e-5)

    texts = ["[S_1] on a floor"] * 9 + ["a red ball"]  # more than are read together
    mixed = agreement(network, model().generate({"caption": texts}, ["rgb"]))["caption"]
    assert np.isnan(mixed[:9]).all() and np.isfinite(mixed[9])
    beside = drawn({"caption": "[S_1] on a floor", "metadata": {"brightness": 9.0}}, 3)
    only = drawn({"caption": "[S_1] on a floor"}, 3)
    assert standing(network, beside, 3).argmax() == agreement(network, beside)["metadata"].argmax()
    with pytest.raises(GenerationError, match="before the first gap"):
        best_of(model(), only)


def _apart(network: FourM, result: Result) -> np.ndarray:
    """(samples,) agreement, each input in standard deviations, of samples of one input."""
    return np.mean([(s - s.mean()) / s.std() for s in agreement(network, result).values()], axis=0)


def test_every_input_has_the_same_say_or_that_of_its_weight() -> None:
    network, system = bundle().model, model()
    result = drawn({"caption": ["a dog"] * 6, "metadata": [{"brightness": 9.0}] * 6}, 6)
    scores = agreement(network, result)
    apart = {name: found.reshape(2, 3) for name, found in scores.items()}
    expected = np.mean([(s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True) for s in apart.values()], axis=0)
    np.testing.assert_allclose(standing(network, result, 3), expected)
    assert best_rows(network, result, 3) == [int(expected[0].argmax()), 3 + int(expected[1].argmax())]

    inputs = {"caption": "a dog", "metadata": {"brightness": 9.0}}
    avoided = system.generate(inputs, plan=system.plan(["rgb"], list(inputs), guidance=-1.0), samples=4)
    assert standing(network, avoided, 4)[0].argmax() == _apart(network, avoided).argmin()
    ignored = system.plan(["rgb"], list(inputs), guidance=0.0)
    with pytest.raises(GenerationError, match="it can read nothing"):
        check_best_of(network.config, ignored, 4)
    for weights, judge in (
        ({"caption": -2.0, "metadata": 0.0}, "caption"),
        ({"caption": 0.0, "metadata": 3.0}, "metadata"),
    ):
        plan = system.plan(["rgb"], list(inputs), guidance=weights)
        result = system.generate(inputs, plan=plan, samples=4)
        scores = agreement(network, result)
        assert list(scores) == [judge]
        ranks = np.sign(weights[judge]) * scores[judge]
        assert best_of(system, result).seeds == (int(ranks.argmax()),)


def test_what_lies_behind_bars_or_masks_is_not_judged() -> None:
    network, system = bundle().model, model()
    given = {"depth": depth_map(0, 20, 40), "caption": "a dog"}
    result = system.generate(given, ["normal"], samples=2, fit="letterbox")
    track = result.canvas.tracks["tok_depth@32"]
    assert 0 < int(track.known[0].sum()) < 16
    blank = replace(track, ids=torch.where(track.known, track.ids, 7))
    scores = agreement(network, result)["tok_depth@32"]
    result.outcome.canvas = replace(result.canvas, tracks={**result.canvas.tracks, "tok_depth@32": blank})
    np.testing.assert_array_equal(agreement(network, result)["tok_depth@32"], scores)

    hole = np.zeros((40, 48), dtype=bool)
    hole[:20] = True
    masked = system.generate({"rgb": Masked(picture(), hole), "caption": "a dog"}, ["rgb"], samples=3)
    assert list(agreement(network, masked)) == ["caption"] and not best_of(system, masked).batched
    other = [Masked(picture(), hole), Masked(picture(), ~hole)]
    with pytest.raises(GenerationError, match="differ in tok_rgb"):
        best_of(system, system.generate({"rgb": other, "caption": "a dog"}, ["rgb"]))


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(GenerationError, match="of rgb@32 it can read nothing"):
        best_of(model(), model().generate({"rgb": picture()}, ["caption"], samples=2))
    with pytest.raises(GenerationError, match="of nothing it can read nothing"):
        best_of(model(), model().generate({}, ["rgb"], samples=2))
    plan = model().plan(["rgb"], ["caption"])
    with pytest.raises(GenerationError, match="it cannot read rgb"):
        streams = [replace(spec, is_input=spec.modality != "rgb") for spec in bundle().model.config.streams]
        check_best_of(replace(bundle().model.config, streams=tuple(streams)), plan, 2)
    with pytest.raises(GenerationError, match="best of 0"):
        check_best_of(bundle().model.config, plan, 0)
    with pytest.raises(GenerationError, match=r"alike.*depth\.decode=tokens"):
        best_of(model(), model().generate({"rgb": picture(), "caption": "a dog"}, ["depth"], samples=2))
    sure = model().plan(["depth"], ["rgb", "caption"], via=["semseg"]).edit("depth", decode="tokens", temperature=0)
    with pytest.raises(GenerationError, match="alike"):
        best_of(model(), model().generate({"rgb": picture(), "caption": "a dog"}, plan=sure, samples=2))
    finer = copy.copy(drawn())
    finer.super_resolution = plan
    with pytest.raises(GenerationError, match="Choose first"):
        best_of(model(), finer)
    with pytest.raises(GenerationError, match="differ in caption"):
        best_of(model(), model().generate({"caption": ["a dog", "a red ball"]}, ["rgb"]))
