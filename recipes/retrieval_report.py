"""How well everything is found by everything: docs/retrieval-results.md, of several galleries of held-out scenes.

python -m recipes.retrieval_report
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import Progress

from open4m import load
from open4m.evaluation import evaluation_samples, retrieval
from open4m.evaluation.heldout import VIEWS
from open4m.evaluation.retrieval import COUNT, header_and_rows, summary
from open4m.evaluation.tables import markdown_table
from open4m.files import write_bytes


@dataclass(frozen=True)
class RetrievalReport:
    """What is searched.

    Attributes:
        model: name or folder.
        out: file of the document.
        galleries: of ``count`` held-out scenes each; those that do not ship are rendered on first use.
        count: scenes in a gallery.
        batch_size: scenes embedded together.
    """

    model: str = "scenes-tiny"
    out: Path = Path("docs/retrieval-results.md")
    galleries: int = 3
    count: int = COUNT
    batch_size: int = 16


def main(report: RetrievalReport) -> None:
    """Search, write the table."""
    model = load(report.model)
    samples, source = evaluation_samples(model, limit=report.galleries * report.count)
    with Progress() as bars:
        bar = bars.add_task("retrieval")

        def tell(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total)

        found = retrieval(model, samples, report.count, views=VIEWS, batch_size=report.batch_size, progress=tell)
    options = f"--model {report.model} --galleries {report.galleries} --count {report.count}"
    parts = (
        f"# Retrieval by {report.model}: what was measured",
        f"`python -m recipes.retrieval_report {options}`, {source}.",
        summary(found),
        markdown_table(*header_and_rows(found)),
    )
    write_bytes(report.out, ("\n\n".join(parts) + "\n").encode())
    Console().print(summary(found), highlight=False)


if __name__ == "__main__":
    main(tyro.cli(RetrievalReport, description=__doc__))
