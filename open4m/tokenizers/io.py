"""Tokenizer folders: ``config.json`` and ``model.safetensors``, ours and the published ones."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from open4m.errors import CheckpointError
from open4m.files import atomic_path, read_json, write_json
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.vqvae import VQVAE

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_LONGEST_HEADER_VALUE = 10_000
_LEGACY_NAMES = {"quant_conv": "quant_proj", "post_quant_conv": "post_quant_proj"}


def save_tokenizer(model: VQVAE, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``folder/config.json`` and ``folder/model.safetensors``, weights as ``dtype``.

    The quantizer stays float32: it is small, and rounding it would change ids.
    """
    state = {
        key: value.to("cpu", torch.float32 if key.startswith("quantize.") else dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    with atomic_path(Path(folder) / WEIGHTS) as temporary:
        save_file(state, temporary)
    write_json(Path(folder) / CONFIG, model.config.to_dict())


def load_tokenizer(folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> VQVAE:
    """Read a tokenizer, in evaluation mode.

    The configuration comes from ``config.json``, or from the header of the weights where that file is missing.

    Raises:
        CheckpointError: the files are missing or damaged, keys are missing, unexpected or mis-shaped, or weights are
            not finite. The message names them.
    """
    folder = Path(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(
            f"{folder}: there is no {WEIGHTS}. Expected a tokenizer folder with {CONFIG} and {WEIGHTS}."
        )
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else header_config(weights)
    try:
        model = VQVAE(TokenizerConfig.from_dict(config))
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: the configuration does not describe a tokenizer: {error}") from error
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise CheckpointError(
            f"{weights}: not a readable safetensors file ({error}). Copy or download it again."
        ) from error
    load_state(model, {_native_name(key): value for key, value in state.items()}, str(weights))
    model.to(device=device, dtype=dtype)
    model.quantize.to(torch.float32)
    return model.eval()


def load_state(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Fill ``model`` strictly; everything that does not fit is named in a :class:`CheckpointError`."""
    expected = model.state_dict()
    problems = [f"missing: {key}" for key in expected.keys() - state.keys()]
    problems += [f"unexpected: {key}" for key in state.keys() - expected.keys()]
    for key in expected.keys() & state.keys():
        found, wanted = tuple(state[key].shape), tuple(expected[key].shape)
        if found != wanted:
            problems.append(f"shape of {key}: {found}, expected {wanted}")
        elif not torch.isfinite(state[key]).all():
            problems.append(f"not finite: {key}")
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        raise CheckpointError(f"{source} does not fit its configuration ({len(problems)} problems):\n  {shown}")
    model.load_state_dict(state)


def header_config(weights: str | Path) -> dict[str, Any]:
    """The configuration that a published safetensors file carries in its header as strings (spec: model §11.3)."""
    try:
        with Path(weights).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            metadata = json.loads(file.read(length)).get("__metadata__", {})
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f"{weights}: not a readable safetensors file ({error}). Copy or download it again."
        ) from error
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


def _native_name(key: str) -> str:
    head, _, tail = key.partition(".")
    if head in _LEGACY_NAMES:
        return f"{_LEGACY_NAMES[head]}.{tail.removeprefix('0.')}"
    return key
