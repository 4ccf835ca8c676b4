"""Tokenizer folders: ``config.json`` and ``model.safetensors``, ours and the published ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from open4m.files import atomic_path, write_json
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.config import DiffusionConfig, TokenizerConfig
from open4m.tokenizers.divae import DiVAE
from open4m.tokenizers.vqvae import VQVAE
from open4m.weights import CONFIG, WEIGHTS, check_weights, read_config, read_weights

_LEGACY_NAMES = {"quant_conv": "quant_proj", "post_quant_conv": "post_quant_proj"}


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that a configuration describes, with random weights."""
    return DiVAE(config) if isinstance(config, DiffusionConfig) else VQVAE(config)


def save_tokenizer(model: Tokenizer, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
    """Write ``folder/config.json`` and ``folder/model.safetensors``, weights as ``dtype``.

    The quantizer stays float32: it is small, and rounding it would change ids.
    """
    state = {key: value.to("cpu", _stored(key, dtype)).contiguous() for key, value in model.state_dict().items()}
    with atomic_path(Path(folder) / WEIGHTS) as temporary:
        save_file(state, temporary)
    write_json(Path(folder) / CONFIG, model.config.to_dict())


def load_tokenizer(
    folder: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: Mapping[str, Any] | None = None,
) -> Tokenizer:
    """Read a tokenizer, in evaluation mode, weights as ``dtype``, the quantizer always as float32.

    The configuration is ``config``, or comes from ``config.json``, or from the header of the weights where that file
    is missing. Nothing is initialised at random first, and no weight is held twice.

    Raises:
        CheckpointError: the files are missing or damaged, the configuration has unknown keys, weights are missing,
            unexpected, mis-shaped or not finite. The message names them.
    """
    folder = Path(folder)
    values = read_config(folder) if config is None else config
    with torch.device("meta"):
        model = build_tokenizer(TokenizerConfig.from_dict(values, str(folder)))
    state = {_native_name(key): value for key, value in read_weights(folder / WEIGHTS).items()}
    check_weights(state, model.state_dict(), str(folder / WEIGHTS))
    for key in list(state):  # one by one, so that wide and narrow copies never exist together
        state[key] = state[key].to(device, _stored(key, dtype))
    model.load_state_dict(state, assign=True)
    return model.eval()


def _stored(key: str, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if key.startswith("quantize.") else dtype


def _native_name(key: str) -> str:
    head, _, tail = key.partition(".")
    if head in _LEGACY_NAMES:
        return f"{_LEGACY_NAMES[head]}.{tail.removeprefix('0.')}"
    return key
