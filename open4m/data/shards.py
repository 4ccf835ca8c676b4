"""Data sets on disk: tar shards, one folder per modality, the same keys in the same order in every folder.

Layout (published sharded layout of 4M): ``ROOT/<split>/<name>/shard-00000.tar`` with members ``<key>.<ext>``.
"""

from __future__ import annotations

import io
import os
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from open4m.errors import DataError, UnknownNameError


@dataclass(frozen=True)
class Sample:
    """The files of one sample: folder name → (file ending without dot, content)."""

    key: str
    files: dict[str, tuple[str, bytes]]


def shard_path(root: str | Path, split: str, name: str, index: int) -> Path:
    """Where shard ``index`` of folder ``name`` lies."""
    return Path(root) / split / name / f"shard-{index:05d}.tar"


def finished_shards(root: str | Path, split: str, names: Sequence[str]) -> set[int]:
    """Numbers of the shards that exist in *every* folder of ``names``."""
    present = [set(_shards(Path(root) / split / name)) for name in names]
    return set.intersection(*present) if present else set()


def shard_keys(root: str | Path, split: str, name: str, index: int) -> list[str]:
    """The keys in shard ``index`` of one folder, in their order; raises :class:`DataError` if it is damaged."""
    return [member.key for member in _index(_shards(Path(root) / split / name)[index])]


def folder_names(root: str | Path, split: str) -> tuple[str, ...]:
    """The folders of a split that hold shards, sorted."""
    folder = Path(root) / split
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such split. Expected folders <name>/shard-00000.tar inside it.")
    return tuple(sorted(f.name for f in folder.iterdir() if f.is_dir() and _shards(f)))


def _shards(folder: Path) -> dict[int, Path]:
    """Shard number → path, in order of the numbers."""
    found = {p.stem.removeprefix("shard-"): p for p in folder.glob("shard-*.tar")}
    return dict(sorted((int(number), path) for number, path in found.items() if number.isdigit()))


