"""The embedded model ``scenes-tiny``: its streams, its shape and how it is trained.

112 px pictures, patches of 8 px, 14 × 14 tokens; 19 streams. Width 192 with 3 wide heads (cheaper than many narrow
ones), SwiGLU without biases, one table per vocabulary for encoder, decoder and head: 6.8 M parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from open4m.errors import UnknownNameError
from open4m.training.recipe import PretrainRecipe
from recipes.mixtures import scenes
from recipes.tokenizers import TOKENIZER_OF

MODALITIES = (
    "rgb",
    "depth",
    "normal",
    "semseg",
    "canny_edge",
    "sam_edge",
    "clip",
    "dinov2",
    "imagebind",
    "dinov2_global",
    "imagebind_global",
    "caption",
    "t5_caption",
    "det",
    "metadata",
    "human_poses",
    "color_palette",
    "sam_instance",
)
"""In the order of the streams; ``rgb`` has two (pixels in, tokens in and out)."""

LOSS_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"depth": 2.0, "normal": 2.0, "semseg": 2.0, "det": 4.0, "sam_instance": 2.0, "human_poses": 2.0}
)
"""Weights of the modalities' losses (1 where not named): geometry and classes up, and what must be located and has few
tokens."""

GENERATION: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "anything": {"scheme": "roar", "steps": 8, "temperature": 0.7, "schedule": "constant", "guidance": 2.0},
        "anything/rgb": {"steps": 24, "temperature": 1.0, "top_p": 0.9, "guidance": 3.0, "via": []},
        "picture": {"guidance": 1.0},
        "set": {"guidance": 2.0},
        "sequence/caption": {"temperature": 0.7, "top_p": 1.0, "repeats": 12},
        "sequence/color_palette": {"temperature": 0.5, "top_p": 0.9, "repeats": 16},
        "sequence/det": {"temperature": 0.7, "top_p": 1.0, "guidance": 3.0, "repeats": 12},
        "sequence/metadata": {"temperature": 0.01},
        "sequence/sam_instance": {"temperature": 1.0, "top_p": 1.0, "repeats": 16},
    }
)
"""Guidance on the picture costs twice the time and changed most scores of 48 validation scenes by less than 3 %; the
cosines of global features gained 6 and 10 %. Cooler and fewer steps than published: found by eye on validation scenes.
Hot early steps presuppose a model that recovers from them. Most confident positions first (MaskGIT) is no better where
geometry is asked for, and falls for dark or empty blurs in pictures: from 60 validation captions PSNR 11.1 → 12.6 dB.

A small model's likeliest sentence is often nobody's: several are drawn and merged. On 24–64 validation scenes, single
published → these: boxes AP50 .04 → .10, captions word F1 .45 → .52, palettes ΔE 23 → 20, instances best IoU .003 → .13
with 6 and .21 with 24 repeats (the likeliest answer to most query points is "none"). Metadata are best at the likeliest
words; merged people are fewer and not better.
"""


_TINY = PretrainRecipe(
    name="scenes-tiny",
    description="19 streams of the embedded scenes at 112 px.",
    modalities=MODALITIES,
    mixture=scenes(),
    tokenizer_of=TOKENIZER_OF,
    loss_weights=LOSS_WEIGHTS,
    max_tokens={"metadata": 48},  # all 21 fields; the published 40 cut some off
    generation=GENERATION,
)
_SHORT = (
    *("rgb to grids", "rgb to sentences", "any to any", "one to any", "caption to all"),
    *("caption and more to picture", "layout to picture", "hardly anything to all"),
)
"""What a short run has time, and streams, for."""
_SPEEDRUN = replace(
    _TINY,
    name="scenes-speedrun",
    description="The short version: RGB, depth, normals, classes and captions of the embedded scenes at 112 px.",
    modalities=("rgb", "depth", "normal", "semseg", "caption"),
    mixture=replace(_TINY.mixture, components=tuple(c for c in _TINY.mixture.components if c.name in _SHORT)),
    loss_weights={"depth": 2.0, "normal": 2.0, "semseg": 2.0, "rgb": 0.5},
    encoder_depth=4,
    decoder_depth=4,
    learning_rate=2e-3,
    minutes=25.0,
)
PRETRAIN_RECIPES: Mapping[str, PretrainRecipe] = MappingProxyType({r.name: r for r in (_TINY, _SPEEDRUN)})
"""Every pre-training recipe by name."""


def pretrain_recipe(name: str) -> PretrainRecipe:
    """The recipe called ``name``; raises :class:`UnknownNameError` with suggestions."""
    if name not in PRETRAIN_RECIPES:
        raise UnknownNameError("pre-training recipe", name, PRETRAIN_RECIPES)
    return PRETRAIN_RECIPES[name]
