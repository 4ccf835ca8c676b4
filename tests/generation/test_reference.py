"""Generation decides what the published implementation decides, with the same weights (tests/golden/generation)."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from conftest import golden
from safetensors.torch import load_file
from torch import Tensor

from open4m.generation.canvas import Canvas
from open4m.generation.decoding import Candidates, GridStep, SequenceJob, Views, fill_grid, write_sequences
from open4m.generation.sampling import Sampler
from open4m.hub.published import from_published, model_config
from open4m.model import FourM
from open4m.tokenizers.text import TextTokenizer

GREEDY = Sampler(temperature=0.0)
RGB, DEPTH = "rgb@224", "tok_depth@224"
PROMPT = [4321, 5135, 4222, 6034, 5493, 4912, 5112, 5208, 5]
"""``a red car parked near the old house [S_1]`` with the published vocabulary (tests/golden/text)."""


@cache
def model() -> FourM:
    folder = golden("fm_mod21_swiglu")
    config = model_config(json.loads((folder / "config.json").read_text()), str(folder))
    built = FourM(config)
    built.load_weights(from_published(load_file(folder / "model.safetensors"), config), dtype=torch.float32)
    return built


@cache
def recorded() -> tuple[dict[str, Any], dict[str, Tensor]]:
    folder = golden("generation")
    return json.loads((folder / "expected.json").read_text()), load_file(folder / "expected.safetensors")


def canvas(batch: int, rgb: bool = True) -> Canvas:
    blank = Canvas(model().config.streams, batch)
    return blank.with_pixels(RGB, recorded()[1]["rgb"][:batch].float()) if rgb else blank


class Recorded:
    """Decides the positions that were recorded, and checks the predictions on the way."""

    def __init__(self, scenario: str, first: int = 0) -> None:
        self.prefix, self.expected, self.first, self.steps = scenario, recorded()[1], first, 0

    def __call__(self, candidates: Candidates) -> Tensor:
        step = f"{self.prefix}.step{self.first + candidates.step}"
        self.steps += 1
        if candidates.ids is not None:
            found = torch.stack([candidates.positions, candidates.ids])
            assert torch.equal(found, self.expected[f"{step}.argmax_at_all_open"]), step
        return self.expected[f"{step}.positions"]


def fill(scenario: str, start: Canvas, target: str, first: int = 0, count: int | None = None) -> Canvas:
    """Run the recorded schedule of one grid target with the recorded positions."""
    schedule = recorded()[0][scenario]["schedule"][first:][:count]
    step = schedule[0]
    chooser = Recorded(scenario, first)
    done = fill_grid(
        model(),
        start,
        target,
        step["scheme"],
        [GridStep(s["num_tokens"], GREEDY) for s in schedule],
        lambda c: Views.of(c, step["cfg_scale"], step["cfg_cond_domains"]),
        seeds=range(start.batch),
        choose=chooser,
    )
    assert chooser.steps == len(schedule)
    return done


def check(scenario: str, found: Canvas, stream: str) -> None:
    assert torch.equal(found.tracks[stream].ids, recorded()[1][f"{scenario}.{stream}.tensor"])
    assert torch.equal(~found.tracks[stream].known, recorded()[1][f"{scenario}.{stream}.input_mask"])


@pytest.mark.parametrize(
    "scenario",
    [
        "depth_1step",
        "depth_1step_cfg2",
        "depth_maskgit8",
        "depth_maskgit8_cfg2",
        "depth_roar8_seed0",
        "depth_roar8_cfg2_seed5",
    ],
)
def test_depth_from_rgb(scenario: str) -> None:
    batch = len(recorded()[1][f"{scenario}.{DEPTH}.tensor"])
    check(scenario, fill(scenario, canvas(batch), DEPTH), DEPTH)


def test_depth_from_caption() -> None:
    scenario = "depth_from_caption_maskgit4_cfg2"
    prompted = canvas(1, rgb=False).with_sequences("caption", [PROMPT])
    assert torch.equal(prompted.tracks["caption"].ids[0], recorded()[1]["cap_cond.caption.tensor"][0, : len(PROMPT)])
    check(scenario, fill(scenario, prompted, DEPTH), DEPTH)


def test_multi_guided() -> None:
    start = canvas(1).with_sequences("caption", [PROMPT])
    numbers = recorded()[0]["multi_guided"]
    weights: dict[str, float] = dict(zip((RGB, "caption"), numbers["weights"], strict=True))
    steps = [GridStep(count, GREEDY) for count in numbers["token_schedule"]]
    done = fill_grid(
        model(), start, DEPTH, "maskgit", steps, lambda c: Views.of(c, weights, ()), [0], Recorded("multi_guided")
    )
    assert torch.equal(done.tracks[DEPTH].ids, recorded()[1][f"multi_guided.{DEPTH}.tensor"])


SEQUENCES = {
    "caption_ar_greedy": "caption",
    "palette_ar_greedy": "color_palette",
    "palette_ar_greedy_cfg2": "color_palette",
    "human_poses_ar_greedy": "human_poses",
    "caption_infill_greedy": "caption",
}


def write(scenario: str, start: Canvas, stream: str, step: dict[str, Any], slots: int) -> list[list[int]]:
    views = Views.of(start, step["cfg_scale"], step["cfg_cond_domains"])
    (written,) = write_sequences(model(), [SequenceJob(stream, views, GREEDY, slots)], range(start.batch))
    expected = recorded()[1].get(f"{scenario}.generated_ids_before_merge")
    if expected is not None:
        longest = max(len(row) for row in written)
        assert longest == expected.shape[1]  # all stop when the last one has its closing sentinel
        for row, ids in zip(written, expected.tolist(), strict=True):
            assert row == ids[: len(row)]
            assert len(row) == len(ids) or row[-1] == 6
    return written


def merged(start: Canvas, stream: str, written: list[list[int]]) -> Canvas:
    text = object.__new__(TextTokenizer)  # merging needs no vocabulary
    rows = [text.merge_spans(start.sequence(stream, row), ids) for row, ids in enumerate(written)]
    return start.with_sequences(stream, rows)


@pytest.mark.parametrize("scenario", SEQUENCES)
def test_sequences(scenario: str) -> None:
    stream = SEQUENCES[scenario]
    info = recorded()[0][scenario]
    slots = torch.tensor(info["initial_target_masks"][stream]["tensor"])
    given = [5] if slots[0, 1] == 5 else slots[0, :7].tolist()
    start = canvas(len(slots)).with_sequences(stream, [given] * len(slots))
    written = write(scenario, start, stream, info["schedule"][0], slots.shape[1] - len(given))
    check_sequence(scenario, merged(start, stream, written), stream)


def check_sequence(scenario: str, found: Canvas, stream: str) -> None:
    tensor = recorded()[1][f"{scenario}.{stream}.tensor"]
    visible = ~recorded()[1][f"{scenario}.{stream}.input_mask"]
    for row in range(found.batch):
        assert found.sequence(stream, row) == tensor[row][visible[row]].tolist()


def test_chain_with_growing_conditions() -> None:
    scenario, palette = "chain_cfg_grow", "color_palette"
    schedule = recorded()[0][scenario]["schedule"]
    state = canvas(1).opened(palette)
    for number, step in enumerate(schedule[:-1]):
        state = fill(scenario, state, step["target_domain"], number, 1)
        check(scenario, state, step["target_domain"])
    written = write(scenario, state, palette, schedule[-1], 22)
    check_sequence(scenario, merged(state, palette, written), palette)
