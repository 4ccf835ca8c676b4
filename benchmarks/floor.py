"""The least time that a machine could take: operations and bytes of every layer, over what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_TRIALS = 15


@dataclass(frozen=True)
class Machine:
    """What it can do at best: operations (a multiplication and an addition are two) and bytes read, per second."""

    operations: float
    bytes: float

    @classmethod
    def measure(cls, dtype: torch.dtype) -> Machine:
        """The best of a few products of large matrices, and of a few sums over as many bytes as models have.

        Large caches hold a good part of a model, so that the best of several sizes counts.
        """
        a, b = torch.randn(1024, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
        operations = 2 * a.shape[0] * b.numel() / _best(lambda: a @ b)
        memory = torch.ones(2**27)
        parts = [memory[: 2**power] for power in (24, 25, 26, 27)]
        return cls(operations, max(part.nbytes / _best(part.sum) for part in parts))


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_TRIALS):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


class Work(TorchFunctionMode):
    """Counts what linear layers, convolutions and attention do while it is entered.

    Operations are those of the products; bytes those of weights, output tables, and keys and values: what has to be
    read from memory. Activations are not counted, so that the floor is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[tuple[int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call ``func``, and count it if it is a layer."""
        result = func(*args, **(kwargs or {}))
        match getattr(func, "__name__", ""):
            case "linear" | "_linear_pointwise" | "_weight_int8pack_mm":
                self.layers.append((2 * result.numel() * args[1].shape[1], args[1].nbytes))
            case "bmm":  # a linear layer for few rows (open4m/model/linear.py): slices (S, I, O / S) of the weights
                self.layers.append((2 * result.numel() * args[1].shape[1], args[1].nbytes))
            case "matmul":  # attention, written out
                self.layers.append((2 * result.numel() * args[0].shape[-1], args[1].nbytes))
            case "mm" | "mv":  # a table in front (open4m/model/linear.py)
                self.layers.append((2 * args[0].shape[1] * result.numel(), args[0].nbytes))
            case "conv1d" | "conv2d":
                self.layers.append((2 * result.numel() * args[1][0].numel(), args[1].nbytes))
            case "scaled_dot_product_attention":
                query, key, value = args[:3]
                self.layers.append((4 * query.numel() * key.shape[2], key.nbytes + value.nbytes))
        return result

    @property
    def operations(self) -> int:
        """Of all layers."""
        return sum(operations for operations, _ in self.layers)

    @property
    def bytes(self) -> int:
        """Of all layers, each time that they are used."""
        return sum(read for _, read in self.layers)

    def floor(self, machine: Machine) -> float:
        """Seconds: every layer takes at least what its operations take, and what reading takes."""
        return sum(max(done / machine.operations, read / machine.bytes) for done, read in self.layers)
