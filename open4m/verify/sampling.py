"""Schedules and the filters of sampling (golden: ``generation``)."""

from __future__ import annotations

import re
from typing import Any

import torch

from open4m.generation.sampling import Sampler, filter_logits
from open4m.generation.schedules import temperature_schedule, token_schedule
from open4m.verify.recorded import Entries
from open4m.verify.report import Report

_FILTER = re.compile(r"filtered\.(?:none|(?:k(?P<k>[\d.]+))?_?(?:p(?P<p>[\d.]+))?)")
_DRAWN = re.compile(r"(?P<name>sampled_.*_t(?P<t>[\d.]+)_p(?P<p>[\d.]+))\.tokens")
_SCHEDULES = {"cosine_schedule", "linear_schedule", "linear_temp_schedule", "onex_temp_schedule"}


def check_schedules(recorded: Any, report: Report) -> None:
    """Numbers of tokens exactly, temperatures to 1e-12; schedules that open4m does not offer stay unread."""
    for kind in ("cosine", "linear"):
        for arguments, expected in recorded[f"{kind}_schedule"].items():
            steps, tokens = map(int, arguments.split(","))
            report.equal("token schedules", token_schedule(kind, steps, tokens), expected, f"{kind} {arguments}")
    temperatures = {("linear", *a.split(",")): v for a, v in recorded["linear_temp_schedule"].items()}
    for arguments, expected in recorded["onex_temp_schedule"].items():
        highest, lowest, power, tokens = arguments.split(",")
        name = f"onex:{lowest.removeprefix('min')}:{power.removeprefix('power')}"
        temperatures[name, highest.removeprefix("max"), tokens] = expected
    for (name, first, tokens), expected in temperatures.items():
        found = torch.tensor(temperature_schedule(name, float(first), _tokens(tokens)), dtype=torch.float64)
        wanted = torch.tensor(expected, dtype=torch.float64)
        report.close("temperature schedules", found, wanted, "temperatures", f"{name} {first} {tokens}")
    report.unread += [f"schedules.json: {name}" for name in recorded if name not in _SCHEDULES]


def _tokens(name: str) -> list[int]:
    """``linear8/196`` → the linear schedule of 196 tokens in 8 steps."""
    kind = name.rstrip("0123456789/")
    steps, tokens = map(int, name.removeprefix(kind).split("/"))
    return token_schedule(kind, steps, tokens)


def check_filters(recorded: Entries, report: Report) -> None:
    """Filtered logits, and ids drawn at the recorded probabilities."""
    logits = recorded["logits"]
    for key in recorded:
        if match := _FILTER.fullmatch(key):
            k, p = match["k"] or "0", float(match["p"] or 0)
            found = filter_logits(logits, float(k) if "." in k else int(k), p)
            report.equal("sampling filters", found, recorded[key], key)
        elif match := _DRAWN.fullmatch(key):
            temperature, p = float(match["t"]), float(match["p"])
            ids, expected = recorded[key], recorded[f"{match['name']}.probs"]
            distribution = (filter_logits(logits, 0, p) / temperature).softmax(-1)
            below = (distribution * (torch.arange(logits.shape[-1]) < ids[:, None])).sum(-1)
            found, probability = Sampler(temperature, top_p=p)(logits, below + expected / 2)
            report.equal("drawn ids", found, ids, key)
            report.close("probabilities of drawn ids", probability, expected, "probabilities", key)
