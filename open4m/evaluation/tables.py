"""Reports as tables: for the terminal, for Markdown, for pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from open4m.evaluation.evaluate import Report, label
from open4m.evaluation.matrix import Matrix
from open4m.evaluation.measures import DETAIL, Scores, metrics


def header(report: Report) -> tuple[str, ...]:
    """Titles of the columns of :func:`rows`."""
    return (
        *("target", "score", "constant"), *(f"from {label(g) or 'nothing'}" for g in report.requests),
        *("bound", "count"),
    )  # fmt: skip


def rows(report: Report, details: bool = False) -> list[tuple[str, ...]]:
    """One row per target and metric; the arrow tells which direction is better.

    Args:
        details: the metrics that look at parts of a target (single metadata fields), instead of the others.
    """
    return [
        (
            entry.target,
            f"{name}{f' [{how.unit}]' if how.unit else ''} {'↑' if how.higher_is_better else '↓'}",
            _cell(entry.constant, name),
            *(_cell(entry.model.get(label(given), {}), name) for given in report.requests),
            _cell(entry.bound, name),
            str(entry.count),
        )
        for entry in report.targets
        for name, how in metrics(entry.target).items()
        if (DETAIL in name) == details
    ]


def matrix_rows(matrix: Matrix) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the raw values of a matrix."""
    head = ("given", *(f"{target} {matrix.metric[target]}" for target in matrix.targets))
    return head, [(name, *map(number, row)) for name, row in zip(matrix.given, matrix.values, strict=True)]


def share_rows(matrix: Matrix) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a matrix in percent of the way from the constant to the bound."""
    shares = [["–" if math.isnan(s) else f"{100 * s:.0f}" for s in row] for row in matrix.shares]
    return ("given", *matrix.targets), [(name, *row) for name, row in zip(matrix.given, shares, strict=True)]


def markdown(report: Report, details: bool = False) -> str:
    """The table as Markdown."""
    return markdown_table(header(report), rows(report, details), left=2)


def markdown_table(head: Sequence[str], table: Sequence[Sequence[str]], left: int = 1) -> str:
    """Any table as Markdown; the first ``left`` columns are text, the others numbers."""
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float) -> str:
    """Three significant digits, as a person would write it; a dash for what does not exist (NaN)."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _cell(scores: Scores, metric: str) -> str:
    return number(scores.get(metric, math.nan))
