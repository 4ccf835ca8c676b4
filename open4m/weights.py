"""Files of weights and the configuration that belongs to them: read strictly, everything that does not fit is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from open4m.errors import CheckpointError
from open4m.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a model's or tokenizer's folder, ours and the published ones."""

_LONGEST_HEADER_VALUE = 10_000
_MOST_SHOWN = 8


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged, or holds values that are not finite.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no {path.name}. The folder is incomplete; check the path, copy or download it again."
        )
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    require_finite(weights, str(path))
    return weights


def require_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise :class:`CheckpointError` if a value is NaN or infinite."""
    broken = [key for key, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            f"{source}: weights are not finite: {', '.join(broken[:_MOST_SHOWN])}. Was the training stable?"
        )


def check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Raise :class:`CheckpointError` unless ``found`` has exactly the keys and shapes of a state dict, ``expected``."""
    problems = [f"missing {key} {tuple(value.shape)}" for key, value in expected.items() if key not in found]
    problems += [f"unexpected {key} {tuple(value.shape)}" for key, value in found.items() if key not in expected]
    problems += [
        f"{key} has shape {tuple(found[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    if problems:
        more = len(problems) - _MOST_SHOWN
        shown = "; ".join(problems[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")
        raise CheckpointError(f"{source}: the weights do not fit the model: {shown}. Is the config of another model?")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in ``folder``: ``config.json``, or the header of the weights where that file is missing.

    Raises:
        CheckpointError: there is neither, or it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        if not (folder / WEIGHTS).is_file():
            raise CheckpointError(f"{folder}: there is neither {CONFIG} nor {WEIGHTS}. Check the path.")
        return header_config(folder / WEIGHTS)
    try:
        values = read_json(path)
    except ValueError as error:
        raise CheckpointError(f"{path}: not a JSON file ({error}). Copy or download it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}.")
    return values


def header_config(weights: Path) -> dict[str, Any]:
    """The configuration that a published safetensors file carries in its header as strings (spec: model §11.3)."""
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            metadata = json.loads(file.read(length)).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise _unreadable(weights, error) from error
    config = {key: _header_value(value) for key, value in metadata.items() if key != "format"}
    if not config:
        raise CheckpointError(f"{weights}: no configuration, neither in its header nor in a {CONFIG} beside it.")
    return config


def _header_value(text: Any) -> Any:
    if not isinstance(text, str) or len(text) > _LONGEST_HEADER_VALUE:
        return text
    try:
        return yaml.safe_load(text.replace("None", "null"))
    except yaml.YAMLError:
        return text


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not a readable safetensors file ({error}). Copy or download it again.")
