"""VQVAE: value ↔ codes. Encoder → 1×1 projection → quantizer → 1×1 projection → decoder (spec: tokenizers §1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from open4m.errors import CheckpointError
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.conv import ConvDecoder, ConvEncoder, ResidualBlock
from open4m.tokenizers.losses import loss_by_name
from open4m.tokenizers.mlp import BottleneckMLP
from open4m.tokenizers.quantizers import CodebookUsage, CosineQuantizer, MemoryCodes, codebook_usage
from open4m.tokenizers.vit import Attention, ViTDecoder, ViTEncoder


class VQVAEOutput(NamedTuple):
    """What a training step needs.

    ``reconstruction`` (B, C, H, W) or logits (B, labels, H, W); ``code_loss`` scalar, to be added to the reconstruction
    loss; ``ids`` as :meth:`VQVAE.tokenize`, or None while the latents pass unquantized.
    """

    reconstruction: Tensor
    code_loss: Tensor
    ids: Tensor | None


class VQVAE(nn.Module):
    """A tokenizer. Its state-dict keys are the published ones.

    Inputs x are (B, C, H, W) float, or (B, H, W) int64 class ids when the configuration has ``n_labels``; H and W may
    differ from the configured size (position tables are resized) as long as they are multiples of the patch.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        encoder, decoder = Backbone.parse(config.enc_type), Backbone.parse(config.dec_type)
        self.cls_emb = nn.Embedding(config.n_labels, config.n_channels) if config.n_labels else None
        self.encoder = build_encoder(encoder, config)
        self.quant_proj = nn.Conv2d(encoder.width, config.latent_dim, 1)
        self.quantize = build_quantizer(config)
        self.post_quant_proj = nn.Conv2d(config.latent_dim, decoder.width, 1)
        tied = config.tied_labels
        self.decoder = build_decoder(
            decoder, config, config.n_labels or config.n_channels if not tied else config.n_channels
        )
        self.label_bias = nn.Parameter(torch.zeros(config.n_labels)) if tied and config.n_labels else None
        self._loss = loss_by_name(config.loss)
        self.apply(_initialise)

    # -- value → tokens ---------------------------------------------------------------------------------------
    def encode(self, x: Tensor) -> Tensor:
        """x → latents (B, d, h, w), before quantization."""
        if self.cls_emb is not None:
            x = self.cls_emb(x).permute(0, 3, 1, 2)
        else:
            x = x.to(self.quant_proj.weight.dtype)
            if self.config.undo_std:
                mean, std = x.new_tensor(IMAGENET_MEAN), x.new_tensor(IMAGENET_STD)
                x = (x * std + mean) * 2 - 1
            if self.config.input_scale != 1:
                x = x / self.config.input_scale
        return self.quant_proj(self.encoder(x))

    @torch.no_grad()
    def tokenize(self, x: Tensor) -> Tensor:
        """x → ids: (B, h, w) int64, or (B, heads, h, w) with memory codes."""
        if not self.quantize.started:
            raise CheckpointError("The codebook of this tokenizer is not fitted yet: train it past its late start.")
        return self.quantize.ids(self.encode(x))

    # -- tokens → value ---------------------------------------------------------------------------------------
    def decode_codes(self, codes: Tensor) -> Tensor:
        """Code vectors (B, d, h, w) → (B, C, H, W) float, or logits (B, labels, H, W)."""
        y = self.decoder(self.post_quant_proj(codes.to(self.post_quant_proj.weight.dtype)))
        if self.cls_emb is not None and self.label_bias is not None:
            rows = nn.functional.linear(y.permute(0, 2, 3, 1), self.cls_emb.weight, self.label_bias)
            return rows.permute(0, 3, 1, 2)
        return y * self.config.input_scale if self.config.input_scale != 1 else y

    @torch.no_grad()
    def decode_tokens(self, ids: Tensor) -> Tensor:
        """ids as from :meth:`tokenize` → (B, C, H, W) float, or logits (B, labels, H, W)."""
        return self.decode_codes(self.quantize.lookup(ids))

    def expected_codes(self, probabilities: Tensor) -> Tensor:
        """Softmax-weighted codes for one-step predictions: (B, h, w, K) → (B, d, h, w).

        The mean code is re-normalised to the codes' length. With memory codes (B, heads, h, w, K).
        """
        return self.quantize.expected(probabilities)

    @torch.no_grad()
    def autoencode(self, x: Tensor) -> Tensor:
        """x → tokens → value."""
        return self.decode_tokens(self.tokenize(x))

    # -- training -----------------------------------------------------------------------------------------------
    def forward(self, x: Tensor) -> VQVAEOutput:
        """A training (or validation) pass; in training mode the codebook is updated on the way."""
        codes, loss, ids = self.quantize(self.encode(x))
        return VQVAEOutput(self.decode_codes(codes), loss, ids)

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


def reconstruction_loss(model: VQVAE, x: Tensor, reconstruction: Tensor) -> Tensor:
    """The loss that the configuration names (float32 scalar), in units of ``input_scale``."""
    if model.cls_emb is not None:
        return model._loss(reconstruction, x)
    scale = model.config.input_scale
    return model._loss(reconstruction.float() / scale, x.float() / scale)


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


def build_decoder(size: Backbone, config: TokenizerConfig, channels: int) -> nn.Module:
    """Decoder to (B, channels, H, W)."""
    patch_size = config.patch_size_dec or config.patch_size
    patch = patch_size if config.patch_proj else 1
    match size.kind:
        case "ViT":
            grid = (config.image_size_dec or config.image_size) // patch_size
            return ViTDecoder(size, channels, patch, grid, config.post_mlp, config.out_conv)
        case "Conv":
            return ConvDecoder(size, channels, patch)
        case "BottleneckMLP":
            return BottleneckMLP(size, size.width, channels)


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


def _initialise(module: nn.Module) -> None:
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
