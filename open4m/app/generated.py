"""What ``open4m generate`` made, as a page: the inputs as the model saw them, and every output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open4m.app.page import Section, write_page
from open4m.app.panels import background_of, generated_panel, given_panels
from open4m.generation.pipeline import AnyToAny
from open4m.generation.result import PLAN_FILE, Result


def write_generated(path: Path, model: AnyToAny, given: Mapping[str, Any], result: Result, title: str) -> None:
    """Write the page.

    Args:
        given: the inputs of one sample, :meth:`~open4m.generation.pipeline.AnyToAny.view`.
        result: its outputs; several samples are variations.
        title: heading, such as the name of the picture.
    """
    sections, shown = [], given_panels(given, given)
    for sample in result.samples:
        values = {name: sample[name].value for name in sample}
        background = background_of({**values, **given})
        panels = [generated_panel(name, value, background) for name, value in values.items()]
        sections.append(Section(f"Seed {sample.seed}", given=shown, panels=panels))
    info = model.bundle.info
    footer = (
        f"Model {info.name}: {info.description}\nLicence of the weights: {info.licence} ({info.licence_url})\n"
        f"{PLAN_FILE}, beside this page, says how everything was generated."
    )
    write_page(path, title, "", sections, footer)
