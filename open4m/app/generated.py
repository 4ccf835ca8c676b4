"""What ``open4m generate`` made, as a page: the inputs as the model saw them, and every output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open4m.app.page import Section, write_page
from open4m.app.panels import generated_panels, given_panels
from open4m.generation.pipeline import AnyToAny
from open4m.generation.result import PLAN_FILE, Result


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
    licences = dict.fromkeys([*result.plan.licences, *(result.super_resolution or result.plan).licences])
    footer = f"Model {model.bundle.info.name}: {model.bundle.info.description}\nLicences of the weights:\n"
    footer += "\n".join(licences)
    footer += f"\n{PLAN_FILE}, beside this page, says how everything was generated."
    write_page(path, title, "", sections, footer)
