"""Small models with random weights in the published format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from open4m.hub.published import model_config, to_published
from open4m.model import FourM
from open4m.weights import CONFIG, WEIGHTS, header_strings

CONFIGURATION: dict[str, Any] = {
    "domains_in": ["caption", "rgb@224", "tok_depth@224", "tok_dinov2_global"],
    "domains_out": ["caption", "tok_depth@224", "tok_dinov2_global"],
    "image_size": 224,
    "patch_size": 16,
    "dim": 8,
    "encoder_depth": 1,
    "decoder_depth": 1,
    "num_heads": 2,
    "mlp_ratio": 4,
    "act_layer": "SiLU",
    "gated_mlp": True,
    **dict.fromkeys(("qkv_bias", "proj_bias", "mlp_bias", "norm_bias", "qk_norm"), False),
}


def published_weights(values: dict[str, Any] = CONFIGURATION, seed: int = 5) -> dict[str, Tensor]:
    """A published state dict; names that share a parameter have their own copies, as in a file."""
    config = model_config(values, "test")
    model = FourM(config, seed=seed)
    return {key: value.detach().clone() for key, value in to_published(model.state_dict(), config).items()}


def write_published(
    folder: Path,
    weights: dict[str, Tensor] | None = None,
    values: dict[str, Any] | None = None,
    *,
    header: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A folder as on the hub: with ``config.json``, or with the configuration in the header of the weights."""
    values = CONFIGURATION if values is None else values
    weights = published_weights() if weights is None else weights
    folder.mkdir(parents=True, exist_ok=True)
    stored = {key: value.to(dtype) for key, value in weights.items()}
    save_file(stored, folder / WEIGHTS, header_strings(values) if header else None)
    if not header:
        (folder / CONFIG).write_text(json.dumps(values))
    return folder
