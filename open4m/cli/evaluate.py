"""``open4m evaluate``: scores on held-out data."""

from __future__ import annotations

import json as json_module
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from tyro.conf import Positional

from open4m.errors import UnknownNameError


def evaluate(
    model: Positional[str] = "scenes-tiny",
    *,
    data: Path | None = None,
    split: str = "heldout",
    given: tuple[str, ...] = ("rgb",),
    to: tuple[str, ...] = (),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Score a model on held-out samples, beside what it must beat and what its tokenizers allow.

    Args:
        model: name or folder of the model.
        data: root of a data set; default: the held-out scenes that ship with the package.
        split: its split. Never give a split the model was trained on.
        given: modalities the model sees.
        to: modalities to score; default: all others.
        limit: only the first so many samples.
        seed: of the generation.
        batch_size: samples generated together.
        out: write report.json, report.md and a gallery (index.html) here.
        json: print JSON instead of a table.
    """
    import open4m
    from open4m.app.demo import HELDOUT
    from open4m.app.gallery import write_gallery
    from open4m.data.shards import folder_names
    from open4m.evaluation import evaluate as score
    from open4m.evaluation import read_values
    from open4m.evaluation.tables import HEADER, markdown, rows
    from open4m.files import write_bytes, write_json

    root = data or HELDOUT
    loaded = open4m.load(model)
    wanted = [*given, *(to or [t for t in loaded.targets if t not in given])]
    present = set(folder_names(root, split))
    for name in (*given, *to):
        if name not in present:
            raise UnknownNameError(f"folder of {root / split}", name, present)
    names = [n for n in wanted if n in present]
    overlay = ["rgb"] if "rgb" in present and "rgb" not in names else []
    samples = [loaded.view(sample) for sample in read_values(root, split, [*names, *overlay], limit)]
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=json or not console.is_terminal) as progress:
        task = progress.add_task("", total=len(samples))
        report, predictions = score(
            loaded,
            samples,
            given,
            names[len(given) :],
            data=f"{root.name}/{split}",
            seed=seed,
            batch_size=batch_size,
            progress=lambda count: progress.advance(task, count),
        )
    if out is not None:
        write_json(out / "report.json", report.to_dict())
        write_bytes(out / "report.md", markdown(report).encode())
        write_gallery(out / "index.html", report, samples, predictions)
    if json:
        print(json_module.dumps(report.to_dict(), indent=2))
        return
    title = f"{report.model} on {report.samples} samples of {report.data}, given {', '.join(given) or 'nothing'}"
    table = Table(Column(HEADER[0], no_wrap=True), *HEADER[1:], title=escape(title))
    for row in rows(report):
        table.add_row(*map(escape, row))
    Console().print(table)
