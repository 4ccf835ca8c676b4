"""What is published: names, shapes and licences of the 4M weights (spec: model §2, §11.4; tokenizers §1, §5).

The configurations here say what can be known before anything is fetched. What is loaded is described by the
configuration in its own file, which wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from open4m.errors import UnknownNameError
from open4m.files import read_json

ASSETS = Path(__file__).parent.parent / "assets"
"""Folder of the bundles that ship with the package."""

OWNER = "EPFL-VILAB"
NON_COMMERCIAL = "non-commercial"
SAMPLE_CODE_LICENCE = "https://github.com/apple/ml-4m/blob/main/LICENSE_WEIGHTS"
LICENCE_MEANING = {
    NON_COMMERCIAL: "The weights may be used for research and other non-commercial purposes only.",
    "Apache-2.0": "Any use is allowed, commercial use too, as long as the licence and the notices are kept.",
}
"""What a licence comes down to, in one sentence. The text at its URL decides."""

Kind = Literal["model", "tokenizer"]
PAPER_7 = "4M: Massively Multimodal Masked Modeling, https://arxiv.org/abs/2312.06647"
PAPER_21 = "4M-21: An Any-to-Any Vision Model for Tens of Tasks and Modalities, https://arxiv.org/abs/2406.09406"


@dataclass(frozen=True)
class Entry:
    """One thing that can be loaded.

    Attributes:
        name: what to pass to ``open4m.load`` (models) or what a model refers to (tokenizers).
        kind: transformer with its tokenizers, or one tokenizer.
        licence: short word: ``non-commercial`` or the name of a permissive licence.
        licence_url: its full text.
        description: one line.
        paper: title and address; empty where there is none.
    """

    name: str
    kind: Kind
    licence: str
    licence_url: str
    description: str
    paper: str = ""


# -- transformers -----------------------------------------------------------------------------------------------------
_SIZES = {"B": (768, 12, 12), "L": (1024, 24, 16), "XL": (2048, 24, 32)}
"""Size → (width, blocks of the encoder and of the decoder, heads)."""

_GRIDS_7 = ("clip", "depth", "normal", "rgb", "semseg")
_OUT_7 = ("caption", "det", *(f"tok_{name}@224" for name in _GRIDS_7))
_GRIDS_21 = ("canny_edge", "clip", "depth", "dinov2", "imagebind", "normal", "rgb", "sam_edge", "semseg")
_OUT_21 = (
    *("caption", "color_palette", "det", "human_poses", "metadata", "sam_instance"),
    *(f"tok_{name}@224" for name in _GRIDS_21),
    *("tok_dinov2_global", "tok_imagebind_global"),
)
_OUT_SR = tuple(f"tok_{name}@448" for name in _GRIDS_7)
_IN_7 = ("rgb@224", *_OUT_7)
_IN_21 = ("rgb@224", "t5_caption", *_OUT_21)
_IN_SR = ("rgb@448", *_IN_7, *_OUT_SR)


def _configuration(size: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> dict[str, Any]:
    """As far as the published code determines it (its variant ``swiglu_nobias``)."""
    dim, depth, heads = _SIZES[size]
    return {
        **{"domains_in": sorted(inputs), "domains_out": sorted(outputs), "image_size": 224, "patch_size": 16},
        **{"dim": dim, "encoder_depth": depth, "decoder_depth": depth, "num_heads": heads, "mlp_ratio": 4},
        **{"qkv_bias": False, "proj_bias": False, "mlp_bias": False, "norm_bias": False},
        **{"act_layer": "SiLU", "gated_mlp": True, "qk_norm": False},
    }


MODELS: dict[str, dict[str, Any]] = {
    **{f"4M-7_{s}_{data}": _configuration(s, _IN_7, _OUT_7) for data in ("CC12M", "COYO700M") for s in _SIZES},
    **{f"4M-21_{s}": _configuration(s, _IN_21, _OUT_21) for s in _SIZES},
    **{f"4M-7-T2I_{s}_CC12M": _configuration(s, _IN_7, _OUT_7) for s in _SIZES},
    "4M-7-SR_L_CC12M": _configuration("L", _IN_SR, _OUT_SR),
}
"""Published transformers (names without owner) in the published form of configuration."""


def _model_entry(name: str) -> Entry:
    family, size, *data = name.split("_")
    what = {
        "4M-7": "7 modalities",
        "4M-21": "21 modalities",
        "4M-7-T2I": "4M-7 adapted to text-to-image",
        "4M-7-SR": "super-resolution of tokens, 224 to 448 px",
    }[family]
    source = data[0] if data else "CC12M + COYO700M + C4"
    paper = PAPER_21 if family == "4M-21" else PAPER_7
    return Entry(
        f"{OWNER}/{name}", "model", NON_COMMERCIAL, SAMPLE_CODE_LICENCE, f"{what}, size {size}, {source}", paper
    )


# -- tokenizers -------------------------------------------------------------------------------------------------------
_VIT = {"enc_type": "vit_b_enc", "dec_type": "vit_b_dec", "post_mlp": True, "latent_dim": 32, "image_size": 448}
_DIFFUSION = _VIT | {
    **{"dec_type": "unet_patched", "num_train_timesteps": 1000, "beta_schedule": "linear"},
    **{"prediction_type": "sample", "scheduler": "ddim", "thresholding": True, "zero_terminal_snr": True},
}
_FEATURES = _VIT | {"patch_proj": False, "codebook_size": 8192}
_MLP = {"enc_type": "BottleneckMLP/B_6-Wi_1024", "dec_type": "BottleneckMLP/B_6-Wi_1024", "patch_proj": False}
_MEMORY = _MLP | {"quant_type": "memcodes", "latent_dim": 1024}

TOKENIZERS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "rgb_16k_224-448": (("tok_rgb",), _DIFFUSION | {"n_channels": 3, "codebook_size": 16384}),
    "depth_8k_224-448": (("tok_depth",), _DIFFUSION | {"n_channels": 1, "codebook_size": 8192}),
    "normal_8k_224-448": (("tok_normal",), _DIFFUSION | {"n_channels": 3, "codebook_size": 8192}),
    "edge_8k_224-512": (
        ("tok_canny_edge", "tok_sam_edge"),
        _DIFFUSION | {"n_channels": 1, "codebook_size": 8192, "image_size": 512},
    ),
    "semseg_4k_224-448": (("tok_semseg",), _VIT | {"n_channels": 64, "n_labels": 134, "codebook_size": 4096}),
    "CLIP-B16_8k_224-448": (("tok_clip",), _FEATURES | {"n_channels": 512}),
    "DINOv2-B14_8k_224-448": (("tok_dinov2",), _FEATURES | {"n_channels": 768, "patch_size": 14}),
    "DINOv2-B14-global_8k_16_224": (
        ("tok_dinov2_global",),
        _MEMORY | {"n_channels": 768, "codebook_size": 8192, "num_codebooks": 16},
    ),
    "ImageBind-H14_8k_224-448": (("tok_imagebind",), _FEATURES | {"n_channels": 1280, "patch_size": 14}),
    "ImageBind-H14-global_8k_16_224": (
        ("tok_imagebind_global",),
        _MEMORY | {"n_channels": 1280, "codebook_size": 8192, "num_codebooks": 16},
    ),
    "sam-instance_1k_64": (
        ("sam_instance",),
        _VIT | {"n_channels": 1, "image_size": 64, "latent_dim": 1024, "codebook_size": 1024, "out_conv": True},
    ),
    "human-poses_1k_8": (("human_poses",), _MEMORY | {"n_channels": 207, "codebook_size": 1024, "num_codebooks": 8}),
}
"""Published tokenizers (names without owner and ``4M_tokenizers_``): streams that they read and write (names without
resolution), and the published form of configuration."""

_TOKENIZER_PREFIX = f"{OWNER}/4M_tokenizers_"


def _tokenizer_entry(name: str, streams: tuple[str, ...]) -> Entry:
    text = f"tokenizer of {' and '.join(streams)}"
    return Entry(_TOKENIZER_PREFIX + name, "tokenizer", NON_COMMERCIAL, SAMPLE_CODE_LICENCE, text, PAPER_21)


# -- look-up ----------------------------------------------------------------------------------------------------------
CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in [
        *(_model_entry(name) for name in MODELS),
        *(_tokenizer_entry(name, streams) for name, (streams, _) in TOKENIZERS.items()),
    ]
}
"""Every published model and tokenizer by hub id."""


def published_configuration(name: str) -> dict[str, Any]:
    """Configuration, in the published form, of a model or tokenizer of the catalogue by its hub id."""
    if name not in CATALOGUE:
        raise UnknownNameError("published model", name, CATALOGUE)
    if CATALOGUE[name].kind == "tokenizer":
        return dict(TOKENIZERS[name.removeprefix(_TOKENIZER_PREFIX)][1])
    return dict(MODELS[name.partition("/")[2]])


def published_tokenizer(stream: str) -> str | None:
    """Hub id of the tokenizer of a published stream such as ``tok_rgb@448``; None for those without (pixels, text)."""
    base = stream.partition("@")[0]
    return next((_TOKENIZER_PREFIX + name for name, (streams, _) in TOKENIZERS.items() if base in streams), None)


def published_streams_of(tokenizer: str) -> tuple[str, ...]:
    """Streams (names without resolution) of a published tokenizer by its hub id."""
    return TOKENIZERS[tokenizer.removeprefix(_TOKENIZER_PREFIX)][0]


def bundled() -> dict[str, Entry]:
    """The bundles that ship with the package, by name."""
    entries = {}
    for config in sorted(ASSETS.glob("*/config.json")):
        values, name = read_json(config), config.parent.name
        entries[name] = Entry(name, "model", values["licence"], values["licence_url"], values["description"])
    return entries


def list_models(pattern: str = "*", kind: Kind | None = "model") -> list[Entry]:
    """Everything whose name matches a shell pattern in any case, such as ``*21*``; own ones first.

    Args:
        pattern: on the name.
        kind: ``model``, ``tokenizer``, or None for both.
    """
    entries = [*bundled().values(), *CATALOGUE.values()]
    return [e for e in entries if kind in (None, e.kind) and fnmatchcase(e.name.lower(), pattern.lower())]
