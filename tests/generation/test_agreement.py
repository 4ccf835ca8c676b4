"""The best of several samples: its scores against decoding word by word, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bundle import bundle, depth_map, picture

from open4m.batch import TokenTargets
from open4m.errors import GenerationError
from open4m.generation import AnyToAny, Result, best_of
from open4m.generation.agreement import agreement, best_rows
from open4m.generation.canvas import FIRST_SPAN, Canvas
from open4m.generation.passes import Passes, Views, predict

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
    scores = agreement(system.bundle.model, result)
    row = int(np.mean(list(scores.values()), axis=0).argmax())
    best = best_of(system, result)
    assert best.seeds == (4 + row,) and not best.batched
    assert best["rgb"].tokens.tolist() == result["rgb"][row].tokens.tolist()
    best.save(tmp_path / "best")
    assert system.repeat(tmp_path / "best")["rgb"].tokens.tolist() == best["rgb"].tokens.tolist()
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
    whole = agreement(network, drawn({"caption": "a red ball"}, 2))["caption"]
    result = drawn({"caption": "a red ball"}, 2)
    ids = result.canvas.sequence("caption", 0)
    gapped = result.canvas.with_sequences("caption", [[*ids, FIRST_SPAN, 9, 9]] * 2)
    result.outcome.canvas = gapped
    np.testing.assert_allclose(agreement(network, result)["caption"], whole, atol=1e-5)


def test_the_best_of_each_group() -> None:
    scores = {"a": np.array([-1.0, -3, -2, -2, -9, -9]), "b": np.array([-5.0, -1, -2, -2, -1, -2])}
    assert best_rows(scores, 2) == [1, 2, 4] and best_rows(scores, 3) == [1, 3]


def test_what_cannot_be_told_is_refused() -> None:
    with pytest.raises(GenerationError, match="nothing can be read"):
        best_of(model(), model().generate({"rgb": picture()}, ["caption"], samples=2))
    with pytest.raises(GenerationError, match="nothing can be read"):
        best_of(model(), model().generate({}, ["rgb"], samples=2))
    with pytest.raises(GenerationError, match=r"alike.*depth\.decode=tokens"):
        best_of(model(), model().generate({"rgb": picture(), "caption": "a dog"}, ["depth"], samples=2))
    with pytest.raises(GenerationError, match="differ in caption"):
        best_of(model(), model().generate({"caption": ["a dog", "a red ball"]}, ["rgb"]))
