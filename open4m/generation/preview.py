"""Plans from configurations alone: what would be done, and what it would need."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from open4m.generation.defaults import as_names, given_streams, make_plan, modalities
from open4m.generation.passes import Weights
from open4m.generation.plan import Plan
from open4m.generation.super_resolution import upscaling_plan
from open4m.hub import describe
from open4m.hub.blueprint import Blueprint
from open4m.hub.needs import needs_of


def preview(
    name: str | Path,
    targets: Sequence[str] = (),
    given: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    *,
    partial: Collection[str] = (),
    via: Sequence[str] = (),
    guidance: Weights | None = None,
) -> Plan:
    """The plan of a model from its configuration alone, with the memory and the downloads that it would need.

    No weights are read, and nothing is fetched for models of the catalogue.

    Args:
        name: as for :func:`~open4m.generation.loading.load`.
        targets: modalities to generate; none = all that are not given.
        given: modalities or streams that would be given.
        dtype: of the weights.
        partial, via, guidance: see :meth:`~open4m.generation.pipeline.AnyToAny.plan`.

    Raises:
        UnknownNameError, GenerationError, CheckpointError: as for loading and for making the plan of a loaded model.
    """
    known = describe(name)
    on_the_way = as_names(via)
    wanted = as_names(targets) or [t for t in modalities(known.config.targets) if t not in (*given, *on_the_way)]
    inputs = given_streams(known.config, as_names(given), partial)
    return _with_needs(make_plan(known, wanted, inputs, via=on_the_way, guidance=guidance), known, dtype)


def preview_upscale(name: str | Path, plan: Plan, dtype: torch.dtype = torch.float32) -> Plan:
    """As :func:`preview`, for the super-resolution model ``name`` after another model's ``plan``."""
    known = describe(name)
    return _with_needs(upscaling_plan(known, plan), known, dtype)


def _with_needs(plan: Plan, known: Blueprint, dtype: torch.dtype) -> Plan:
    needs = needs_of(known, [*plan.inputs, *(target.stream for target in plan.targets)], dtype)
    return replace(plan, needs=needs.lines())
