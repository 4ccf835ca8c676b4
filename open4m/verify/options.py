"""How a verification is run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Options:
    """How to recompute.

    Attributes:
        device: where; ids must be equal on every device, up to near ties.
        dtype: number format of weights and activations. The tolerances are meant for float32.
        weights: folder of the transformer that recorded generations were made with; default: ``fm_mod21_swiglu``
            beside them.
        text_tokenizer: the published WordPiece file, for recorded texts; default: the fetched one.
    """

    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    weights: Path | None = None
    text_tokenizer: Path | None = None


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 means float32: no TF32 in matrix products and convolutions on GPUs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
