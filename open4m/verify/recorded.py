"""Folders of recorded outputs: read strictly, and it is remembered what was used."""

from __future__ import annotations

import json
import lzma
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from open4m.errors import DataError

PACKED = ".xz"
"""Files may be packed, as some in ``tests/golden`` are: ``model.safetensors.xz``."""


class Entries(dict[str, Any]):
    """Entries of one file. A missing one is an error that names the file; those that were read are remembered."""

    def __init__(self, values: Iterable[tuple[str, Any]], path: Path) -> None:
        super().__init__(values)
        self.path = path
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        if key not in self:
            raise DataError(f"{self.path}: there is no entry {key!r}. Is the file complete, and of the same run?")
        self.read.add(key)
        return super().__getitem__(key)

    def below(self, prefix: str) -> Entries:
        """The entries ``prefix.<rest>``, by ``<rest>``."""
        found = {key[len(prefix) + 1 :]: self[key] for key in self if key.startswith(f"{prefix}.")}
        return Entries(found.items(), self.path)

    def whole(self) -> dict[str, Any]:
        """All entries; all count as read."""
        return {key: self[key] for key in self}


class Recorded:
    """A folder of reference outputs: ``path`` with all files unpacked, ``source`` as the user named it."""

    def __init__(self, path: Path, source: Path | None = None) -> None:
        self.path = path
        self.source = source or path
        self._tensors: dict[str, Entries] = {}

    def tensors(self, name: str) -> Entries:
        """All tensors of a safetensors file, as stored."""
        if name not in self._tensors:
            self._tensors[name] = Entries(_load_tensors(self._file(name)).items(), self.path / name)
        return self._tensors[name]

    def json(self, name: str) -> Any:
        """A JSON file."""
        path = self._file(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: Entries(pairs, path))
        except ValueError as error:
            raise DataError(f"{path}: not a JSON file ({error}). Copy it again.") from error

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    def unread(self) -> list[str]:
        """Tensors of the files read so far that were never looked at."""
        return [key for entries in self._tensors.values() for key in entries if key not in entries.read]

    def _file(self, name: str) -> Path:
        if not self.has(name):
            raise DataError(f"{self.path}: there is no {name}. The folder is incomplete; copy it again.")
        return self.path / name


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error}). Copy it again.") from error


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """``folder``, or a temporary copy of it in which its packed files are plain ones."""
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder. Check the path.")
    if not list(folder.glob(f"*{PACKED}")):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.name
        unpack(folder, copy)
        yield copy


def unpack(folder: Path, target: Path) -> None:
    """Copy ``folder`` to ``target``, packed files as plain ones."""
    target.mkdir()
    for file in folder.iterdir():
        if file.suffix != PACKED:
            shutil.copyfile(file, target / file.name)
            continue
        try:
            with lzma.open(file) as packed, (target / file.stem).open("wb") as plain:
                shutil.copyfileobj(packed, plain)
        except (lzma.LZMAError, EOFError) as error:
            raise DataError(f"{file}: not a readable xz file ({error}). Copy it again.") from error
