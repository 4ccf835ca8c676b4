"""Writing files so that nothing half-written is ever left under its final name."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, on failure removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def filled_folder(folder: str | Path, *seals: str) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``; on success its files are moved in, on failure they are removed.

    The files ``seals`` (paths in it, to be written) say that the others belong together: earlier ones are removed
    before the first file is moved, and they are moved last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
        temporary = Path(name)
        yield temporary
        sealing = [temporary / seal for seal in seals]
        missing = [seal for seal in seals if not (temporary / seal).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: {', '.join(missing)} was not written.")
        for seal in seals:
            (folder / seal).unlink(missing_ok=True)
        others = sorted(p for p in temporary.rglob("*") if p.is_file() and p not in sealing)
        for path in [*others, *sealing]:
            final = folder / path.relative_to(temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            path.replace(final)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path`` atomically."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: str | Path) -> Any:
    """Read a JSON file (UTF-8)."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
