"""``open4m evaluate``: scores on held-out data."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import OmitArgPrefixes, Positional

from open4m.cli.bars import Bars
from open4m.cli.options import Loading

if TYPE_CHECKING:
    from open4m.evaluation import Report, Retrieval


def evaluate(
    model: Positional[str] = "scenes-tiny",
    *,
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    data: Path | None = None,
    split: str = "heldout",
    given: tuple[str, ...] = (),
    to: tuple[str, ...] = (),
    limit: int | None = None,
    matrix_count: int = 32,
    retrieval_count: int = 300,
    chained: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    json: str | None = None,
) -> None:
    """Score a model on held-out samples, beside what it must beat and what its tokenizers allow.

    Args:
        model: name or folder of the model.
        loading: how the model is loaded.
        data: root of a data set; default: 300 held-out scenes (72 ship with the package; the others are rendered on
            first use and kept in the user's cache folder, without features).
        split: split of ``data``. Never give a split the model was trained on.
        given: modalities the model sees, together; default: once the picture and once the caption, and each modality
            alone for the any-to-any matrix.
        to: modalities to score; default: all.
        limit: only the first so many samples.
        matrix_count: samples of the any-to-any matrix; 0 leaves it out.
        retrieval_count: samples of a gallery, in which each is searched by each of its modalities, and by pairs; there
            are as many galleries as the samples fill. 0 leaves retrieval out, as do --given and --to.
        chained: generate as ``open4m generate`` does (slow); default: each target straight from what is given.
        seed: of the generation.
        batch_size: samples generated together.
        out: write report.json, report.md, matrix.png and a gallery (index.html) into this folder.
        json: write the scores to this file; "-" prints them instead of the table.
    """
    from open4m.app.gallery import write_report
    from open4m.evaluation import any_to_any, evaluation_samples
    from open4m.evaluation import evaluate as score
    from open4m.evaluation.evaluate import REQUESTS
    from open4m.evaluation.heldout import views_in_a_row
    from open4m.evaluation.retrieval import can_retrieve, retrieval
    from open4m.files import write_json

    loaded = loading.load(model)
    samples, source = evaluation_samples(loaded, data, split, limit, needed=(*given, *to))
    requests = [given] if given else REQUESTS
    with Bars(quiet=json == "-") as bars:
        report, predictions = score(
            loaded, samples, requests, to or None,
            data=source, seed=seed, batch_size=batch_size, chained=chained, progress=bars.tell,
        )  # fmt: skip
        matrix = None
        if not given and matrix_count:
            matrix = any_to_any(loaded, samples, report, matrix_count, batch_size=batch_size, progress=bars.tell)
        retrieved = None
        if not given and not to and retrieval_count and can_retrieve(loaded, samples):
            views = views_in_a_row(data)
            retrieved = retrieval(
                loaded, samples, retrieval_count, views=views, batch_size=batch_size, progress=bars.tell
            )
    result = report.to_dict() | {
        "matrix": matrix.to_dict() if matrix else None,
        "retrieval": retrieved.to_dict() if retrieved else None,
    }
    if out is not None:
        write_json(out / "report.json", result)
        write_report(out, report, matrix, samples, predictions, retrieved)
    if json == "-":
        print(json_module.dumps(result, indent=2))
        return
    if json is not None:
        write_json(json, result)
    _print(report, retrieved)


def _print(report: Report, retrieved: Retrieval | None) -> None:
    from open4m.evaluation.retrieval import header_and_rows, summary
    from open4m.evaluation.tables import header, rows

    title = f"{report.model} on {report.samples} samples of {report.data}"
    _print_table(title, header(report), rows(report))
    if retrieved is not None:
        _print_table("Retrieval", *header_and_rows(retrieved))
        Console().print(summary(retrieved), highlight=False)


def _print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    first, *others = header
    table = Table(Column(first, no_wrap=True), *others, title=escape(title))
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console()
    console.print(table, width=None if console.is_terminal else 120)
