"""Index: a gallery as vectors on disk, to be searched by anything; brought up to date by building it again."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.errors import DataError, GenerationError, MissingExtraError, ModalityError
from open4m.files import write_json
from open4m.generation.pipeline import AnyToAny
from open4m.retrieval.embedding import Embedder
from open4m.retrieval.gallery import Gallery, Stamp, open_gallery
from open4m.retrieval.nearest import (
    APPROXIMATE_FROM,
    NEIGHBOURS,
    FaissRecord,
    build_faiss,
    exact,
    open_faiss,
    take_rows,
)
from open4m.retrieval.query import Query, compose, require_said, terms_of
from open4m.retrieval.storage import (
    FORMAT_VERSION,
    INDEX,
    Part,
    PartWriter,
    Settings,
    check_same,
    drop_stale,
    read_parts,
    read_settings,
)

_LOG = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``."""


@dataclass(frozen=True)
class Hit:
    """An item that was found.

    Attributes:
        key: of the item in its gallery: a path, or the key of a sample.
        score: cosine with the query.
        parts: term of the query → how much of the score is its doing: what the score would lose without it, beyond
            what the gallery loses on average. Negative terms have positive parts at hits that are unlike them.
    """

    key: str
    score: float
    parts: dict[str, float]

    @property
    def driven_by(self) -> str:
        """The term that speaks most for this item."""
        return max(self.parts, key=lambda label: self.parts[label])


@dataclass(frozen=True)
class Update:
    """What :meth:`Index.build` did: items added, dropped (gone or changed) and, by key, what could not be read."""

    added: int
    dropped: int
    unreadable: dict[str, str]


