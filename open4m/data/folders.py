"""Data sets as plain folders, the published hierarchical layout ``ROOT/<split>/<name>/<class>/<file>.<ext>``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open4m.data.shards import ShardWriter
from open4m.errors import DataError


def pack_folders(root: str | Path, split: str, out: str | Path, names: Sequence[str], shard_size: int = 1000) -> int:
    """Write the files of ``ROOT/<split>/<name>/<class>/`` as shards ``OUT/<split>/<name>/shard-*.tar``.

    A sample is made of the files with the same class folder and the same name up to the first dot; its key joins
    the two by ``__``. Samples are sorted by class and name.

    Returns:
        The number of samples.

    Raises:
        DataError: a folder is missing or empty, or a sample lacks a file.
    """
    tables = {name: _files(Path(root) / split / name) for name in names}
    (first, reference), *others = tables.items()
    for name, table in others:
        odd = sorted(set(table) ^ set(reference))
        if odd:
            lacking = name if odd[0] in reference else first
            folder = Path(root) / split / lacking
            raise DataError(f"{folder}: no file {'/'.join(odd[0])}.*, though another folder has it ({len(odd)} such).")
    with ShardWriter(out, split, names, shard_size) as writer:
        for key in sorted(reference):
            paths = {name: table[key] for name, table in tables.items()}
            files = {name: (path.name.partition(".")[2], path.read_bytes()) for name, path in paths.items()}
            writer.write("__".join(key), files)
    return len(reference)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """(class, stem) → path of every file of a modality."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.glob("*/*")):
        key = (path.parent.name, path.name.partition(".")[0])
        if key in found:
            raise DataError(f"{path}: {found[key].name} is a second file of the same sample. Remove one of them.")
        found[key] = path
    if not found:
        raise DataError(f"{folder}: no files. Expected {folder}/<class>/<file>.")
    return found
