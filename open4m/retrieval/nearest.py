"""Nearest neighbours by inner product: exact with torch; approximate with FAISS where there are very many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.errors import DataError, MissingExtraError
from open4m.files import atomic_path, read_json, write_json

APPROXIMATE_FROM = 100_000
"""Vectors from which on an exact search begins to take noticeable time."""

WANTED_RECALL = 0.95
"""Share of the true nearest neighbours that the approximate search should find."""

_FAISS, _FAISS_RECORD = "faiss.index", "faiss.json"
NEIGHBOURS = 10
"""Of which the approximate search is measured to find so many."""

_TRIALS = 200


def exact(blocks: Iterable[Tensor], queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` rows with the largest inner product; of equal ones the first.

    Args:
        blocks: vectors (n, D) each; rows are counted through all of them.
        queries: (Q, D).

    Returns:
        scores (Q, k) descending and rows (Q, k) int64; fewer than k where there are fewer rows.
    """
    scores = queries.new_empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.int64)
    first = 0
    for block in blocks:
        similar = queries @ block.T
        columns = _best_columns(similar, k)
        scores = torch.cat([scores, similar.gather(1, columns)], dim=1)
        rows = torch.cat([rows, first + columns], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, rows = scores.gather(1, order), rows.gather(1, order)
        first += len(block)
    return scores, rows


def _best_columns(scores: Tensor, k: int) -> Tensor:
    """Columns of the ``k`` highest scores of each row (Q, n), of equal ones the first, and these in their order."""
    found = scores.topk(min(k, scores.shape[1]), dim=1)
    reached = (scores >= found.values[:, -1:]).sum(dim=1)
    if bool((reached > found.values.shape[1]).any()):  # which of equal ones topk takes is open; a sort is slower
        return scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return found.indices.sort(dim=1).values


@dataclass(frozen=True)
class FaissRecord:
    """What is known of an approximate index.

    Attributes:
        content: which vectors it was made of; another content makes it stale.
        lists, probes: into how many cells the vectors are sorted, and how many of them are searched.
        recall: share of the ten true nearest neighbours that were found, in a trial.
        sha256: of the file.
    """

    content: str
    lists: int
    probes: int
    recall: float
    sha256: str


def build_faiss(folder: Path, blocks: Sequence[Tensor], content: str, seed: int = 0) -> FaissRecord:
    """Write ``faiss.index`` (inverted lists) and ``faiss.json`` into ``folder``.

    As many cells are searched as are needed to find :data:`WANTED_RECALL` of what :func:`exact` finds, measured on
    queries that lie between random pairs of vectors.

    Raises:
        MissingExtraError: FAISS is not installed.
    """
    faiss = _faiss()
    count, dim = sum(map(len, blocks)), blocks[0].shape[1]
    rng = np.random.default_rng(seed)
    lists = max(1, min(round(4 * count**0.5), count // 39))  # FAISS asks for 39 vectors per cell
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    chosen = np.sort(rng.choice(count, min(count, 64 * lists), replace=False))
    index.train(take_rows(blocks, chosen).numpy())
    for block in blocks:
        index.add(block.numpy())
    pairs = rng.integers(0, count, (2, _TRIALS))
    trials = torch.nn.functional.normalize(take_rows(blocks, pairs[0]) + take_rows(blocks, pairs[1]), dim=1)
    truth = exact(blocks, trials, NEIGHBOURS)[1]
    probes, recall = 1, 0.0
    while True:
        index.nprobe = probes
        recall = recall_of(torch.from_numpy(index.search(trials.numpy(), NEIGHBOURS)[1]), truth)
        if recall >= WANTED_RECALL or probes >= lists:
            break
        probes = min(2 * probes, lists)
    path = folder / _FAISS
    with atomic_path(path) as temporary:
        faiss.write_index(index, str(temporary))
    record = FaissRecord(content, lists, probes, recall, _digest(path))
    write_json(folder / _FAISS_RECORD, asdict(record))
    return record


def open_faiss(folder: Path, content: str) -> tuple[Any, FaissRecord] | None:
    """The approximate index of a folder, mapped from its file; None if there is none for this ``content``.

    Raises:
        DataError: it is damaged.
        MissingExtraError: FAISS is not installed.
    """
    path = folder / _FAISS_RECORD
    if not path.is_file():
        return None
    try:
        record = FaissRecord(**read_json(path))
    except (ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    if record.content != content:
        return None
    if not (folder / _FAISS).is_file() or _digest(folder / _FAISS) != record.sha256:
        raise _damaged(folder / _FAISS, "it is not the file that was written")
    faiss = _faiss()
    index = faiss.read_index(str(folder / _FAISS), faiss.IO_FLAG_MMAP)
    index.nprobe = record.probes
    return index, record


def recall_of(found: Tensor, truth: Tensor) -> float:
    """Share of the rows ``truth`` (Q, k) that are among ``found`` (Q, m)."""
    return float((truth[:, :, None] == found[:, None, :]).any(dim=2).float().mean())


def take_rows(blocks: Sequence[Tensor], rows: np.ndarray) -> Tensor:
    """Vectors (n, D) of the given rows, counted through all blocks."""
    starts = np.cumsum([0, *map(len, blocks)])
    places = np.searchsorted(starts, rows, side="right") - 1
    found = [blocks[place][int(row - starts[place])] for place, row in zip(places, rows, strict=True)]
    return torch.stack(found)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: {problem}. Delete it, and index again.")


def _faiss() -> Any:
    try:
        import faiss  # pyright: ignore[reportMissingImports, reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError("Approximate search", "retrieval", "faiss-cpu") from error
    return faiss
