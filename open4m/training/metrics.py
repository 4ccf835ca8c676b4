"""Where numbers of a run go: ``metrics.jsonl``, the terminal, TensorBoard on request."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from open4m.errors import MissingExtraError
from open4m.files import write_bytes


class MetricsLog:
    """Appends one JSON object per record to ``<out>/metrics.jsonl``; use as a context manager.

    Each record has ``step``, ``elapsed`` (s), ``phase`` (``train`` or ``validation``) and the numbers. Records
    after ``step``, written by a run that was killed after its last checkpoint, are dropped on opening.
    Only the main process of a run writes.
    """

    def __init__(self, out: Path, step: int, tensorboard: bool, is_main: bool) -> None:
        self._path = out / "metrics.jsonl" if is_main else Path(os.devnull)
        self._writer: Any = _tensorboard_writer(out) if tensorboard and is_main else None
        if is_main:
            lines = self._path.read_text().splitlines() if self._path.exists() else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            write_bytes(self._path, "".join(f"{line}\n" for line in kept).encode())
        self._file = self._path.open("a")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._writer is not None:
            self._writer.close()

    def write(self, phase: str, step: int, elapsed: float, values: dict[str, float]) -> None:
        """Append a record."""
        record = {"step": step, "elapsed": round(elapsed, 2), "phase": phase}
        self._file.write(json.dumps(record | {k: float(f"{v:.6g}") for k, v in values.items()}) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{phase}/{name}", value, step)


def _tensorboard_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("Logging to TensorBoard", "train", "tensorboard") from error
    return SummaryWriter(str(out / "tensorboard"))


def progress_bar(shown: bool) -> Progress:
    """A bar with free text, elapsed and remaining time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), disable=not shown)