class Index:
    """A gallery that can be searched; see :meth:`build` and :meth:`open`.

    Attributes:
        settings: how it was made.
        update: what building has changed, if it was built just now.
    """

    def __init__(self, folder: Path, settings: Settings, embedder: Embedder) -> None:
        self.folder = folder
        self.settings = settings
        self.update: Update | None = None
        self._embedder = embedder
        self._parts: list[Part] = []
        self._load()

    def _load(self) -> None:
        self._parts = list(read_parts(self.folder, self.settings))
        self._keys = [key for part in self._parts for key, _ in part.items]
        self._blocks = [part.vectors for part in self._parts]

    @property
    def model(self) -> AnyToAny:
        """What the vectors are predicted by."""
        return self._embedder.model

    @cached_property
    def gallery(self) -> Gallery:
        """Where the items are; raises :class:`DataError` if it is not there any more (vectors are found without)."""
        return open_gallery(self.settings.root, self.settings.modalities, self.settings.split)

    def __len__(self) -> int:
        return len(self._keys)

    # -- making ---------------------------------------------------------------------------------------------------
    @classmethod
    def build(
        cls,
        model: AnyToAny,
        root: str | Path,
        out: str | Path,
        *,
        modalities: Sequence[str] = ("rgb",),
        split: str | None = None,
        spaces: Sequence[str] = (),
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> Index:
        """Index a gallery, or bring its index up to date: only what is new or has changed is computed.

        Args:
            model: predicts the vectors; see :class:`~open4m.retrieval.embedding.Embedder` for ``spaces``.
            root, modalities, split: the gallery, see :func:`~open4m.retrieval.gallery.open_gallery`. Where they are
                themselves features of ``spaces``, these are taken as they are.
            out: folder of the index.
            progress: called as ``progress("index", done, total)``.

        Raises:
            DataError: no such gallery, nothing in it that can be read, or ``out`` holds another index.
            UnknownNameError, GenerationError: the model cannot read the modality, or has no such space.
        """
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1.")
        gallery, folder, embedder = open_gallery(root, modalities, split), Path(out), Embedder(model, spaces)
        for name in gallery.modalities:
            embedder.check(name)
        settings = _settings(embedder, gallery.modalities, str(gallery.root), split)
        stamps = gallery.stamps()
        if not stamps:
            raise DataError(f"{root}: nothing to index: no files of {', '.join(gallery.modalities)}.")
        if (folder / INDEX).exists():
            check_same(folder, read_settings(folder), settings)
        else:
            write_json(folder / INDEX, asdict(settings))
        dropped = drop_stale(folder, settings, stamps)
        index = cls(folder, settings, embedder)
        there = set(index._keys)
        missing = [key for key in stamps if key not in there]
        unreadable = index._add(missing, stamps, batch_size, progress)
        index._load()
        index.update = Update(len(missing) - len(unreadable), dropped, unreadable)
        if not len(index):
            key, problem = next(iter(unreadable.items()))
            raise DataError(f"{root}: none of {len(unreadable)} items can be read. The first, {key}: {problem}")
        return index

    def _add(
        self, keys: list[str], stamps: dict[str, Stamp], batch_size: int, progress: Progress | None
    ) -> dict[str, str]:
        """Embed items and write them as new parts; returns what cannot be read, by key."""
        unreadable: dict[str, str] = {}
        with PartWriter(self.folder, self.settings) as writer:
            for start in range(0, len(keys), batch_size):
                values = {key: self._view(key) for key in keys[start : start + batch_size]}
                unreadable |= {key: value for key, value in values.items() if isinstance(value, str)}
                good = {key: value for key, value in values.items() if not isinstance(value, str)}
                if good:
                    columns = {name: [value[name] for value in good.values()] for name in self.settings.modalities}
                    writer.add([(key, stamps[key]) for key in good], self._embedder(columns))
                if progress is not None:
                    progress("index", start + len(values), len(keys))
        return unreadable

    def _view(self, key: str) -> dict[str, Any] | str:
        """Values of an item as the model sees them, or what is wrong with it."""
        try:
            values = {name: self.gallery.value(key, name) for name in self.settings.modalities}
            return self.model.view(values)
        except (ModalityError, DataError, GenerationError) as error:
            return str(error)

    def approximate(self) -> FaissRecord | None:
        """Make the approximate index that :meth:`search` then uses, from :data:`APPROXIMATE_FROM` items on.

        Returns:
            How good it is; None where there are too few items.

        Raises:
            MissingExtraError: FAISS is not installed; the exact search goes on working.
        """
        if len(self) < APPROXIMATE_FROM:
            return None
        self._faiss = open_faiss(self.folder, self._content)
        if self._faiss is None:
            build_faiss(self.folder, self._blocks, self._content)
            self._faiss = open_faiss(self.folder, self._content)
        return self._faiss[1] if self._faiss else None

    # -- searching ------------------------------------------------------------------------------------------------
    @classmethod
    def open(cls, folder: str | Path, model: AnyToAny) -> Index:
        """An index as :meth:`build` left it.

        Raises:
            DataError: there is none, it is empty or damaged, or another model made it.
        """
        folder = Path(folder)
        stored = read_settings(folder)
        embedder = Embedder(model, stored.spaces)
        check_same(folder, stored, _settings(embedder, stored.modalities, stored.root, stored.split))
        index = cls(folder, stored, embedder)
        if not len(index):
            raise DataError(f"{folder}: the index is empty. Index a folder first: open4m index DIR --out {folder}")
        return index

    def search(self, query: Query, k: int = 10, *, always_exact: bool = False) -> list[Hit]:
        """The ``k`` items that are most like the query, best first.

        Args:
            query: modality → value, or :class:`~open4m.retrieval.query.Term` s with weights.
            always_exact: do not use an approximate index, which is used for up to ten items, as it was measured for.

        Raises:
            GenerationError: a query that says nothing, wholly or in a part of it (also if that is a file), or one of
                modalities that the model cannot read.
            UnknownNameError, ModalityError: no such modality; a bad file.
            DataError: the index is damaged.
        """
        if k < 1:
            raise DataError(f"k is {k}; expected at least 1.")
        terms = terms_of(query)
        for term in terms:
            for value in self.model.view({term.modality: term.value}).values():
                require_said(term, value)
        composed = compose(self._embedder, terms)
        vector = torch.from_numpy(composed.vector)
        wanted = min(k, len(self))
        rows = np.empty(0, dtype=np.int64)
        if not always_exact and k <= NEIGHBOURS and self._faiss is not None:
            rows = self._faiss[0].search(vector[None].numpy(), wanted)[1][0]
            rows = rows[rows >= 0]
        if len(rows) < wanted:  # the cells that are searched may hold fewer
            rows = exact(self._blocks, vector[None], k)[1][0].numpy()
        found = take_rows(self._blocks, rows)
        centred = (found - self._mean).numpy()
        parts = {label: centred @ share for label, share in composed.shares.items()}
        return [
            Hit(self._keys[row], float(found[i] @ vector), {label: float(part[i]) for label, part in parts.items()})
            for i, row in enumerate(rows)
        ]

    @property
    def vectors(self) -> Tensor:
        """(N, D) float32: all vectors, copied from the file."""
        return torch.cat(self._blocks)

    @property
    def keys(self) -> list[str]:
        """Of the items, in the order of :attr:`vectors`."""
        return list(self._keys)

    @cached_property
    def _faiss(self) -> tuple[Any, FaissRecord] | None:
        try:
            return open_faiss(self.folder, self._content)
        except MissingExtraError as error:
            _LOG.warning("%s: searching exactly, which is slower. %s", self.folder, error)
            return None

    @cached_property
    def _mean(self) -> Tensor:
        return torch.stack([block.sum(dim=0) for block in self._blocks]).sum(dim=0) / len(self)

    @cached_property
    def _content(self) -> str:
        """Tells one content of the index from another."""
        digest = hashlib.sha256(self.settings.weights_fingerprint.encode())
        for part in self._parts:
            digest.update(json.dumps([part.path.name, part.items]).encode())
        return digest.hexdigest()


def _settings(embedder: Embedder, modalities: tuple[str, ...], root: str, split: str | None) -> Settings:
    name, fingerprint = embedder.model.bundle.info.name, embedder.fingerprint(modalities)
    return Settings(FORMAT_VERSION, name, embedder.spaces, modalities, root, split, fingerprint)
