"""Files of weights and the configuration that belongs to them: read strictly, everything that does not fit is named.

Files may come from anywhere. Whatever they hold, they are answered with values or with :class:`CheckpointError`, in
time and memory bounded by their size; nothing in them is executed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from open4m.errors import CheckpointError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a model's or tokenizer's folder, ours and the published ones."""

_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format itself
_LONGEST_CONFIG = 10_000_000  # bytes; the longest known have about ten thousand
_LONGEST_HEADER_VALUE = 10_000  # characters
_MOST_SHOWN = 8
_STORED = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool},
}
"""Number formats that weights may be stored in; integers and booleans are never converted."""


# -- tensors --------------------------------------------------------------------------------------------------------
def read_weights(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on ``device``, floating ones as ``dtype`` (None = as stored).

    Where nothing is to be converted or moved, the tensors are the mapped file itself: nothing is copied, and the pages
    are shared by all processes that read it. They may be written to (which copies the page, never changes the file),
    but the file must not be overwritten in place while they are in use; replacing it by renaming is fine.
    Otherwise one tensor after the other is read and converted: never more than one is held in both forms.

    Raises:
        CheckpointError: the file is missing or damaged, or holds values that are not finite.
    """
    layout = read_layout(path)
    as_stored = torch.device(device).type == "cpu" and all(
        value.dtype == (dtype or value.dtype) for value in layout.values() if value.is_floating_point()
    )
    weights = {}
    with _opened(path, "mmap" if as_stored else "pread") as file:
        for key, expected in layout.items():
            value = file.get_tensor(key)
            require_finite({key: value}, str(path))
            weights[key] = value.to(device, dtype if expected.is_floating_point() else None)
    return weights


def read_layout(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file on the meta device: names, shapes, dtypes. Their bytes are not read.

    Raises:
        CheckpointError: the file is missing or damaged, or stores numbers in a format that weights do not have.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path}: there is no {path.name}. The folder is incomplete; check the path, copy or download it again."
        )
    layout = {}
    with _opened(path, "pread") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(key)
            if part.get_dtype() not in _STORED:
                raise CheckpointError(f"{path}: {key} is stored as {part.get_dtype()}, expected {', '.join(_STORED)}.")
            layout[key] = torch.empty(part.get_shape(), dtype=_STORED[part.get_dtype()], device="meta")
    return layout


def _opened(path: Path, backend: str) -> Any:
    """A safetensors file whose header fits the file, as a context."""
    try:
        return safe_open(path, framework="pt", backend=backend)
    except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: torch could not map the file
        raise _unreadable(path, error) from error


def require_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise :class:`CheckpointError` if a value is NaN or infinite.

    One pass without temporaries: the extremes are NaN if any value is.
    """
    broken = [key for key, value in weights.items() if not _is_finite(value)]
    if broken:
        raise CheckpointError(
            f"{source}: weights are not finite: {', '.join(broken[:_MOST_SHOWN])}. Was the training stable?"
        )


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(value.detach()))


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


# -- configuration --------------------------------------------------------------------------------------------------
def read_config(folder: Path) -> dict[str, Any]:
    """The configuration in ``folder``: ``config.json``, or the header of the weights where that file is missing.

    Raises:
        CheckpointError: there is neither, or it is damaged.
    """
    path = folder / CONFIG
    if path.is_file():
        return read_config_file(path)
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: there is neither {CONFIG} nor {WEIGHTS}. Check the path.")
    return header_config(folder / WEIGHTS)


def read_config_file(path: Path) -> dict[str, Any]:
    """A JSON object; raises :class:`CheckpointError` if the file holds anything else."""
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST_CONFIG + 1)
        if len(data) > _LONGEST_CONFIG:
            raise CheckpointError(f"{path}: longer than {_LONGEST_CONFIG} bytes; this is no configuration.")
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a JSON file ({error}). Copy or download it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}.")
    return values


def header_metadata(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says beside its tensors; raises :class:`CheckpointError` if damaged."""
    metadata = _read_header(path).get("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _unreadable(path, TypeError("__metadata__ is no object"))
    return metadata


def header_config(weights: Path) -> dict[str, Any]:
    """The configuration that a published safetensors file carries in its header as strings (spec: model §11.3).

    Raises:
        CheckpointError: the header is damaged or has no configuration.
    """
    metadata = header_metadata(weights)
    config = {key: _header_value(value) for key, value in metadata.items() if key != "format"}
    if not config:
        raise CheckpointError(f"{weights}: no configuration, neither in its header nor in a {CONFIG} beside it.")
    return config


def header_strings(config: Mapping[str, Any]) -> dict[str, str]:
    """A configuration as the header of a published file carries it; :func:`header_config` reads it back."""
    return {"format": "pt"} | {key: str(value) for key, value in config.items()}


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            room = path.stat().st_size - 8
            if length > min(room, _LONGEST_HEADER):
                raise ValueError(f"a header of {length} bytes is announced, in a file with room for {room}")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("the header is no object")
    except (struct.error, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return header


class _PlainYaml(yaml.SafeLoader):
    """YAML without references, by which a few characters can stand for more than fits into memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references are not accepted")
        return super().compose_node(parent, index)


def _header_value(text: Any) -> Any:
    if not isinstance(text, str) or len(text) > _LONGEST_HEADER_VALUE:
        return text
    try:
        return _PlainYaml(text.replace("None", "null")).get_single_data()
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError):  # no YAML value: it means itself
        return text


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: not a readable safetensors file ({error}). Copy or download it again.")
