"""Ten nearest of very many vectors: exact search against FAISS, alternating; how much of the truth FAISS finds.

    python -m benchmarks.search
    python -m benchmarks.search --count 1000000

The queries are what the model predicts of held-out scenes from their captions, depth maps and classes. So many real
pictures there are not; the gallery stands in for them, each vector a mixture of those of three held-out pictures.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from torch import Tensor

from open4m import load
from open4m.evaluation import evaluation_samples
from open4m.evaluation.tables import markdown_table
from open4m.retrieval.embedding import Embedder, unit
from open4m.retrieval.nearest import NEIGHBOURS, build_faiss, exact, open_faiss, recall_of

ASKED = ("caption", "depth", "semseg")

_BLOCK = 65_536
"""Vectors of one block, as in an index on disk."""


def main(count: int = 200_000, scenes: int = 300, model: str = "scenes-tiny", seed: int = 0) -> None:
    """Print, for each kind of query, the share that FAISS finds and the milliseconds of a query in both."""
    console = Console(soft_wrap=True)
    loaded = load(model)
    samples, source = evaluation_samples(loaded, limit=scenes)
    embedder = Embedder(loaded)
    vectors = {name: embedder({name: [sample[name] for sample in samples]}) for name in ("rgb", *ASKED)}
    blocks = list(torch.from_numpy(mixtures(vectors["rgb"], count, seed)).split(_BLOCK))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        record = build_faiss(Path(folder), blocks, "benchmark", seed)
        console.print(
            f"{count} vectors of {blocks[0].shape[1]} dimensions, mixed from {len(samples)} of {source}; FAISS: "
            f"{record.probes} of {record.lists} cells, recall of its own trial {record.recall:.3f}, made in "
            f"{time.perf_counter() - begun:.0f} s"
        )
        opened = open_faiss(Path(folder), "benchmark")
        assert opened is not None
        approximate = opened[0]
        rows = [_row(name, blocks, approximate.search, torch.from_numpy(vectors[name])) for name in ASKED]
    header = ("query", "recall@10 of FAISS", "exact, ms", "FAISS, ms", "ratio")
    console.print(markdown_table(header, rows))


def mixtures(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """``count`` unit vectors (count, D) float32, each a random convex mixture of three of ``vectors`` (N, D)."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(vectors), (count, 3))
    weights = rng.dirichlet(np.ones(3), count).astype(np.float32)
    mixed = np.zeros((count, vectors.shape[1]), dtype=np.float32)
    for part in range(3):
        mixed += weights[:, part, None] * vectors[chosen[:, part]]
    return unit(mixed)


def _row(
    name: str, blocks: list[Tensor], search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]], queries: Tensor
) -> tuple[str, ...]:
    """One query at a time, exactly and with FAISS in turns."""
    found: list[list[Tensor]] = [[], []]
    seconds: list[list[float]] = [[], []]
    for query in queries.split(1):
        for way in (0, 1):
            begun = time.perf_counter()
            if way == 0:
                rows = exact(blocks, query, NEIGHBOURS)[1]
            else:
                rows = torch.from_numpy(search(query.numpy(), NEIGHBOURS)[1])
            seconds[way].append(time.perf_counter() - begun)
            found[way].append(rows)
    recall = recall_of(torch.cat(found[1]), torch.cat(found[0]))
    slow, fast = (1000 * statistics.median(times) for times in seconds)
    return name, f"{recall:.3f}", f"{slow:.1f}", f"{fast:.2f}", f"{slow / fast:.0f}"


if __name__ == "__main__":
    tyro.cli(main)
