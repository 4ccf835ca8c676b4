"""Sizes of the published transformers, by name (4M, table of model sizes; 4M-21, section 3; spec: model §2)."""

from __future__ import annotations

from typing import Any

from open4m.errors import UnknownNameError

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


def named_size(name: str) -> dict[str, Any]:
    """Entry ``name`` of :data:`MODEL_SIZES`; ``base`` and the like mean the released variant, ``…_swiglu_nobias``.

    Raises:
        UnknownNameError: no such size.
    """
    released = {trunk.partition("_")[0]: f"fm_{trunk}_swiglu_nobias" for trunk in _TRUNKS}
    if name not in MODEL_SIZES and name not in released:
        raise UnknownNameError("model size", name, [*released, *MODEL_SIZES])
    return MODEL_SIZES[released.get(name, name)]
