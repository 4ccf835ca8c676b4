"""A report as a page: the table of scores, then the first samples, prediction beside truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open4m.app.page import Section, Table, write_page
from open4m.app.panels import background_of, comparisons, value_panel
from open4m.evaluation.evaluate import Report
from open4m.evaluation.tables import HEADER, rows

SHOWN = 4
"""Samples whose pictures are on the page."""


def write_gallery(
    path: Path, report: Report, samples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> None:
    """Write the page. ``samples`` and ``predictions`` are in the order of the evaluation."""
    scores = Section(
        "Scores",
        "Beside the model: the mean map of other pictures, the truth of another picture, and the truth after its own "
        "tokenizer, which no prediction in tokens can be expected to beat.",
        tables=[Table(HEADER, rows(report))],
    )
    pictures = [
        Section(
            f"Sample {index}",
            given=[
                value_panel(name, truth[name], background_of(truth) if "rgb" in report.inputs else None, "given")
                for name in report.inputs
            ],
            panels=comparisons(predicted, truth, [entry.target for entry in report.targets], {}),
        )
        for index, (truth, predicted) in enumerate(zip(samples[:SHOWN], predictions[:SHOWN], strict=True))
    ]
    title = f"{report.model}: {', '.join(report.inputs)} into everything"
    footer = f"{report.samples} samples of {report.data}; generation seed {report.seed}."
    write_page(path, title, "", [scores, *pictures], footer)
