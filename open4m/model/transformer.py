"""FourM: the encoder–decoder transformer over streams of tokens (4M, arXiv 2312.06647; 4M-21, arXiv 2406.09406).

Shape suffixes: B samples, N inputs, M targets, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self, cast

import torch
from torch import Tensor, nn

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.errors import CheckpointError, DataError
from open4m.model.attention import Segments, key_mask, layer_norm, target_mask
from open4m.model.blocks import BlockCache, DecoderBlock, EncoderBlock, run_encoder
from open4m.model.config import ModelConfig
from open4m.model.embeddings import (
    DenseInput,
    StreamEmbedding,
    TargetEmbedding,
    group_rows,
    input_embedding,
    scatter_rows,
    vocabulary_table,
)
from open4m.model.int8 import Int8Linear
from open4m.model.linear import replace_linear_layers, table_product
from open4m.model.prepacked import PrepackedLinear
from open4m.precision import activation_dtype, packing_is_faster
from open4m.streams import StreamSpec
from open4m.weights import check_weights

INIT_STD = 0.02


@dataclass
class Encoded:
    """Result of the encoder.

    Attributes:
        context: (B, N, D), what the decoder attends to; padding is meaningless.
        valid: (B, N) bool.
        states: (B, N, D) encoder output after its final norm, for features.
        layers: states of the layers that were asked for, see :func:`~open4m.model.blocks.run_encoder`.
    """

    context: Tensor
    valid: Tensor
    states: Tensor
    layers: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class DecoderCache:
    """State of autoregressive decoding of B rows: ``valid`` (B, N) of the context, and one cache per block."""

    valid: Tensor
    blocks: list[BlockCache]

    def take(self, rows: Tensor) -> DecoderCache:
        """The same for a selection (n,) of rows, such as those that are not finished."""
        return DecoderCache(self.valid[rows], [block.take(rows) for block in self.blocks])


@dataclass
class StreamPrediction:
    """Predictions of one target stream, ordered by (sample, place in the batch).

    Attributes:
        stream: its name.
        logits: (n, V).
        labels: (n,) int64.
    """

    stream: str
    logits: Tensor
    labels: Tensor


class FourM(nn.Module):
    """The transformer.

    Built on a real device, the weights are initialised from ``seed``; built on the meta device, they are given by
    :meth:`load_weights` or :meth:`materialise`.

    Attributes:
        config: its shape.
        trained: whether the weights come from training. False after construction; set by :meth:`load_weights` and
            by the trainer. Generation refuses a model that is not trained.
        compiled: whether its blocks are, see :func:`~open4m.model.compiled.compile_blocks`.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.trained = False
        self.compiled = False
        dim = config.dim
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.modality_embeddings = nn.ParameterDict(
            {s.name: nn.Parameter(torch.empty(dim)) for s in config.streams if s.is_input or s.is_target}
        )
        tied = {spec.table for spec in config.targets} if config.tied_input else set()
        self.encoder_tables = _tables(tuple(s for s in config.inputs if s.table not in tied), dim)
        self.decoder_tables = _tables(config.targets, dim)
        self.encoder_embeddings = nn.ModuleDict({s.name: input_embedding(s, dim) for s in config.inputs})
        self.decoder_embeddings = nn.ModuleDict({s.name: TargetEmbedding(s, dim) for s in config.targets})
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = layer_norm(config, dim)
        self.decoder_proj_context = nn.Linear(dim, dim)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_depth))
        self.decoder_norm = layer_norm(config, dim)
        self.heads = nn.ModuleDict()
        if not config.tied_output:
            self.heads.update({s.name: nn.Linear(dim, s.vocab_size, bias=False) for s in config.targets})
        if not self.mask_token.is_meta:
            self.initialise(seed)

    # -- the paper ----------------------------------------------------------------------------------------------
    def encode(self, inputs: TokenInputs, layers: Collection[int] = ()) -> Encoded:
        """Run the encoder over the visible items of B samples; N = 0 and samples without any item are allowed.

        ``layers`` (0…depth) are kept for features.
        """
        content, place = self.embed_inputs(inputs)
        x, mask = content + place, key_mask(inputs.valid)
        if mask is not None and self._packs(x):
            states, kept = self._encode_packed(x, inputs.valid, layers)
        else:
            states, kept = run_encoder(x, self.encoder, self.encoder_norm, mask, layers)
        return Encoded(self.decoder_proj_context(states) + place, inputs.valid, states, kept)

    def _encode_packed(self, x: Tensor, valid: Tensor, layers: Collection[int]) -> tuple[Tensor, dict[int, Tensor]]:
        """The encoder over x (B, N, D), the samples one behind the other instead of padded; zero where not valid."""
        states, kept = run_encoder(x[valid][None], self.encoder, self.encoder_norm, _lengths(valid), layers)

        def unpacked(packed: Tensor) -> Tensor:
            return torch.zeros_like(x).masked_scatter(valid[:, :, None], packed)

        return unpacked(states), {number: unpacked(layer) for number, layer in kept.items()}

    def decode(self, targets: TokenTargets, encoded: Encoded) -> Tensor:
        """Run the decoder: hidden states (B, M, D) after the final norm; rows of padding are meaningless."""
        y = self.embed_targets(targets)
        mask, context, context_mask = target_mask(targets), encoded.context, key_mask(encoded.valid)
        if context_mask is not None and self._packs(context):
            context, context_mask = context[encoded.valid][None], _lengths(encoded.valid)
        for block in self.decoder:
            y = block(y, context, mask, context_mask)
        return self.decoder_norm(y)

    def start_decoding(self, encoded: Encoded) -> DecoderCache:
        """Prepare autoregressive decoding: the context is projected once for all steps."""
        return DecoderCache(encoded.valid, [cast(DecoderBlock, b).start(encoded.context) for b in self.decoder])

    def decode_next(self, targets: TokenTargets, cache: DecoderCache) -> Tensor:
        """Run the decoder on the next position of each row: targets (B, 1) → hidden states (B, 1, D).

        Equal to :meth:`decode` on all positions given so far, where a row holds a single sequence. ``cache`` grows.
        """
        y, context_mask = self.embed_targets(targets), key_mask(cache.valid)
        for block, state in zip(self.decoder, cache.blocks, strict=True):
            y = cast(DecoderBlock, block).step(y, state, context_mask)
        return self.decoder_norm(y)

    def logits(self, hidden: Tensor, stream: str | int, ids: Tensor | None = None) -> Tensor:
        """Logits (…, V) over the ids of ``stream`` (name or index), or (…, n) of ``ids`` (n,), from states (…, D)."""
        spec = self.config.stream(stream) if isinstance(stream, str) else self.config.streams[stream]
        if not spec.is_target:
            raise DataError(f"{spec.name} is an input of this model, not a target.")
        head = self.decoder_tables[spec.table] if self.config.tied_output else self.heads[spec.name]
        if isinstance(head, Int8Linear):
            return head(hidden, ids)
        weight = cast(Tensor, head.weight)
        return table_product(hidden, weight if ids is None else weight[ids])

    def forward(self, batch: TokenBatch) -> list[StreamPrediction]:
        """Predictions for the target streams that are present, in the order of ``config.streams``."""
        if batch.streams != self.config.names:
            raise DataError(f"The batch was made for streams {batch.streams}, the model has {self.config.names}.")
        hidden = self.decode(batch.targets, self.encode(batch.inputs)).flatten(0, 1)
        labels = batch.targets.label.flatten()
        return [
            StreamPrediction(self.config.names[index], self.logits(hidden[rows], index), labels[rows])
            for index, rows in self._groups(batch.targets)
        ]

    # -- embeddings ---------------------------------------------------------------------------------------------
    def embed_inputs(self, inputs: TokenInputs) -> tuple[Tensor, Tensor]:
        """Content and place (position + modality) of the inputs, each (B, N, D); zero for padding."""
        position, token = inputs.position.flatten(), inputs.token.flatten()
        contents, places = [], []
        for index, rows in self._groups(inputs):
            spec = self._known(index, self.config.streams[index].is_input, "input")
            embedding = cast(StreamEmbedding, self.encoder_embeddings[spec.name])
            if isinstance(embedding, DenseInput):
                content = embedding.content(inputs, rows)
            else:
                tables = self.encoder_tables if spec.table in self.encoder_tables else self.decoder_tables
                content = tables[spec.table](token[rows])
            contents.append((rows, content))
            places.append((rows, embedding.place(position[rows]) + self.modality_embeddings[spec.name]))
        return self._scatter(contents, inputs.stream), self._scatter(places, inputs.stream)

    def embed_targets(self, targets: TokenTargets) -> Tensor:
        """Decoder input (B, M, D); zero for padding."""
        position = targets.position.flatten()
        parts = []
        for index, rows in self._groups(targets):
            spec = self._known(index, self.config.streams[index].is_target, "target")
            embedding = cast(TargetEmbedding, self.decoder_embeddings[spec.name])
            content = embedding.content(targets, rows, self.decoder_tables[spec.table], self.mask_token)
            place = embedding.place(position[rows]) + self.modality_embeddings[spec.name]
            parts.append((rows, content + place))
        return self._scatter(parts, targets.stream)

    def _groups(self, items: TokenInputs | TokenTargets) -> list[tuple[int, Tensor]]:
        return group_rows(items.stream, items.valid, len(self.config.streams))

    def _scatter(self, parts: list[tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
        return scatter_rows(parts, like, self.config.dim, self.mask_token.dtype)

    def _known(self, index: int, allowed: bool, role: str) -> StreamSpec:
        spec = self.config.streams[index]
        if not allowed:
            raise DataError(f"{spec.name} is no {role} of this model; the roles of streams are fixed by its config.")
        return spec

    # -- weights ------------------------------------------------------------------------------------------------
    def materialise(self, device: torch.device | str, seed: int = 0) -> None:
        """Give a model built on the meta device fresh weights on ``device``."""
        self.to_empty(device=torch.device(device))
        self._reset_buffers(device)
        self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Random weights: Xavier-uniform matrices, packed ones part by part; N(0, 0.02²) elsewhere (spec: model §7)."""
        self.trained = False
        generator = torch.Generator(self.mask_token.device).manual_seed(seed)
        for name, module in self.named_modules():
            initialise_layer(name, module, generator)
            if isinstance(module, nn.Embedding):
                if self.config.tied_output and name.startswith("decoder_tables."):
                    bound = math.sqrt(6.0 / (module.num_embeddings + module.embedding_dim))
                    module.weight.uniform_(-bound, bound, generator=generator)
                else:
                    module.weight.normal_(std=INIT_STD, generator=generator)
        for parameter in self._free_parameters():
            parameter.normal_(std=INIT_STD, generator=generator)

    def _free_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are no part of a standard layer: mask token, modality embeddings, learned positions."""
        yield self.mask_token
        yield from self.modality_embeddings.values()
        for module in self.modules():
            if isinstance(module, StreamEmbedding) and isinstance(module.pos_emb, nn.Parameter):
                yield module.pos_emb

    def _reset_buffers(self, device: torch.device | str) -> None:
        for module in self.modules():
            if isinstance(module, StreamEmbedding):
                module.reset_buffers(device)

    def load_weights(
        self,
        weights: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        source: str = "weights",
        *,
        assign: bool = False,
    ) -> None:
        """Take over all weights (keys of ``state_dict``) and mark the model as trained.

        Works on a real or meta model. Raises :class:`CheckpointError` that lists missing, unexpected and mis-shaped
        keys of ``source``; nothing is ever left at its random initialisation. ``dtype`` None keeps the stored one.
        With ``assign`` the given tensors become the parameters where device and dtype fit, else they are copied.
        """
        if any(isinstance(module, PrepackedLinear) for module in self.modules()):
            raise CheckpointError(f"{source}: the model's weights are prepacked for inference. Load it anew.")
        check_weights(weights, self.state_dict(), source)
        taken = {k: v.detach().to(device, dtype or v.dtype, copy=not assign) for k, v in weights.items()}
        self.load_state_dict(taken, strict=True, assign=True)
        self._reset_buffers(device)
        self.trained = True

    @property
    def quantized(self) -> bool:
        """Whether weights are int8, see :meth:`quantize`."""
        return any(isinstance(module, Int8Linear) for module in self.modules())

    def quantize(self) -> None:
        """Hold the linear layers of the blocks and the untied heads as int8, everything else as bfloat16.

        In place, for inference on a CPU: such a model cannot be trained, and no longer has the weights to save.
        """
        for part in (self.encoder, self.decoder, self.heads):
            replace_linear_layers(part, Int8Linear)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(activation_dtype(torch.int8))

    def prepack(self) -> None:
        """Hold the weights of the blocks in the order in which a CPU's kernels read them, in place, for inference.

        Such a model can be saved and copied, but neither trained, nor moved, nor given other weights.
        """
        self.requires_grad_(False)
        for part in (self.encoder, self.decoder):
            replace_linear_layers(part, PrepackedLinear)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Every change of device or number format comes here: all of the model is changed, or nothing."""
        for module in self.modules():
            if isinstance(module, PrepackedLinear):
                module.check_change(fn)
        return super()._apply(fn, recurse)

    def _packs(self, x: Tensor) -> bool:
        """Whether samples stand one behind the other; what is compiled would be for every combination of lengths."""
        return not self.compiled and packing_is_faster(x)


def initialise_layer(name: str, module: nn.Module, generator: torch.Generator) -> None:
    """Fresh weights of a linear layer (Xavier-uniform; packed q, k, v part by part) or a norm (spec: model §7)."""
    if isinstance(module, nn.Linear):
        parts = {"qkv": 3, "kv": 2}.get(name.rpartition(".")[2], 1)
        bound = math.sqrt(6.0 / (module.out_features / parts + module.in_features))
        module.weight.uniform_(-bound, bound, generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def _lengths(valid: Tensor) -> Segments:
    """The samples of ``valid`` (B, N) one behind the other."""
    return Segments(tuple(valid.sum(dim=1).tolist()))


def _tables(specs: tuple[StreamSpec, ...], dim: int) -> nn.ModuleDict:
    """Vocabulary tables by name; streams that name the same one share it."""
    first = {spec.table: spec for spec in reversed(specs) if spec.vocab_size}
    return nn.ModuleDict({table: vocabulary_table(spec, dim) for table, spec in first.items()})
