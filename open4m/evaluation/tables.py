"""Reports as tables: for the terminal, for Markdown, for pages."""

from __future__ import annotations

import math
from collections.abc import Sequence

from open4m.evaluation.evaluate import Report, Scores
from open4m.modalities.registry import get_modality

HEADER = ("target", "score", "model", "mean map", "another picture", "tokenizer bound")


def rows(report: Report) -> list[tuple[str, ...]]:
    """One row per target and metric; the arrow tells which direction is better."""
    table: list[tuple[str, ...]] = []
    for entry in report.targets:
        for metric, how in get_modality(entry.target).card.metrics.items():
            if metric not in entry.model:
                continue
            unit = f" [{how.unit}]" if how.unit else ""
            arrow = "↑" if how.higher_is_better else "↓"
            columns = (
                entry.model,
                entry.baselines.get("mean map"),
                entry.baselines.get("another picture"),
                entry.bound,
            )
            table.append((entry.target, f"{metric}{unit} {arrow}", *(_cell(scores, metric) for scores in columns)))
    return table


def markdown(report: Report) -> str:
    """A Markdown table."""
    lines = [_line(HEADER), _line(["---"] * 2 + ["---:"] * (len(HEADER) - 2))]
    return "\n".join([*lines, *map(_line, rows(report))]) + "\n"


def number(value: float) -> str:
    """Three significant digits, as a person would write it; a dash for what does not exist (NaN)."""
    if math.isnan(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _cell(scores: Scores | None, metric: str) -> str:
    return "–" if scores is None or metric not in scores else number(scores[metric])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
