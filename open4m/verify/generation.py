"""Greedy generation with recorded decisions (golden: ``generation``, whose README says how to compare)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from open4m.errors import DataError
from open4m.generation.canvas import Canvas
from open4m.generation.decoding import Candidates, GridStep, SequenceJob, filling_grid, write_sequences
from open4m.generation.passes import Passes, Views
from open4m.generation.sampling import Sampler
from open4m.hub.bundle import load_bundle
from open4m.model import FourM
from open4m.streams import StreamKind
from open4m.verify.options import Options
from open4m.verify.recorded import Entries, Recorded, unpacked
from open4m.verify.report import Report
from open4m.verify.sampling import check_filters, check_schedules
from open4m.verify.text import fixed_words

GREEDY = Sampler(temperature=0.0)
MADE_WITH = "fm_mod21_swiglu"
"""The folder beside the recorded generations whose weights they were made with."""


def check_generation(folder: Recorded, options: Options, report: Report) -> None:
    """Schedules, sampling filters, and every scenario of ``expected.json``."""
    check_schedules(folder.json("schedules.json"), report)
    check_filters(folder.tensors("sampling_units.safetensors"), report)
    numbers, tensors = folder.json("expected.json"), folder.tensors("expected.safetensors")
    weights = options.weights or folder.source.parent / MADE_WITH
    if not weights.is_dir():
        raise DataError(f"{folder.source}: the weights it was made with are not in {weights}. Give them: --weights DIR")
    with unpacked(weights) as path:
        model = load_bundle(path, options.dtype, options.device).model
    scenarios = {name: entry for name, entry in numbers.items() if isinstance(entry, dict) and "targets" in entry}
    for name, entry in scenarios.items():
        _Scenario(name, entry, model, tensors, report).check()
    if "multi_guided" in numbers:
        _check_multi_guided(numbers["multi_guided"], model, tensors, report)


@dataclass(frozen=True)
class _Scenario:
    """One recorded generation: its target, or a chain of them."""

    name: str
    entry: Any
    model: FourM
    tensors: Entries
    report: Report

    def check(self) -> None:
        """Run the schedule target by target, each on the canvas that the last one left."""
        state, slots = self.opened(start(self.model, self.tensors, self.name, self.entry["schedule"][0]))
        numbered = enumerate(self.entry["schedule"])
        for stream, group in groupby(numbered, key=lambda pair: pair[1]["target_domain"]):
            first, steps = next((pair[0], [pair[1], *(p[1] for p in group)]) for pair in [next(group)])
            if steps[0]["scheme"] == "autoregressive":
                state = self.write(state, stream, steps[0], slots[stream])
            else:
                state = self.fill(state, stream, first, steps)

    def opened(self, canvas: Canvas) -> tuple[Canvas, dict[str, int]]:
        """The canvas with what is given of the sequences to write, and how many ids each may get.

        Recorded rows hold the given ids, the first target id ``[S_1]``, free slots, and the last target id.
        """
        slots = {}
        for stream, recorded in self.entry["initial_target_masks"].items():
            rows = torch.tensor(recorded["tensor"])
            given = int(rows[0, :-1].nonzero().max())
            canvas = canvas.with_sequences(stream, rows[:, :given].tolist())
            slots[stream] = rows.shape[1] - given
        return canvas, slots

    def fill(self, state: Canvas, stream: str, first: int, steps: list[Any]) -> Canvas:
        """A grid target, forced to the recorded positions."""
        settings = steps[0]
        forced = _Forced(self.name, first, self.tensors, self.report)
        *_, done = filling_grid(
            Passes(self.model),
            state,
            stream,
            settings["scheme"],
            [GridStep(step["num_tokens"], GREEDY) for step in steps],
            lambda canvas: Views.of(canvas, settings["cfg_scale"], settings["cfg_cond_domains"]),
            seeds=range(state.batch),
            choose=forced,
        )
        forced.check(done, stream, len(steps))
        return done

    def write(self, state: Canvas, stream: str, step: Any, slots: int) -> Canvas:
        """A sequence; rows that stop before the others are shorter than the recorded ones."""
        views = Views.of(state, step["cfg_scale"], step["cfg_cond_domains"])
        (written,) = write_sequences(
            Passes(self.model), [SequenceJob(stream, views, GREEDY, slots)], range(state.batch)
        )
        name, key = self.name, f"{self.name}.generated_ids_before_merge"
        if key in self.tensors:
            ids = self.tensors[key].tolist()
            self.report.equal(name, max(map(len, written)), len(ids[0]), "length")
            for row, (found, expected) in enumerate(zip(written, ids, strict=True)):
                self.report.equal(name, found, expected[: len(found)], f"ids of row {row}")
        merged = [fixed_words().merge_spans(state.sequence(stream, row), ids) for row, ids in enumerate(written)]
        tensor, visible = self.tensors[f"{name}.{stream}.tensor"], ~self.tensors[f"{name}.{stream}.input_mask"]
        for row, found in enumerate(merged):
            self.report.equal(name, found, tensor[row][visible[row]].tolist(), f"merged row {row}")
        return state.with_sequences(stream, merged)


@dataclass
class _Forced:
    """Chooses the recorded positions, and compares the predictions on the way."""

    scenario: str
    first: int
    tensors: Entries
    report: Report

    def __call__(self, candidates: Candidates) -> Tensor:
        step = f"{self.scenario}.step{self.first + candidates.step}"
        if candidates.ids is not None:
            best = torch.stack([candidates.positions, candidates.ids])
            self.report.equal(self.scenario, best, self.tensors[f"{step}.argmax_at_all_open"], step)
        return self.tensors[f"{step}.positions"]

    def check(self, done: Canvas, stream: str, steps: int) -> None:
        """The finished target: what each step decided, and the whole."""
        track, equal = done.tracks[stream], self.report.equal
        for number in range(self.first, self.first + steps):
            recorded = self.tensors.below(f"{self.scenario}.step{number}")
            best_at, best = recorded["argmax_at_all_open"]
            decided = (best_at[:, :, None] == recorded["positions"][:, None]).any(dim=2)
            part = f"{self.scenario}.step{number}"
            equal(self.scenario, track.ids.gather(1, recorded["positions"]), recorded["tokens"], part)
            equal(self.scenario, track.ids.gather(1, best_at)[decided], best[decided], part)
        whole = self.tensors.below(f"{self.scenario}.{stream}")
        equal(self.scenario, track.ids, whole["tensor"], stream)
        for mask in ("input_mask", "target_mask") if "input_mask" in whole else ():
            equal(self.scenario, track.known, whole[mask] == (mask == "target_mask"), f"{stream}.{mask}")


def start(model: FourM, tensors: Entries, scenario: str, step: Any) -> Canvas:
    """The canvas with the conditions of a scenario: pictures, and the recorded prompt."""
    target = step["target_domain"]
    rows = len(tensors[f"{scenario}.{target}.tensor"])
    canvas = Canvas(model.config.streams, rows)
    for stream in step["cfg_cond_domains"]:
        if model.config.stream(stream).kind is StreamKind.PIXELS:
            canvas = canvas.with_pixels(stream, tensors["rgb"][:rows].float())
        else:
            prompt = tensors[f"cap_cond.{stream}.tensor"], ~tensors[f"cap_cond.{stream}.input_mask"]
            canvas = canvas.with_sequences(stream, [ids[known].tolist() for ids, known in zip(*prompt, strict=True)])
    return canvas


def _check_multi_guided(entry: Any, model: FourM, tensors: Entries, report: Report) -> None:
    """Several conditions, each with a weight of its own; ``conditions`` read ``<stream>: text`` or ``<stream> (…)``."""
    scenario = "multi_guided"
    names = [condition.partition(" ")[0].rstrip(":") for condition in entry["conditions"]]
    target = next(key.split(".")[1] for key in tensors if key.startswith(f"{scenario}.") and key.endswith(".tensor"))
    canvas = start(model, tensors, scenario, {"target_domain": target, "cfg_cond_domains": names})

    def views(state: Canvas) -> Views:
        """As the reference was given them: a hidden text is not there at all, instead of ``[S_1]`` (Views.of)."""
        alone = [state.without([other for other in names if other != name]) for name in names]
        return Views((state.without(names), *alone), tuple(entry["weights"]))

    steps = [GridStep(count, GREEDY) for count in entry["token_schedule"]]
    forced = _Forced(scenario, 0, tensors, report)
    seeds, passes = range(canvas.batch), Passes(model)
    states = filling_grid(passes, canvas, target, entry["scheme"], steps, views, seeds, forced)
    *_, done = states
    forced.check(done, target, len(steps))
