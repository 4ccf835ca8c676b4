"""What all tokenizers share: encoder → 1×1 projection → quantizer (spec: tokenizers §1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from open4m.errors import CheckpointError
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.conv import ConvEncoder, ResidualBlock
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.losses import loss_by_name
from open4m.tokenizers.mlp import BottleneckMLP
from open4m.tokenizers.quantizers import CodebookUsage, CosineQuantizer, MemoryCodes, codebook_usage
from open4m.tokenizers.vit import Attention, ViTEncoder
from open4m.weights import check_weights

_MAKES_IDS = (
    "n_channels",
    "n_labels",
    "enc_type",
    "patch_proj",
    "post_mlp",
    "patch_size",
    "quant_type",
    "input_scale",
    "undo_std",
)
"""Settings that two tokenizers with the same encoder and codebook share."""


class TokenizerOutput(NamedTuple):
    """What a training step needs; everything in units of ``input_scale``.

    ``reconstruction`` (B, C, H, W), logits (B, labels, H, W), or what a diffusion decoder says about a noised value;
    ``target``: what it should be; ``code_loss`` scalar, to be added to the loss between the two; ``ids``
    as :meth:`Tokenizer.tokenize`, or None while the latents pass unquantized.
    """

    reconstruction: Tensor
    target: Tensor
    code_loss: Tensor
    ids: Tensor | None


class Tokenizer(nn.Module, ABC):
    """A tokenizer. Its state-dict keys are the published ones.

    Inputs x are (B, C, H, W) float, or (B, H, W) int64 class ids when the configuration has ``n_labels``; H and W may
    differ from the configured size (position tables are resized) as long as they are multiples of the patch.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        encoder = Backbone.parse(config.enc_type)
        self.cls_emb = nn.Embedding(config.n_labels, config.n_channels) if config.n_labels else None
        self.encoder = build_encoder(encoder, config)
        self.quant_proj = nn.Conv2d(encoder.width, config.latent_dim, 1)
        self.quantize = build_quantizer(config)
        self._loss = loss_by_name(config.loss)
        if config.freeze_enc:
            for part in self._encoding_parts():
                part.requires_grad_(False)

    def _encoding_parts(self) -> list[nn.Module]:
        parts = [self.cls_emb, self.encoder, self.quant_proj, self.quantize]
        return [part for part in parts if part is not None]

    def train(self, mode: bool = True) -> Self:
        """As usual, but what ``freeze_enc`` freezes stays in evaluation mode: its codes do not move."""
        super().train(mode)
        for part in self._encoding_parts() if self.config.freeze_enc else ():
            part.eval()
        return self

    def load_encoder(self, other: Tokenizer) -> None:
        """Copy encoder and codebook of another tokenizer, so that both make the same ids.

        Raises:
            CheckpointError: they do not fit.
        """
        for key in _MAKES_IDS:
            ours, theirs = getattr(self.config, key), getattr(other.config, key)
            if ours != theirs:
                raise CheckpointError(f"The encoder to be taken has {key} {theirs!r}, expected {ours!r}.")
        for part, source in zip(self._encoding_parts(), other._encoding_parts(), strict=True):
            check_weights(source.state_dict(), part.state_dict(), "the encoder to be taken")
            part.load_state_dict(source.state_dict())

    # -- value → tokens ---------------------------------------------------------------------------------------
    def encode(self, x: Tensor) -> Tensor:
        """x → latents (B, d, h, w), before quantization."""
        return self._latents(self._prepare(x))

    def _prepare(self, x: Tensor) -> Tensor:
        """What the network is about: x in units of ``input_scale``; class ids as they are."""
        if self.cls_emb is not None:
            return x
        x = x.to(self.quant_proj.weight.dtype)
        if self.config.undo_std:
            mean, std = x.new_tensor(IMAGENET_MEAN), x.new_tensor(IMAGENET_STD)
            x = (x * std + mean) * 2 - 1
        return x / self.config.input_scale if self.config.input_scale != 1 else x

    def _latents(self, prepared: Tensor) -> Tensor:
        if self.cls_emb is not None:
            prepared = self.cls_emb(prepared).permute(0, 3, 1, 2)
        return self.quant_proj(self.encoder(prepared))

    @torch.no_grad()
    def tokenize(self, x: Tensor) -> Tensor:
        """x → ids: (B, h, w) int64, or (B, heads, h, w) with memory codes."""
        if not self.quantize.started:
            raise CheckpointError("The codebook of this tokenizer is not fitted yet: train it past its late start.")
        return self.quantize.ids(self.encode(x))

    # -- tokens → value ---------------------------------------------------------------------------------------
    @abstractmethod
    def decode_codes(self, codes: Tensor, sampling: Sampling | None = None) -> Tensor:
        """Code vectors (B, d, h, w) → (B, C, H, W) float, or logits (B, labels, H, W).

        ``sampling`` says how a diffusion decoder draws; others have nothing to draw.
        """

    @torch.no_grad()
    def decode_tokens(self, ids: Tensor, sampling: Sampling | None = None) -> Tensor:
        """ids as from :meth:`tokenize` → as :meth:`decode_codes`."""
        return self.decode_codes(self.quantize.lookup(ids), sampling)

    def expected_codes(self, probabilities: Tensor) -> Tensor:
        """Softmax-weighted codes for one-step predictions: (B, h, w, K) → (B, d, h, w).

        The mean code is re-normalised to the codes' length. With memory codes (B, heads, h, w, K).
        """
        return self.quantize.expected(probabilities)

    @torch.no_grad()
    def autoencode(self, x: Tensor, sampling: Sampling | None = None) -> Tensor:
        """x → tokens → value."""
        return self.decode_tokens(self.tokenize(x), sampling)

    # -- training -----------------------------------------------------------------------------------------------
    @abstractmethod
    def forward(self, x: Tensor) -> TokenizerOutput:
        """A training (or validation) pass; in training mode the codebook is updated on the way."""

    def loss(self, output: TokenizerOutput) -> Tensor:
        """The loss that the configuration names, between reconstruction and target (float32 scalar)."""
        if self.cls_emb is not None:
            return self._loss(output.reconstruction, output.target)
        return self._loss(output.reconstruction.float(), output.target.float())

    @property
    def quantizing(self) -> bool:
        """False until :meth:`begin_quantization`, if the configuration asks for ``kmeans_init``."""
        return self.quantize.started

    @torch.no_grad()
    def begin_quantization(self, inputs: Iterable[Tensor]) -> None:
        """Late start: fit the codes to the latents of several batches of inputs, and quantize from now on.

        Together the batches must give at least ``codebook_size`` latents; ten times as many are a good choice.
        """
        training = self.training
        self.eval()
        self.quantize.begin(torch.cat([self.encode(x).float() for x in inputs]))
        self.train(training)

    def codebook_usage(self, ids: Tensor) -> CodebookUsage:
        """Usage over ids (B, …) as from :meth:`tokenize`; the mean over heads with memory codes."""
        heads = ids.unbind(1) if self.config.quant_type == "memcodes" else [ids]
        usages = [codebook_usage(head, self.config.codebook_size) for head in heads]
        return CodebookUsage(*(sum(values) / len(usages) for values in zip(*usages, strict=True)))


