"""A report as files: report.md, the any-to-any matrix as a picture, and a page with the first samples."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from open4m.app.heatmap import draw_matrix
from open4m.app.page import Panel, Picture, Section, Table, write_page
from open4m.app.panels import comparisons, given_panels
from open4m.evaluation.evaluate import Report, label
from open4m.evaluation.matrix import Matrix
from open4m.evaluation.retrieval import Retrieval, header_and_rows, summary
from open4m.evaluation.tables import header, markdown, markdown_table, matrix_rows, rows
from open4m.files import write_bytes

SHOWN = 4
"""Samples whose pictures are on the page."""

SCORES = (
    "constant: the strongest of several predictions made without looking, from other samples. from …: what the model "
    "sees. bound: the truth after its own tokenizer, which no prediction in tokens can be expected to beat. "
    "count: samples that hold the truth."
)
MATRIX = (
    "Every modality alone (rows) into every other one (columns), straight and in one step. White is the constant of "
    "the table, full blue its tokenizer bound, red worse than the constant."
)
DETAILS = ("Metadata, field by field", "Share of samples in which the field is off by at most three bins.")


def write_report(
    folder: Path,
    report: Report,
    matrix: Matrix | None,
    samples: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    retrieved: Retrieval | None = None,
) -> None:
    """Write ``report.md``, ``index.html`` and, where there is one, ``matrix.png``.

    Args:
        samples, predictions: of the evaluation, in its order.
        retrieved: a table of retrieval, where there is one.
    """
    parts = [f"# {_title(report)}\n", SCORES, "", markdown(report)]
    if matrix is not None:
        buffer = io.BytesIO()
        draw_matrix(matrix).save(buffer, format="PNG", optimize=True)
        write_bytes(folder / "matrix.png", buffer.getvalue())
        parts += ["## Any to any\n", MATRIX, "\n![Any-to-any matrix](matrix.png)\n"]
        parts.append(markdown_table(*matrix_rows(matrix)))
    if retrieved is not None:
        parts += ["## Retrieval\n", summary(retrieved), "", markdown_table(*header_and_rows(retrieved))]
    if rows(report, details=True):
        parts += [f"## {DETAILS[0]}\n", DETAILS[1], "", markdown(report, details=True)]
    write_bytes(folder / "report.md", "\n".join(parts).encode())
    write_gallery(folder / "index.html", report, matrix, samples, predictions, retrieved)


def write_gallery(
    path: Path,
    report: Report,
    matrix: Matrix | None,
    samples: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[Mapping[str, Any]]],
    retrieved: Retrieval | None = None,
) -> None:
    """Write the page."""
    sections = [Section("Scores", SCORES, tables=[Table(header(report), rows(report))])]
    if matrix is not None:
        panel = Panel("Given alone (rows), predicted (columns)", [Picture("", draw_matrix(matrix))])
        sections.append(Section("Any to any", MATRIX, wide=[panel]))
    if retrieved is not None:
        sections.append(Section("Retrieval", summary(retrieved), tables=[Table(*header_and_rows(retrieved))]))
    for given in report.requests:
        made = predictions[label(given)]
        for index in [i for i, found in enumerate(made) if found][:SHOWN]:
            shown, truth = given_panels(samples[index], given), samples[index]
            title = f"Sample {index} from {label(given) or 'nothing'}"
            sections.append(Section(title, given=shown, panels=comparisons(made[index], truth, made[index])))
    if rows(report, details=True):
        sections.append(Section(*DETAILS, tables=[Table(header(report), rows(report, details=True))]))
    footer = f"{report.samples} samples of {report.data}; generation seed {report.seed}."
    write_page(path, _title(report), "", sections, footer)


def _title(report: Report) -> str:
    return f"{report.model} on {report.samples} samples of {report.data}"
