"""``open4m.load``: a model by its name, its weights held as this machine is fastest with them."""

from __future__ import annotations

from pathlib import Path

import torch

from open4m.generation.pipeline import AnyToAny
from open4m.hub import load_bundle
from open4m.model.compiled import compile_blocks
from open4m.precision import prepacking_is_faster


def load(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_tokenizer: str | Path | None = None,
    compile: bool = False,
) -> AnyToAny:
    """Load a model by the name of a bundled one, a folder, a ``.safetensors`` file, or the hub id of a published one.

    Args:
        name, device, dtype, text_tokenizer: see :func:`open4m.hub.bundle.load_bundle`.
        compile: compile the blocks of the transformer (:func:`~open4m.model.compiled.compile_blocks`), which takes
            seconds for every new shape of inputs and targets. It serves one-step grids and embeddings; grids in several
            steps and sequences run uncompiled.

    In bfloat16 on a CPU that multiplies it, the weights of the blocks lie in the order of its kernels
    (:class:`~open4m.model.prepacked.PrepackedLinear`), unless they are compiled. Such a model can be saved, but neither
    trained nor moved: for that, :func:`~open4m.hub.bundle.load_bundle`.

    Raises:
        UnknownNameError: no such model; similar names are suggested.
        CheckpointError: it is incomplete or damaged.
        GenerationError: int8 weights on another device than a CPU.
    """
    bundle = load_bundle(name, dtype, device, text_tokenizer)
    if compile:
        compile_blocks(bundle.model)
    elif prepacking_is_faster(device, dtype):
        bundle.model.prepack()
    return AnyToAny(bundle)
