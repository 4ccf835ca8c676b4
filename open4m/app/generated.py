"""What ``open4m generate`` made, as a page: the inputs as the model saw them, and every output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from open4m.app.page import Panel, Picture, Section, write_page
from open4m.app.panels import SIZE, generated_panels, given_panels
from open4m.generation.ensemble import ENSEMBLE_FILE, Ensemble, MergedItem
from open4m.generation.pipeline import AnyToAny
from open4m.generation.result import Result
from open4m.generation.stored import PLAN_FILE
from open4m.streams import StreamKind


def given_values(model: AnyToAny, result: Result) -> dict[str, Any]:
    """Modality → value of what the first sample of a result was given, as far as its tokens tell.

    Left out are vectors, which are no tokens, and grids of which a part was hidden.
    """
    canvas, found = result.given.canvas, {}
    for name, track in canvas.tracks.items():
        spec = canvas.spec(name)
        if spec.kind is StreamKind.SEQUENCE:
            found[spec.modality] = model.codecs.value(spec, track.ids[0][track.known[0]])
        elif spec.kind is StreamKind.TOKENS and bool(track.known[0].all()):
            found[spec.modality] = model.codecs.value(spec, track.ids[0])
    picture = result.given.pictures[0]
    return found if picture is None else {"rgb": np.asarray(picture), **found}


def write_generated(path: Path, model: AnyToAny, given: Mapping[str, Any], result: Result, title: str) -> None:
    """Write the page.

    Args:
        given: the inputs of one sample, :meth:`~open4m.generation.pipeline.AnyToAny.view`.
        result: its outputs; several samples are variations.
        title: heading, such as the name of the picture.
    """
    columns = [generated_panels([sample[name] for sample in result.samples]) for name in result]
    shown = given_panels(given, given)
    sections = [
        Section(f"Seed {sample.seed}", given=shown, panels=[column[row] for column in columns])
        for row, sample in enumerate(result.samples)
    ]
    write_page(path, title, "", sections, _footer(model, result, PLAN_FILE))


def write_ensemble(path: Path, model: AnyToAny, given: Mapping[str, Any], ensemble: Ensemble, title: str) -> None:
    """As :func:`write_generated`: every modality merged, its uncertainty, and the samples that it was made of."""
    samples = [generated_panels(item.items) for item in ensemble.values()]
    sections = [
        Section("Merged", MERGED, given=given_panels(given, given), panels=[_merged(i) for i in ensemble.values()]),
        *(Section(f"Samples: {panels[0].title}", panels=panels) for panels in samples),
    ]
    intro = f"{len(ensemble.result.samples)} samples of one input."
    write_page(path, title, intro, sections, _footer(model, ensemble.result, ENSEMBLE_FILE))


MERGED = "Beside each value: where the samples disagree, from blue (not at all) to red."


def _merged(item: MergedItem) -> Panel:
    panel = generated_panels([item.item])[0]
    spread = item.draw_spread(SIZE)
    if spread is None:
        return Panel(panel.title, panel.pictures, [("uncertainty", f"{item.merged.uncertainty:.3g} {item.unit}")])
    return Panel(panel.title, [*panel.pictures, Picture("uncertainty", spread, item.describe())])


def _footer(model: AnyToAny, result: Result, file: str) -> str:
    licences = dict.fromkeys([*result.plan.licences, *(result.super_resolution or result.plan).licences])
    footer = f"Model {model.bundle.info.name}: {model.bundle.info.description}\nLicences of the weights:\n"
    footer += "\n".join(licences)
    return footer + f"\n{file}, beside this page, says how everything was generated."
