"""Bars on the terminal, one for every stage of a long command."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bars(Progress):
    """One bar with a time estimate for every stage; on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        super().__init__(*columns, console=console, disable=quiet or not console.is_terminal)
        self._stages: dict[str, TaskID] = {}

    def tell(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of the stage ``what`` are finished."""
        if what not in self._stages:
            self._stages[what] = self.add_task(escape(what), total=total)
        self.update(self._stages[what], completed=done)
