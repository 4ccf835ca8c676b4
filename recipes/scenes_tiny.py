"""The embedded model ``scenes-tiny``: its streams, its shape and how it is trained.

112 px pictures, patches of 8 px, 14 × 14 tokens; 19 streams. Width 192 with 3 wide heads (cheaper than many narrow
ones), SwiGLU without biases, one table per vocabulary for encoder, decoder and head: 6.8 M parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from open4m.data.mixture import Component, Mixture
from open4m.errors import DataError, UnknownNameError
from open4m.modalities.registry import get_modality
from open4m.model.config import ModelConfig
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.config import TokenizerConfig
from recipes.mixtures import scenes
from recipes.tokenizers import TOKENIZER_OF

TEXT_TABLE = "text"
SENTENCE_WIDTH = 384
"""Channels of the sentence encoder that stands where T5 stood."""

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

LOSS_WEIGHTS: Mapping[str, float] = MappingProxyType({"depth": 2.0, "normal": 2.0, "semseg": 2.0, "rgb": 0.5})
"""Weights of the modalities' losses (1 where not named): dense ones up; RGB tokens hardly learn in a short run."""


@dataclass(frozen=True)
class PretrainRecipe:
    """How a model is built and trained.

    Attributes:
        name: of the recipe and of the bundle it makes.
        description: of the bundle, one line.
        dim, encoder_depth, decoder_depth, num_heads: see :class:`ModelConfig`.
        image_size, patch_size: of the pixel stream, in pixels.
        modalities: whose streams the model has.
        mixture: of inputs and targets, over the streams of :data:`MODALITIES`; see :meth:`mixture_for`.
        batch_size: samples of a step over all processes.
        learning_rate, warmup, weight_decay, betas, clip: see :class:`open4m.training.trainer.TrainSettings`.
        loss_weights: weights of losses by modality.
        minutes: length of the run if none is asked for.
    """

    name: str
    description: str
    dim: int = 192
    encoder_depth: int = 5
    decoder_depth: int = 4
    num_heads: int = 3
    image_size: int = 112
    patch_size: int = 8
    modalities: tuple[str, ...] = MODALITIES
    mixture: Mixture = field(default_factory=scenes)
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    warmup: float = 0.03
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    loss_weights: Mapping[str, float] = field(default_factory=lambda: LOSS_WEIGHTS)
    minutes: float = 60.0

    def model_config(self, tokenizers: Mapping[str, TokenizerConfig], text_vocabulary: int) -> ModelConfig:
        """The model over the streams that these tokenizers and this text vocabulary make possible."""
        return ModelConfig(
            streams=self.streams(tokenizers, text_vocabulary),
            dim=self.dim,
            encoder_depth=self.encoder_depth,
            decoder_depth=self.decoder_depth,
            num_heads=self.num_heads,
            tied_input=True,
        )

    def streams(self, tokenizers: Mapping[str, TokenizerConfig], text_vocabulary: int) -> tuple[StreamSpec, ...]:
        """Streams with the sizes of these tokenizers (by name) and this vocabulary instead of the published ones.

        Token streams that share a tokenizer (edges), and all text streams, share a table.

        Raises:
            DataError: a modality's tokenizer is missing.
        """
        specs = []
        for modality in self.modalities:
            for spec in get_modality(modality).streams(self.image_size, self.patch_size):
                if spec.kind is StreamKind.SEQUENCE:
                    spec = replace(spec, vocab_size=text_vocabulary, table=TEXT_TABLE)
                elif spec.kind is StreamKind.EMBEDDING:
                    spec = replace(spec, channels=SENTENCE_WIDTH)
                elif spec.kind is StreamKind.TOKENS:
                    spec = _token_stream(spec, tokenizers)
                specs.append(spec)
        return tuple(specs)

    def mixture_for(self, streams: Iterable[StreamSpec]) -> Mixture:
        """The mixture without the streams that the model lacks, and without components that then show nothing."""
        names = {spec.name for spec in streams}

        def known(component: Component) -> Component:
            inputs, targets, keep = (
                {name: value for name, value in table.items() if name in names}
                for table in (component.inputs, component.targets, component.keep)
            )
            return replace(component, inputs=inputs, targets=targets, keep=keep)

        components = tuple(c for c in map(known, self.mixture.components) if c.inputs and c.targets)
        return replace(self.mixture, components=components)


def _token_stream(spec: StreamSpec, tokenizers: Mapping[str, TokenizerConfig]) -> StreamSpec:
    name = TOKENIZER_OF[spec.modality]
    if name not in tokenizers:
        raise DataError(f"{spec.name} needs the tokenizer {name!r}, which is missing. Train it first.")
    shape = tokenizers[name].token_shape
    length = math.prod(shape)
    grid = None if spec.grid is None else (shape[0], shape[1])
    return replace(spec, vocab_size=tokenizers[name].codebook_size, table=name, max_tokens=length, grid=grid)


_RECIPES = (
    PretrainRecipe("scenes-tiny", "19 streams of the embedded scenes at 112 px."),
    PretrainRecipe(
        "scenes-speedrun",
        "The short version: RGB, depth, normals, classes and captions of the embedded scenes at 112 px.",
        encoder_depth=4,
        decoder_depth=4,
        modalities=("rgb", "depth", "normal", "semseg", "caption"),
        learning_rate=2e-3,
        minutes=25.0,
    ),
)
PRETRAIN_RECIPES: Mapping[str, PretrainRecipe] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})
"""Every pre-training recipe by name."""


def pretrain_recipe(name: str) -> PretrainRecipe:
    """The recipe called ``name``; raises :class:`UnknownNameError` with suggestions."""
    if name not in PRETRAIN_RECIPES:
        raise UnknownNameError("pre-training recipe", name, PRETRAIN_RECIPES)
    return PRETRAIN_RECIPES[name]
