"""The benchmarks compare what they say that they compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import search
from benchmarks.floor import Machine, Work
from benchmarks.generation import NAMES, SIDES, Answer, Request, Row, Settings, Worker, endless, head, same_plain_work
from benchmarks.tasks import TASKS, blueprint
from open4m.generation.plan import Plan
from open4m.modalities.registry import get_modality
from open4m.model.attention import attend
from open4m.model.linear import Linear
from open4m.retrieval.embedding import unit
from open4m.verify.text import fixed_words

KNOWN = blueprint("tiny")

MACHINE = Machine(operations=1.0, bytes=1.0)


def plans(name: str, words: int | None = None, sampled: bool = False) -> tuple[Plan, Plan]:
    """Of the plain side and of ours."""
    first, second = (TASKS[name].plan(side, KNOWN, words, sampled) for side in ("plain", "open4m"))
    return first, second


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.same])
def test_both_sides_do_the_same_work(name: str) -> None:
    theirs, ours = plans(name)
    assert theirs == ours
    assert all(t.temperature == 0 and t.decode == "tokens" for t in ours.targets)
    assert not any(t.grammar for t in ours.targets if t.is_sequence)


def test_the_demo_is_a_chain_and_the_default_is_not() -> None:
    theirs, ours = plans("rgb_to_everything", sampled=True)
    assert theirs.chained and not ours.chained and len(theirs.targets) == len(ours.targets) == 14
    assert theirs.targets[2].conditions == ("rgb@224", "tok_clip@224", "tok_dinov2@224")  # guidance grows
    assert ours["caption"].temperature == 0.3 and ours["caption"].tokens == 256
    assert plans("caption_to_rgb")[1].cost.decoder_passes == 2 * (50 + 25)
    assert sum(t.tokens - 1 for t in plans("six_sequences", words=48)[0].targets) == 4 * 48 + 22 + 39


def test_the_plain_chain_runs_once() -> None:
    answer = Answer(1.0, 2, {})
    rows = [Row("rgb_to_everything", {"plain": [answer], "open4m": [answer]}, answer)]
    assert same_plain_work("rgb_to_everything_chained", rows) is rows[0]
    assert all(same_plain_work(name, rows) is None for name in NAMES if not name.startswith("rgb_to_everything"))


def test_results_and_agreement() -> None:
    theirs, ours = Answer(3.0, 2 * 10**9, {"caption": [5, 1, 2, 6]}), Answer(1.0, 10**9, {"caption": [5, 1, 3]})
    row = Row("caption_256", {"plain": [theirs], "open4m": [ours, Answer(2.0, 0, {}), Answer(9.0, 0, {})]}, ours)
    assert row.result() == {
        "task": "caption_256",
        "plain_s": 3.0,
        "open4m_s": 2.0,
        "plain_peak_gb": 2.0,
        "open4m_peak_gb": 1.0,
    }
    assert row.agreement() == "2 of 4"
    assert Row("rgb_to_everything", row.runs, ours).agreement() == "other work"


@pytest.mark.parametrize("name", ["det", "human_poses", "sam_instance"])
def test_sentences_of_the_benchmark_do_not_end(name: str) -> None:
    grammar = endless(get_modality(name), fixed_words())
    sentence = grammar.begin([fixed_words().sentinel(1)], 6) if grammar is not None else None
    assert sentence is not None
    for _ in range(200):
        allowed, _ = sentence.allowed(1)
        assert 6 not in allowed and fixed_words().eos not in allowed
        sentence.write(int(allowed[-1]))


def test_the_head_says_how_each_side_is_held() -> None:
    first, _ = head(Settings("base", "int8", False, MACHINE, True)).splitlines()
    assert "| plain (bfloat16) | open4m (int8, compiled) |" in first
    assert [Settings("base", "float32", False, MACHINE).about(side) for side in SIDES] == [
        "plain (float32)",
        "open4m (float32)",
    ]


def test_operations_and_bytes() -> None:
    with Work() as work:
        F.linear(torch.ones(3, 8), torch.ones(5, 8))
        F.conv2d(torch.ones(1, 2, 4, 4), torch.ones(6, 2, 3, 3), padding=1)
        F.scaled_dot_product_attention(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 7, 4), torch.ones(1, 2, 7, 4))
        torch.ones(4).add(1)
    assert work.layers == [(2 * 3 * 8 * 5, 160), (2 * 6 * 16 * 18, 432), (2 * 2 * 2 * 7 * 4, 2 * 224)]
    assert work.floor(MACHINE) == 240 + 3456 + 448
    assert work.operations == 240 + 3456 + 224 and work.bytes == 160 + 432 + 448


def test_however_it_is_written_the_same_is_counted() -> None:
    q, k, v = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 7, 4), torch.ones(1, 2, 7, 4)
    few, many = (made(1024, 1040, bias=False) for made in (Linear, torch.nn.Linear))
    counted = []
    for linear, plain in ((few, True), (many, False)):
        with Work() as work:
            linear(torch.ones(5, 1024))
            attend(q, k, v, plain=plain)
        counted.append((work.operations, work.bytes))
    weights = 1024 * 1040
    assert counted[0] == counted[1] == (2 * 5 * weights + 4 * 2 * 3 * 7 * 4, 4 * weights + 2 * 4 * 2 * 7 * 4)


def test_a_run_is_timed_and_its_memory_is_its_own() -> None:
    class Filler(Worker):
        def answer(self, request: Request) -> Answer:
            made, answer = self.measured(lambda: torch.ones(2**24), request.count)
            assert made.sum() == 2**24
            return answer

    worker = Filler("open4m", Settings("base", "float32", False, MACHINE))
    large, small = worker.answer(Request("", None)), worker.measured(lambda: None, False)[1]
    assert large.seconds > 0 and large.peak - small.peak > 2**25


def test_search_is_compared_on_what_the_model_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    search.main(count=1200, scenes=6)
    head, *_, last = capsys.readouterr().out.strip().splitlines()
    assert head.startswith("1200 vectors of 512 dimensions, mixed from 6 of the held-out scenes")
    name, recall, *milliseconds, _ = last.strip("| ").split(" | ")
    assert name == "semseg" and 0.5 < float(recall) <= 1 and min(map(float, milliseconds)) > 0


def test_a_stand_in_gallery_lies_between_real_vectors() -> None:
    real = unit(np.random.default_rng(0).normal(size=(5, 8)))
    mixed = search.mixtures(real, 200, seed=1)
    assert np.allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-6) and len(np.unique(mixed, axis=0)) == 200
    weights = np.linalg.lstsq(real.T, mixed.T, rcond=None)[0]
    assert np.allclose(real.T @ weights, mixed.T, atol=1e-5) and weights.min() > -1e-5
    assert ((weights > 1e-4).sum(axis=0) <= 3).all() and np.array_equal(mixed, search.mixtures(real, 200, seed=1))
