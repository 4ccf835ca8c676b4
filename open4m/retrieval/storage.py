"""The files of an index.

``index.json`` says how the vectors were made; ``part-00000.safetensors`` … hold them, each with the keys and stamps of
its items in the header. A part is written whole or not at all, so a killed run goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from open4m.errors import CheckpointError, DataError
from open4m.files import atomic_path, read_json
from open4m.retrieval.gallery import Stamp
from open4m.weights import header_metadata, read_weights

INDEX = "index.json"
FORMAT_VERSION = 1
PART, PART_SECONDS = 1024, 30.0
"""Items of a part, or the time after which one is written: what a killed run loses at most."""


@dataclass(frozen=True)
class Settings:
    """How the vectors of an index were made.

    Attributes:
        format_version: of the files.
        model: name of the model.
        spaces: which features the vectors are, side by side.
        modalities: what the items were looked at through.
        root, split: where they are (:func:`~open4m.retrieval.gallery.open_gallery`).
        weights_fingerprint: of the model and its tokenizers (:meth:`~open4m.retrieval.embedding.Embedder.fingerprint`).
    """

    format_version: int
    model: str
    spaces: tuple[str, ...]
    modalities: tuple[str, ...]
    root: str
    split: str | None
    weights_fingerprint: str


@dataclass(frozen=True)
class Part:
    """A file of vectors (n, D) and the keys and stamps of their n items."""

    path: Path
    items: list[tuple[str, Stamp]]
    vectors: Tensor


def read_settings(folder: Path) -> Settings:
    """How an index was made; raises :class:`DataError` if there is none, or it is damaged."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder}: there is no index ({INDEX} is missing). Make one: open4m index DIR --out {folder}")
    try:
        stored = read_json(path)
        if not isinstance(stored, dict) or set(stored) != {f.name for f in fields(Settings)}:
            raise ValueError("it has other entries than an index")
        if not all(
            isinstance(stored[name], str) for name in ("model", "root", "split", "weights_fingerprint") if stored[name]
        ):
            raise ValueError("an entry that should be a text is none")
        lists = {name: tuple(map(str, stored[name])) for name in ("spaces", "modalities")}
        return Settings(**{**stored, **lists})
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged, or no index of open4m ({error}). Index again into a new folder.") from error


def check_same(folder: Path, stored: Settings, current: Settings) -> None:
    """Refuse an index that was made in another way."""
    for name, found in asdict(stored).items():
        wanted = asdict(current)[name]
        if found != wanted:
            raise DataError(
                f"{folder}: this index was made with another {name.replace('_', ' ')}: {found}, not {wanted}. "
                "Use what it was made with, or index into a new folder."
            )


class PartWriter:
    """Collects vectors and writes a part when there are enough, or it has been long, or at the end."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._begin()

    def _begin(self) -> None:
        self._items: list[tuple[str, Stamp]] = []
        self._rows: list[np.ndarray] = []
        self._since = time.monotonic()

    def add(self, items: list[tuple[str, Stamp]], vectors: np.ndarray) -> None:
        """``vectors`` (n, D) of n items."""
        self._items += items
        self._rows.append(vectors)
        if len(self._items) >= PART or time.monotonic() - self._since > PART_SECONDS:
            self._write()

    def _write(self) -> None:
        numbers = [_part_number(path) for path in _part_paths(self._folder)]
        vectors = torch.from_numpy(np.concatenate(self._rows))
        _write_part(self._folder, max(numbers, default=-1) + 1, self._settings, self._items, vectors)
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._items:  # also after an error: what has been computed is kept
            self._write()


def _write_part(folder: Path, number: int, settings: Settings, items: list[tuple[str, Stamp]], vectors: Tensor) -> None:
    header = {"fingerprint": settings.weights_fingerprint, "items": json.dumps(items)}
    with atomic_path(folder / f"part-{number:05d}.safetensors") as temporary:
        save_file({"vectors": vectors.contiguous()}, temporary, header)


def _part_paths(folder: Path) -> list[Path]:
    """In order of their numbers."""
    return sorted((p for p in folder.glob("part-*.safetensors") if p.stem[5:].isdigit()), key=_part_number)


def _part_number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))


def read_parts(folder: Path, settings: Settings) -> Iterator[Part]:
    """The parts of an index; their vectors are mapped from the files."""
    for path in _part_paths(folder):
        try:
            header = header_metadata(path)
            if header.get("fingerprint") != settings.weights_fingerprint:
                raise ValueError("it belongs to another index")
            items = [(str(key), (int(size), int(time))) for key, (size, time) in json.loads(header.get("items", ""))]
            vectors = read_weights(path).get("vectors", torch.empty(0))
            if vectors.shape[:1] != (len(items),) or vectors.ndim != 2 or vectors.dtype != torch.float32:
                raise ValueError(f"vectors {vectors.dtype} {tuple(vectors.shape)} for {len(items)} items")
        except (ValueError, TypeError, CheckpointError) as error:
            raise DataError(f"{path}: damaged or foreign ({error}). Delete it, and index again.") from error
        yield Part(path, items, vectors)


def drop_stale(folder: Path, settings: Settings, stamps: dict[str, Stamp]) -> int:
    """Take items that are gone or have changed out of their parts; returns how many."""
    dropped = 0
    for part in read_parts(folder, settings):
        kept = [row for row, (key, stamp) in enumerate(part.items) if stamps.get(key) == stamp]
        if len(kept) == len(part.items):
            continue
        dropped += len(part.items) - len(kept)
        if kept:
            _write_part(
                folder, _part_number(part.path), settings, [part.items[row] for row in kept], part.vectors[kept]
            )
        else:
            part.path.unlink()
    return dropped