def build_encoder(size: Backbone, config: TokenizerConfig) -> nn.Module:
    """Encoder for (B, n_channels, H, W)."""
    patch = config.patch_size if config.patch_proj else 1
    match size.kind:
        case "ViT":
            grid = (config.image_size_enc or config.image_size) // config.patch_size
            return ViTEncoder(size, config.n_channels, patch, grid, config.post_mlp)
        case "Conv":
            return ConvEncoder(size, config.n_channels, patch)
        case "BottleneckMLP":
            return BottleneckMLP(size, config.n_channels, size.width)
        case "UNet":
            raise CheckpointError(f"enc_type {config.enc_type!r}: a UNet is a diffusion decoder, not an encoder.")


def build_quantizer(config: TokenizerConfig) -> CosineQuantizer | MemoryCodes:
    """The quantizer that ``quant_type`` names."""
    if config.quant_type == "memcodes":
        return MemoryCodes(config.codebook_size, config.latent_dim, config.num_codebooks)
    return CosineQuantizer(
        config.codebook_size,
        config.latent_dim,
        decay=config.ema_decay,
        dead_below=config.threshold_ema_dead_code,
        commitment=config.commitment_weight,
        norm_latents=config.norm_latents,
        started=not config.kmeans_init,
    )


def initialise(module: nn.Module) -> None:
    """Xavier-uniform for linear layers, with q, k and v as three matrices (spec: model §7)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    # Modules are visited after their children, so these two have the last word.
    elif isinstance(module, Attention):
        for part in module.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(part)
    elif isinstance(module, ResidualBlock):
        module.reset_last()