class ShardWriter:
    """Writes samples into shards of all folders at once; use as a context manager.

    The shards are written under temporary names and renamed when all of them are complete, so no half-written
    shard is ever visible. Leaving the ``with`` block by an exception discards the unfinished shard. The bytes
    written depend on the samples only (no time stamps), so that the same data gives the same files.

    Args:
        root, split: the shards go to ``ROOT/<split>/<name>/``.
        names: folders; every sample must have exactly one file for each.
        shard_size: samples per shard.
        first_shard: number of the first shard written, for resuming and for parallel writers.
    """

    def __init__(
        self, root: str | Path, split: str, names: Sequence[str], shard_size: int = 1000, first_shard: int = 0
    ) -> None:
        if shard_size < 1 or not names or len(set(names)) != len(names):
            raise DataError(
                f"A shard writer needs distinct folder names and shard_size >= 1, got {names}, {shard_size}."
            )
        self._root, self._split, self._names = Path(root), split, tuple(names)
        self._shard_size, self._shard = shard_size, first_shard
        self._open: dict[str, tarfile.TarFile] = {}
        self._keys: set[str] = set()
        self._in_shard = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish_shard()
        else:
            self._discard_shard()

    def write(self, key: str, files: Mapping[str, tuple[str, bytes]]) -> None:
        """Append one sample: for every folder its file ending (without dot) and content.

        Raises:
            DataError: a folder is missing or unknown, or the key is unusable or repeated.
        """
        if set(files) != set(self._names):
            odd = sorted(set(files) ^ set(self._names))
            raise DataError(f"Sample {key!r}: expected exactly one file for each of {self._names}; at fault: {odd}.")
        if not key or "." in key or "/" in key or key in self._keys:
            raise DataError(f"Sample key {key!r} must be new, not empty, and free of '.' and '/'.")
        if not self._open:
            self._begin_shard()
        for name, (extension, data) in files.items():
            member = tarfile.TarInfo(f"{key}.{extension}")
            member.size = len(data)
            self._open[name].addfile(member, io.BytesIO(data))
        self._keys.add(key)
        self._in_shard += 1
        if self._in_shard == self._shard_size:
            self._finish_shard()

    def _temporary(self, name: str) -> Path:
        final = shard_path(self._root, self._split, name, self._shard)
        return final.with_name(f".{final.name}.{os.getpid()}.tmp")

    def _begin_shard(self) -> None:
        for name in self._names:
            path = self._temporary(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[name] = tarfile.open(path, "w")  # noqa: SIM115 – closed in _close

    def _close(self) -> None:
        for archive in self._open.values():
            archive.close()
        self._open, self._in_shard = {}, 0

    def _finish_shard(self) -> None:
        if not self._open:
            return
        self._close()
        for name in self._names:
            self._temporary(name).replace(shard_path(self._root, self._split, name, self._shard))
        self._shard += 1

    def _discard_shard(self) -> None:
        self._close()
        for name in self._names:
            self._temporary(name).unlink(missing_ok=True)


class _Member(NamedTuple):
    key: str
    extension: str
    offset: int
    size: int


def _index(path: Path) -> list[_Member]:
    """Where each member of a shard lies. Raises :class:`DataError` for a truncated or damaged file."""
    try:
        with tarfile.open(path, "r:") as archive:
            members = [_Member(*_split_name(m.name), m.offset_data, m.size) for m in archive if m.isfile()]
        end = max((m.offset + -(-m.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE for m in members), default=0)
        with path.open("rb") as file:
            file.seek(end)
            # The standard library takes a damaged header for the end of the archive; the end is a block of zeros.
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("no end-of-archive block after the last member")
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path}: truncated or damaged tar file ({error}). Write this shard again.") from error
    return members


def _split_name(name: str) -> tuple[str, str]:
    key, _, extension = name.removeprefix("./").partition(".")
    return key, extension


@dataclass(frozen=True)
class _Shard:
    """One shard of all folders: the common keys, and per folder the path and where the members lie."""

    keys: list[str]
    folders: dict[str, tuple[Path, list[_Member]]]


class ShardDataset:
    """Samples of a sharded data set, by number. Thread-safe, and cheap to send to another process.

    Only the positions of the members are held in memory; a read opens the file, reads and closes it, so that the
    number of open files does not grow with the data set.

    Args:
        root, split: reads ``ROOT/<split>/<name>/shard-*.tar``.
        names: the folders to read; default: all that hold shards.

    Raises:
        DataError: a folder or shard is missing, a shard is damaged, or two folders disagree about the keys.
    """

    def __init__(self, root: str | Path, split: str, names: Sequence[str] | None = None) -> None:
        self.root, self.split = Path(root), split
        self.names = folder_names(root, split) if names is None else tuple(names)
        self._shards = self._load()
        self._starts = [0, *accumulate(len(shard.keys) for shard in self._shards)]

    def _load(self) -> list[_Shard]:
        tables = {name: _shards(self.root / self.split / name) for name in self.names}
        numbers = sorted(set().union(*tables.values()))
        if not numbers:
            raise DataError(f"{self.root / self.split}: no shards in the folders {', '.join(self.names) or '(none)'}.")
        for name, table in tables.items():
            for number in (n for n in numbers if n not in table):
                missing = shard_path(self.root, self.split, name, number)
                raise DataError(f"{missing}: missing, while other folders have this shard. Write it, or all, again.")
        shards: list[_Shard] = []
        for number in numbers:
            folders = {name: (table[number], _index(table[number])) for name, table in tables.items()}
            shards.append(_Shard(_common_keys(folders), folders))
        return shards

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Sample:
        shard, row = self._locate(index)
        return Sample(shard.keys[row], {name: self._read(shard, row, name) for name in self.names})

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def key(self, index: int) -> str:
        """The key of sample ``index``."""
        shard, row = self._locate(index)
        return shard.keys[row]

    def read(self, index: int, name: str) -> tuple[str, bytes]:
        """File ending and content of one folder of sample ``index``."""
        return self._read(*self._locate(index), name)

    @property
    def shards(self) -> list[range]:
        """The numbers of the samples in each shard."""
        return [range(a, b) for a, b in pairwise(self._starts)]

    def _locate(self, index: int) -> tuple[_Shard, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self._shards[number], index - self._starts[number]

    def _read(self, shard: _Shard, row: int, name: str) -> tuple[str, bytes]:
        if name not in shard.folders:
            raise UnknownNameError("folder", name, self.names)
        path, members = shard.folders[name]
        member = members[row]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, member.size, member.offset)
        finally:
            os.close(descriptor)
        if len(data) != member.size:
            raise DataError(f"{path}: became shorter while in use: {member.key}.{member.extension} is cut off.")
        return member.extension, data


def _common_keys(folders: dict[str, tuple[Path, list[_Member]]]) -> list[str]:
    """The keys of a shard, which every folder must hold in the same order."""
    (first_path, first), *others = folders.values()
    keys = [m.key for m in first]
    for path, members in others:
        found = [m.key for m in members]
        if found != keys:
            row = next(
                (i for i, (a, b) in enumerate(zip(keys, found, strict=False)) if a != b), min(len(keys), len(found))
            )
            raise DataError(
                f"{path}: {len(found)} samples that do not match the {len(keys)} of {first_path} "
                f"(first difference at member {row}). All folders of a split need the same keys in the same order."
            )
    return keys
