"""A report as a page: the table of scores, then the first samples, prediction beside truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open4m.app.page import Section, Table, write_page
from open4m.app.panels import comparisons, given_panels
from open4m.evaluation.evaluate import Report
from open4m.evaluation.tables import HEADER, rows

SHOWN = 4
"""Samples whose pictures are on the page."""


def write_gallery(
    path: Path, report: Report, samples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]
) -> None:
    """Write the page. ``samples`` and ``predictions`` are those of the evaluation, in its order."""
    scores = Section(
        "Scores",
        "Beside the model: the mean map of other pictures, the truth of another picture, and the truth after its own "
        "tokenizer, which no prediction in tokens can be expected to beat.",
        tables=[Table(HEADER, rows(report))],
    )
    targets = [entry.target for entry in report.targets]
    pictures = [
        Section(f"Sample {index}", given=given_panels(truth, report.inputs), panels=comparisons(found, truth, targets))
        for index, (truth, found) in enumerate(zip(samples[:SHOWN], predictions[:SHOWN], strict=True))
    ]
    title = f"{report.model}: {', '.join(report.inputs) or 'nothing'} into {', '.join(targets)}"
    footer = f"{report.samples} samples of {report.data}; generation seed {report.seed}."
    write_page(path, title, "", [scores, *pictures], footer)
