"""Galleries: the things that are searched – files of a folder, or samples of a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from open4m.data.shards import ShardDataset, finished_shards, folder_names, shard_path
from open4m.errors import DataError, UnknownNameError
from open4m.modalities.features import FeatureVector
from open4m.modalities.registry import get_modality

Stamp = tuple[int, int]
"""Size and time of the last change of a file: another stamp means other content."""


class Gallery(ABC):
    """Items that have a key each, and values of one or several modalities.

    Attributes:
        root: folder of all files.
        modalities: what an item is looked at through.
    """

    def __init__(self, root: Path, modalities: tuple[str, ...]) -> None:
        self.root = root
        self.modalities = modalities

    @abstractmethod
    def stamps(self) -> dict[str, Stamp]:
        """Key → stamp of every item, in the order of the gallery."""

    @abstractmethod
    def value(self, key: str, modality: str) -> Any:
        """A value of an item; raises :class:`ModalityError` or :class:`DataError` if it is gone or damaged."""

    @property
    def shown(self) -> str:
        """The modality that an item is best shown as: the first that is more than a vector."""
        pictures = [name for name in self.modalities if not isinstance(get_modality(name), FeatureVector)]
        return (pictures or list(self.modalities))[0]


class FolderGallery(Gallery):
    """All files of one modality in a folder and the folders in it; the key is the path from there."""

    def stamps(self) -> dict[str, Stamp]:
        endings = tuple(f".{ending}" for ending in get_modality(self.modalities[0]).extensions)
        paths = sorted(path for path in self.root.rglob("*") if path.name.lower().endswith(endings) and path.is_file())
        inside = [(path.relative_to(self.root), path) for path in paths]
        return {
            name.as_posix(): _stamp(path)
            for name, path in inside
            if not any(part.startswith(".") for part in name.parts)  # hidden files are nobody's pictures
        }

    def value(self, key: str, modality: str) -> Any:
        return get_modality(modality).read(self.root / key)


class ShardGallery(Gallery):
    """The samples of a split of a data set in the published layout; the key is that of the sample."""

    def __init__(self, root: Path, modalities: tuple[str, ...], split: str) -> None:
        super().__init__(root, modalities)
        self.split = split
        present = folder_names(root, split)
        for name in modalities:
            if name not in present:
                raise UnknownNameError(f"folder of {root / split}", name, present)
        also = ("rgb",) if "rgb" in present and "rgb" not in modalities else ()
        self._dataset = ShardDataset(root, split, (*modalities, *also))

    @cached_property
    def _rows(self) -> dict[str, int]:
        rows = {self._dataset.key(row): row for row in range(len(self._dataset))}
        if len(rows) < len(self._dataset):
            raise DataError(f"{self.root / self.split}: several samples have the same key. Give each a key of its own.")
        return rows

    def stamps(self) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        numbers = sorted(finished_shards(self.root, self.split, self.modalities))
        for number, rows in zip(numbers, self._dataset.shards, strict=True):
            files = [_stamp(shard_path(self.root, self.split, name, number)) for name in self.modalities]
            stamp = (sum(size for size, _ in files), max(time for _, time in files))
            found |= {self._dataset.key(row): stamp for row in rows}
        _ = self._rows  # raises if keys are not unique
        return found

    def value(self, key: str, modality: str) -> Any:
        if key not in self._rows:
            raise DataError(f"{self.root / self.split}: there is no sample {key} any more. Index the data again.")
        extension, data = self._dataset.read(self._rows[key], modality)
        source = f"{self.split}/{modality}/{key}.{extension}"
        value = get_modality(modality).decode(data, source)
        get_modality(modality).validate(value, source)
        return value

    @property
    def shown(self) -> str:
        """As always; the picture where an item is nothing but vectors."""
        own = super().shown
        return "rgb" if isinstance(get_modality(own), FeatureVector) and "rgb" in self._dataset.names else own


def open_gallery(root: str | Path, modalities: Sequence[str] = ("rgb",), split: str | None = None) -> Gallery:
    """The gallery in a folder.

    Args:
        root: folder of files; with ``split``, root of a data set (``ROOT/<split>/<modality>/shard-00000.tar``).
        modalities: through which of them an item is looked at; a folder of files has one.

    Raises:
        UnknownNameError: no such modality, or none of it in the data set.
        DataError: there is no such folder, or it is no such data set.
    """
    root, names = Path(root).absolute(), tuple(dict.fromkeys(modalities))
    for name in names:
        get_modality(name)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder.")
    if split is not None and names:
        return ShardGallery(root, names, split)
    if len(names) != 1:
        raise DataError(
            f"{root}: a folder of files is looked at through one modality, not {', '.join(names) or 'none'}. Data sets "
            "in the published layout may have several; name their split."
        )
    splits = sorted(path.parent.parent.name for path in root.glob(f"*/{names[0]}/shard-*.tar"))
    if splits:
        raise DataError(f"{root} is a data set in shards. Name the split: {' or '.join(dict.fromkeys(splits))}.")
    return FolderGallery(root, names)


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
