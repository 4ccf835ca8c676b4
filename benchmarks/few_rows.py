"""How fast the weights of linear layers are read for a few rows: the ordinary product against ours, alternating.

    python -m benchmarks.few_rows

Layers of size B in float32, each product with other weights, 400 MB of them, so that none is in a cache already.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from open4m.evaluation.tables import markdown_table
from open4m.model.linear import Linear

LAYERS = ((2304, 768), (768, 768), (2048, 768), (768, 2048))
"""Outputs and inputs: queries, keys and values; projections; the MLP."""

_BYTES = 400e6


def main(rows: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16), trials: int = 24) -> None:
    """Print GB/s of both for every layer and number of rows."""
    cells = []
    for outputs, inputs in LAYERS:
        size = 4 * outputs * inputs
        layers = [Linear(inputs, outputs, bias=False).requires_grad_(False) for _ in range(int(_BYTES / size))]
        for number in rows:
            x = torch.randn(number, inputs)
            ordinary, ours = (size / seconds / 1e9 for seconds in _medians(layers, x, trials))
            cells.append((f"{outputs} × {inputs}", str(number), f"{ordinary:.1f}", f"{ours:.1f}"))
    Console(soft_wrap=True).print(markdown_table(("layer", "rows", "ordinary, GB/s", "ours, GB/s"), cells))


def _medians(layers: list[Linear], x: Tensor, trials: int) -> tuple[float, float]:
    """Seconds of the ordinary product and of ours; both never see the same weights one after the other."""
    ways: tuple[Callable[[Linear, Tensor], Tensor], ...] = (nn.Linear.forward, Linear.forward)
    turn, taken = count(), ([], [])
    for _ in range(trials):
        for way, seconds in zip(ways, taken, strict=True):
            layer = layers[next(turn) % len(layers)]
            begun = time.perf_counter()
            way(layer, x)
            seconds.append(time.perf_counter() - begun)
    first, second = map(statistics.median, taken)
    return first, second


if __name__ == "__main__":
    tyro.cli(main)
