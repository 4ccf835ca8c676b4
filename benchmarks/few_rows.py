"""How fast the weights of linear layers are read, by number of rows: the ordinary product against ours, alternating.

    python -m benchmarks.few_rows
    python -m benchmarks.few_rows --dtype bfloat16

Layers of size B, each product with other weights, 400 MB of them, so that none is in a cache already. In bfloat16 the
weights of ours lie in the order of the kernels (open4m/model/prepacked.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from open4m.evaluation.tables import markdown_table
from open4m.model.linear import Linear
from open4m.model.prepacked import PrepackedLinear
from open4m.precision import prepacking_is_faster

LAYERS = ((2304, 768), (768, 768), (2048, 768), (768, 2048))
"""Outputs and inputs: queries, keys and values; projections; the MLP."""

_BYTES = 400e6

Products = list[Callable[[Tensor], Tensor]]
"""One of each layer: (rows, inputs) → (rows, outputs)."""


def main(
    rows: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 48, 196, 600),
    trials: int = 24,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Print GB/s of both for every layer and number of rows."""
    cells, form = [], getattr(torch, dtype)
    for outputs, inputs in LAYERS:
        size = outputs * inputs * form.itemsize
        layers = [Linear(inputs, outputs, bias=False).to(form) for _ in range(int(_BYTES / size))]
        ordinary: Products = [partial(nn.Linear.forward, layer) for layer in layers]
        ours: Products = [PrepackedLinear(x) for x in layers] if prepacking_is_faster("cpu", form) else [*layers]
        for number in rows:
            medians = _medians((ordinary, ours), torch.randn(number, inputs, dtype=form), trials)
            cells.append((f"{outputs} × {inputs}", str(number), *(f"{size / s / 1e9:.1f}" for s in medians)))
    Console(soft_wrap=True).print(markdown_table(("layer", "rows", "ordinary, GB/s", "ours, GB/s"), cells))


@torch.inference_mode()
def _medians(ways: tuple[Products, ...], x: Tensor, trials: int) -> list[float]:
    """Seconds of each way; none sees weights that were used a moment ago."""
    turn, taken = count(), [[] for _ in ways]
    for _ in range(trials):
        for products, seconds in zip(ways, taken, strict=True):
            product = products[next(turn) % len(products)]
            begun = time.perf_counter()
            product(x)
            seconds.append(time.perf_counter() - begun)
    return [statistics.median(seconds) for seconds in taken]


if __name__ == "__main__":
    tyro.cli(main)
