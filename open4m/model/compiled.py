"""``torch.compile`` for the blocks of a model: static shapes, one compilation for all blocks of a kind."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from open4m.errors import GenerationError
from open4m.model.transformer import FourM


def compile_blocks(model: FourM) -> None:
    """Compile the blocks of ``model`` in place, for inference: each shape that they meet, when they first meet it.

    On a CUDA device they run as CUDA graphs. Autoregressive steps (:meth:`~open4m.model.FourM.decode_next`) stay
    uncompiled. After eight shapes of a kind of block, PyTorch leaves further ones uncompiled and says so.

    Raises:
        GenerationError: the device is a CPU, and there is no C++ compiler.
    """
    if model.mask_token.device.type == "cpu":
        _require_compiler()
    graphs = model.mask_token.device.type == "cuda"
    for block in (*model.encoder, *model.decoder):
        block.forward = torch.compile(block.forward, dynamic=False, mode="reduce-overhead" if graphs else None)
    if graphs:
        for first in (model.encoder[0], model.decoder[0]):
            first.register_forward_pre_hook(_begin_pass)
    model.compiled = True


def uncompiled(model: FourM) -> AbstractContextManager[object]:
    """While it is entered, the blocks of a compiled ``model`` run as they are written: where each shape comes once."""
    return torch.compiler.set_stance("force_eager") if model.compiled else nullcontext()


def _require_compiler() -> None:
    """PyTorch looks for it in the same way, but in the midst of the first generation."""
    compiler = os.environ.get("CXX", {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++"))
    if shutil.which(compiler) is None:
        raise GenerationError(
            f"Compiling for a CPU needs a C++ compiler, and {compiler} is not there. Install it, name another in the "
            "environment variable CXX, or leave out compile."
        )


def _begin_pass(*_: object) -> None:
    """What the graphs of earlier passes hold is free: the results that are kept were made outside of them."""
    torch.compiler.cudagraph_mark_step_begin()
