"""Checkpoints of a training run: one folder each, complete or not there at all.

``<out>/checkpoints/step-00001000/``: ``model.safetensors`` (weights and codebooks), ``training.safetensors``
(optimizer moments as ``optimizer/…``, averaged weights as ``average/…``), ``state.json`` (:class:`Counters`).
No random state is kept: everything random is a function of (seed, step, rank).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from open4m.errors import CheckpointError
from open4m.files import read_json, write_json


@dataclass
class Counters:
    """How far a run is.

    Attributes:
        step: optimizer steps done, skipped ones included.
        elapsed: seconds spent, over all starts.
        skipped: steps without update because of non-finite gradients.
        skipped_in_a_row: of those, the ones since the last update.
    """

    step: int = 0
    elapsed: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to go on; see the module's text."""

    counters: Counters
    model: dict[str, Tensor]
    training: dict[str, Tensor]


def save_checkpoint(out: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint and remove all but the ``keep`` newest."""
    folder = out / "checkpoints" / f"step-{checkpoint.counters.step:08d}"
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    save_file(_contiguous(checkpoint.model), temporary / "model.safetensors")
    save_file(_contiguous(checkpoint.training), temporary / "training.safetensors")
    write_json(temporary / "state.json", asdict(checkpoint.counters))
    if folder.exists():
        shutil.rmtree(folder)
    temporary.replace(folder)
    for old in _folders(out)[:-keep]:
        shutil.rmtree(old)
    return folder


def latest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint of a run, if there is one; leftovers of killed writers are removed."""
    for leftover in (out / "checkpoints").glob(".step-*.tmp"):
        shutil.rmtree(leftover)
    return next(reversed(_folders(out)), None)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises :class:`CheckpointError` naming a missing or damaged file."""
    try:
        counters = Counters(**read_json(folder / "state.json"))
        return Checkpoint(counters, load_file(folder / "model.safetensors"), load_file(folder / "training.safetensors"))
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder}: not a readable checkpoint ({error}). Remove it to go on from the one before."
        ) from error


def _folders(out: Path) -> list[Path]:
    return sorted((out / "checkpoints").glob("step-*"))


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
