"""Model sizes by their published names (4M, table of model sizes; 4M-21, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from open4m.errors import UnknownNameError
from open4m.model.config import ModelConfig
from open4m.streams import StreamSpec

_TRUNKS: dict[str, dict[str, int]] = {
    "tiny_6e_6d": {"dim": 384, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 6},
    "small_8e_8d": {"dim": 512, "encoder_depth": 8, "decoder_depth": 8, "num_heads": 8},
    "base_12e_12d": {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12},
    "large_24e_24d": {"dim": 1024, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 16},
    "xlarge_24e_24d": {"dim": 2048, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 32},
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "gelu": {
        "gated_mlp": False,
        "act": "gelu",
        "qkv_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
    },
    "swiglu_nobias": {},
    "swiglu_qknorm_nobias": {"qk_norm": True},
}
_WITH_QK_NORM = ("base_12e_12d", "large_24e_24d", "xlarge_24e_24d")

MODEL_SIZES: dict[str, dict[str, Any]] = {
    f"fm_{trunk}_{variant}": shape | options
    for trunk, shape in _TRUNKS.items()
    for variant, options in _VARIANTS.items()
    if variant != "swiglu_qknorm_nobias" or trunk in _WITH_QK_NORM
}
"""Arguments of :class:`ModelConfig`, all but the streams, by name."""


def model_config(size: str, streams: Iterable[StreamSpec], **changes: Any) -> ModelConfig:
    """The config called ``size`` over ``streams``; ``changes`` replace single entries. Unknown names are refused."""
    if size not in MODEL_SIZES:
        raise UnknownNameError("model size", size, MODEL_SIZES)
    return ModelConfig(streams=tuple(streams), **(MODEL_SIZES[size] | changes))
