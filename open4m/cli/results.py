"""What the commands that generate have in common: progress, files, pages, the last lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

if TYPE_CHECKING:
    from open4m.generation import AnyToAny, Result
    from open4m.generation.engine import Progress as Told
    from open4m.generation.ensemble import Ensemble


class Results:
    """Writes results and tells about them: lines on stderr, or one JSON object on stdout.

    Args:
        model: that makes them.
        as_json: print JSON instead of text.
    """

    def __init__(self, model: AnyToAny, as_json: bool) -> None:
        self._model, self._as_json = model, as_json
        self._console = Console(stderr=True)
        self._bars = Progress(console=self._console, disable=as_json or not self._console.is_terminal)
        self._written: list[dict[str, Any]] = []

    def progress(self, name: str) -> Told:
        """A bar for one input, called ``name``."""
        task = self._bars.add_task(escape(name), total=None)

        def update(target: str, done: int, total: int) -> None:
            self._bars.update(task, description=escape(f"{name}: {target}"), completed=done, total=total)

        return update

    def write(self, result: Result, folder: Path, title: str, given: Mapping[str, Any] | None = None) -> None:
        """Files of a result, and a page with what was ``given`` (default: as its tokens say)."""
        from open4m.app.generated import given_values, write_generated

        result.save(folder)
        shown = given_values(self._model, result) if given is None else given
        write_generated(self._page(folder, result), self._model, shown, result, title)

    def write_ensemble(self, merged: Ensemble, folder: Path, title: str, given: Mapping[str, Any]) -> None:
        """As :meth:`write`, for samples that were merged."""
        from open4m.app.generated import write_ensemble

        merged.save(folder)
        write_ensemble(self._page(folder, merged.result), self._model, given, merged, title)

    def _page(self, folder: Path, result: Result) -> Path:
        """Path of the page, which is told in the end."""
        page, targets = folder / "index.html", list(result.plan.requested)
        self._written.append({"folder": str(folder), "page": str(page), "targets": targets, "seeds": [*result.seeds]})
        return page

    def __enter__(self) -> Results:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
        if kind is not None:
            return
        info = self._model.bundle.info
        if self._as_json:
            print(json.dumps({"model": info.name, "licence": info.licence, "results": self._written}, indent=2))
            return
        self._console.print(escape(f"licence of the weights: {info.licence}"), highlight=False)
        for entry in self._written:
            self._console.print(f"[bold green]done[/] {escape(entry['page'])}", highlight=False, soft_wrap=True)
