"""Sweeps, ensembles and tuned chains as pictures and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m.app.page import Panel, Picture, Section, Table, write_page
from open4m.app.panels import SIZE, background_of
from open4m.evaluation.tables import markdown_table
from open4m.files import atomic_path, write_bytes, write_json
from open4m.generation.ensemble import MergedItem
from open4m.generation.stored import PLAN_FILE
from open4m.modalities.drawing import contact_sheet, fit_square, heat_map
from open4m.modalities.registry import get_modality
from open4m.steering.chains import Comparison, Search
from open4m.steering.ensembles import EnsembleStudy
from open4m.steering.paths import PathStudy
from open4m.steering.sweep import Sweep
from open4m.steering.tables import (
    Rows,
    comparison_table,
    ensemble_table,
    path_table,
    sweep_table,
    trial_table,
    uncertainty_table,
)

FOLLOWS = (
    "Rank correlation of the asked numbers with those measured on what was generated: the mean over the contexts, and "
    "over all at once (pooled). Chance: of so high a mean if nothing followed. A measure follows if that is below 0.05."
)
READING = (
    "Measures for which the model must first read something from the picture, on real pictures: rank correlation of "
    "measured and true. Generated pictures can hardly be found to follow better than this."
)
MERGING = (
    "best guess: the default, in one step, decoded from the mean of what the model expects. one sample: drawn from "
    "what the model expects. merged: so many samples of the same input."
)
UNCERTAINTY = (
    "Rank correlation of the spread of the samples with the true error of the merged value: over the places of a "
    "picture (mean of the pictures), and over the pictures. The error of the surest half of the places is a share of "
    "the mean error; below 1 is good."
)
PATHS = (
    "The same target straight from what is given, through another prediction alone, and from both. pixels, pictures: "
    "rank correlation of the difference between the two paths with the true error of the straight one."
)
SHOWN = 4
"""Scenes in a picture of an ensemble study."""

_CELL, _SHEET = 112, 128


# -- sweeps -----------------------------------------------------------------------------------------------------------
def draw_strip(sweep: Sweep, rows: int = SHOWN, size: int = _SHEET) -> Image.Image:
    """Values from left to right, one row per context; above them what was asked for, where it is more than a number."""
    cells = []
    if sweep.modality != "metadata":
        modality = get_modality(sweep.modality)
        cells = [(label, modality.draw(value, size)) for label, value in zip(sweep.labels, sweep.requests, strict=True)]
    for strip in sweep.items[:rows]:
        cells += [(label, item.draw(size)) for label, item in zip(sweep.labels, strip, strict=True)]
    return contact_sheet(cells, columns=len(sweep.labels), size=size)


def write_sweeps(folder: Path, title: str, sweeps: Sequence[Sweep]) -> Path:
    """Write ``sweep.json``, ``sweep.md``, a strip ``<control>.png`` for each, and a page, whose path is returned."""
    sections = []
    for one in sweeps:
        strip = draw_strip(one, size=SIZE)
        _save(strip, folder / f"{one.control.replace(' ', '-')}.png")
        tables = [Table(*sweep_table([one]))]
        sections.append(Section(one.control, FOLLOWS, wide=[Panel(one.control, [Picture("", strip)])], tables=tables))
    _write_tables(folder / "sweep.md", {FOLLOWS: sweep_table(sweeps)})
    write_json(folder / "sweep.json", {"model": title, "sweeps": [one.to_dict() for one in sweeps]})
    footer = "sweep.json, beside this page, holds numbers, plans, and the seed of every picture: one for each context"
    footer += ", but for candidates that were chosen." if any(one.best_of > 1 for one in sweeps) else "."
    page = folder / "index.html"
    write_page(page, f"{title}: sweeps", "", sections, footer)
    return page


# -- ensembles --------------------------------------------------------------------------------------------------------
def draw_ensembles(pairs: Sequence[tuple[Mapping[str, Any], MergedItem]], size: int = _SHEET) -> Image.Image:
    """One row per scene: the picture, the truth, one sample, the merged value, its spread, its true error."""
    cells: list[tuple[str, Image.Image]] = []
    for scene, item in pairs:
        modality, truth = item.modality, scene[item.modality.name]
        ground = background_of(scene)
        grounds = [None if modality.name == "rgb" else ground] * 3
        values = [truth, item.items[0].square, item.merged.value]
        drawn = modality.draw_all(values, size, grounds)
        picture = [("picture", fit_square(ground, size))] if ground is not None else []
        cells += [*picture, *zip(("truth", "one sample", f"{len(item.items)} merged"), drawn, strict=True)]
        cells += _maps(item, modality.errors(item.merged.value, truth), size)
    return contact_sheet(cells, columns=len(cells) // len(pairs), size=size)


def _maps(item: MergedItem, error: np.ndarray, size: int) -> list[tuple[str, Image.Image]]:
    """Spread and true error, each in colours from 0 to its own 99th percentile; nothing where there are no maps."""
    spread = item.draw_spread(size)
    if spread is None:
        return []
    known = error[np.isfinite(error)]
    top = max(float(np.percentile(known, 99)), 1e-6) if known.size else 1.0
    return [("uncertainty", spread), ("true error", fit_square(heat_map(error, 0, top), size, smooth=False))]


def write_ensembles(folder: Path, title: str, study: EnsembleStudy, paths: PathStudy | None) -> Path:
    """Write ``ensemble.json``, ``ensemble.md``, a picture ``<target>.png`` for each target, and a page."""
    tables = {MERGING: ensemble_table(study), UNCERTAINTY: uncertainty_table(study)}
    if paths is not None:
        tables[PATHS] = path_table(paths)
    sections = [
        Section(name, text, tables=[Table(*table)])
        for name, (text, table) in zip(("Errors", "Uncertainty", "Other paths"), tables.items(), strict=False)
    ]
    for target, pairs in study.items.items():
        sheet = draw_ensembles(pairs[:SHOWN], SIZE)
        _save(sheet, folder / f"{target}.png")
        sections.append(Section(get_modality(target).card.title, wide=[Panel(target, [Picture("", sheet)])]))
    _write_tables(folder / "ensemble.md", tables)
    content = {"model": title, **study.to_dict(), "paths": paths.to_dict() if paths else None}
    write_json(folder / "ensemble.json", content)
    page = folder / "index.html"
    write_page(
        page, f"{title}: ensembles of {study.samples}", "", sections, "Numbers: ensemble.json, beside this page."
    )
    return page


# -- tuned chains -----------------------------------------------------------------------------------------------------
def write_trials(folder: Path, search: Search) -> None:
    """Write what was tried so far, ``trials.json``, and the best plan, ``plan.json`` (for ``read_plan``)."""
    write_json(folder / "trials.json", {"settings": search.settings(), "trials": [t.to_dict() for t in search.trials]})
    write_json(folder / PLAN_FILE, {"plan": search.best.plan.to_dict()})


def write_tuned(folder: Path, search: Search, comparison: Comparison) -> None:
    """Write ``report.md`` and ``report.json``: the tuned plan on other scenes, and everything that was tried."""
    won = f"The tuned plan is better in {comparison.wins:.0%} of the random choices of these scenes."
    tables = {
        f"{comparison.count} scenes that the search did not see. {won}": comparison_table(search.target, comparison),
        f"Tried on {len(search.samples)} other scenes.": trial_table(search),
    }
    _write_tables(folder / "report.md", tables)
    write_json(folder / "report.json", {"target": search.target, **search.settings(), **comparison.to_dict()})


def _write_tables(path: Path, tables: Mapping[str, Rows]) -> None:
    parts = [f"{text}\n\n{markdown_table(*table, left=2)}" for text, table in tables.items()]
    write_bytes(path, "\n".join(parts).encode())


def _save(image: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)
