"""What a training run is told: how a tokenizer or a model is built and trained. Named ones are in ``recipes/``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from open4m.data.mixture import Component, Mixture
from open4m.errors import DataError
from open4m.modalities.registry import get_modality
from open4m.model.config import ModelConfig
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.config import TokenizerConfig

TEXT_TABLE = "text"
"""The vocabulary that all text streams share."""


@dataclass(frozen=True)
class TokenizerRecipe:
    """How one tokenizer is built and trained.

    Attributes:
        name: of the tokenizer, and of its folder in a bundle.
        modalities: what it is trained on; it serves all of them.
        config: sizes and loss. ``n_channels`` and ``input_scale`` of features come from the data: :meth:`for_data`.
        batch_size: samples per step.
        learning_rate: peak of AdamW, cosine to 0.
        betas, weight_decay, clip: AdamW and gradient norm.
        late_start: steps without quantization (``config.kmeans_init``).
        pool_batches: batches whose latents start the codes.
        minutes: training time on one core that it takes to be useful.
        average: decay of the moving average of the weights that is kept; 0 = none.
        encoder_of: name of the tokenizer whose encoder and codebook it takes, with ``config.freeze_enc``: both then
            speak the same tokens.
    """

    name: str
    modalities: tuple[str, ...]
    config: TokenizerConfig
    batch_size: int = 8
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.05
    clip: float = 1.0
    late_start: int = 120
    pool_batches: int = 16
    minutes: float = 5.0
    average: float = 0.0
    encoder_of: str | None = None

    def for_data(self, channels: int, scale: float) -> TokenizerRecipe:
        """The same recipe for feature data with ``channels`` channels and standard deviation ``scale``."""
        return replace(self, config=replace(self.config, n_channels=channels, input_scale=scale))


@dataclass(frozen=True)
class PretrainRecipe:
    """How a model is built and trained.

    Attributes:
        name: of the recipe and of the bundle it makes.
        description: of the bundle, one line.
        modalities: whose streams the model has, in this order.
        mixture: of inputs and targets; may name streams that the model lacks, see :meth:`mixture_for`.
        tokenizer_of: modality → name of the tokenizer that makes its tokens.
        dim, encoder_depth, decoder_depth, num_heads: see :class:`ModelConfig`.
        image_size, patch_size: of the pixel stream, in pixels.
        max_tokens: longest sequences by modality, where they are not the published ones.
        sentence_width: channels of the sentence encoder that stands where T5 stood.
        batch_size: samples of a step over all processes.
        learning_rate, warmup, weight_decay, betas, clip: see :class:`open4m.training.trainer.TrainSettings`.
        loss_weights: weights of losses by modality; 1 where not named.
        minutes: length of the run if none is asked for.
        generation: settings that suit such a small model better than the published ones, see :class:`BundleInfo`.
    """

    name: str
    description: str
    modalities: tuple[str, ...]
    mixture: Mixture
    tokenizer_of: Mapping[str, str]
    dim: int = 192
    encoder_depth: int = 5
    decoder_depth: int = 4
    num_heads: int = 3
    image_size: int = 112
    patch_size: int = 8
    max_tokens: Mapping[str, int] = field(default_factory=dict)
    sentence_width: int = 384
    batch_size: int = 16
    learning_rate: float = 1.5e-3
    warmup: float = 0.03
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    minutes: float = 60.0
    generation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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

    def steps_for(self, tokens: float) -> int:
        """Steps that use up a budget of visible and predicted tokens, padding included (spec: training §2)."""
        return math.ceil(tokens / (self.mixture.token_budget * self.batch_size))

    def streams(self, tokenizers: Mapping[str, TokenizerConfig], text_vocabulary: int) -> tuple[StreamSpec, ...]:
        """Streams with the sizes of these tokenizers (by name) and this vocabulary instead of the published ones.

        Token streams that share a tokenizer (edges), and all text streams, share a table.

        Raises:
            DataError: a modality's tokenizer is not named or missing.
        """
        specs = []
        for modality in self.modalities:
            for spec in get_modality(modality).streams(self.image_size, self.patch_size):
                if spec.kind is StreamKind.SEQUENCE:
                    length = self.max_tokens.get(modality, spec.max_tokens)
                    spec = replace(spec, vocab_size=text_vocabulary, table=TEXT_TABLE, max_tokens=length)
                elif spec.kind is StreamKind.EMBEDDING:
                    spec = replace(spec, channels=self.sentence_width)
                elif spec.kind is StreamKind.TOKENS:
                    spec = self._token_stream(spec, tokenizers)
                specs.append(spec)
        return tuple(specs)

    def mixture_for(self, streams: Iterable[StreamSpec]) -> Mixture:
        """The mixture without the streams that the model lacks, and without components that then show nothing."""
        names = {spec.name for spec in streams}

        def known(component: Component) -> Component:
            tables = {field: getattr(component, field) for field in ("inputs", "targets", "keep", "first")}
            present = {
                field: {name: value for name, value in table.items() if name in names}
                for field, table in tables.items()
            }
            return replace(component, **present)

        components = tuple(c for c in map(known, self.mixture.components) if c.inputs and c.targets)
        return replace(self.mixture, components=components)

    def _token_stream(self, spec: StreamSpec, tokenizers: Mapping[str, TokenizerConfig]) -> StreamSpec:
        name = self.tokenizer_of.get(spec.modality)
        if name is None:
            raise DataError(f"recipe {self.name}: tokenizer_of names no tokenizer of {spec.modality!r}. Name one.")
        if name not in tokenizers:
            raise DataError(f"{spec.name} needs the tokenizer {name!r}, which is missing. Train it first.")
        shape = tokenizers[name].token_shape
        length = math.prod(shape)
        grid = None if spec.grid is None else (shape[0], shape[1])
        return replace(spec, vocab_size=tokenizers[name].codebook_size, table=name, max_tokens=length, grid=grid)
