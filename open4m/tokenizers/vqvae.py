"""VQVAE: value ↔ codes. Encoder → 1×1 projection → quantizer → 1×1 projection → decoder (spec: tokenizers §1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from open4m.errors import CheckpointError
from open4m.tokenizers.base import Tokenizer, TokenizerOutput, initialise
from open4m.tokenizers.config import Backbone, TokenizerConfig
from open4m.tokenizers.conv import ConvDecoder
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.mlp import BottleneckMLP
from open4m.tokenizers.vit import ViTDecoder


class VQVAE(Tokenizer):
    """A tokenizer whose decoder gives the value in one pass."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__(config)
        decoder = Backbone.parse(config.dec_type)
        self.post_quant_proj = nn.Conv2d(config.latent_dim, decoder.width, 1)
        tied = config.tied_labels
        self.decoder = build_decoder(
            decoder, config, config.n_labels or config.n_channels if not tied else config.n_channels
        )
        self.label_bias = nn.Parameter(torch.zeros(config.n_labels)) if tied and config.n_labels else None
        self.apply(initialise)

    def decode_codes(self, codes: Tensor, sampling: Sampling | None = None) -> Tensor:  # noqa: ARG002
        """Code vectors (B, d, h, w) → (B, C, H, W) float, or logits (B, labels, H, W)."""
        y = self._decode(codes)
        return y * self.config.input_scale if self.config.input_scale != 1 else y

    def _decode(self, codes: Tensor) -> Tensor:
        y = self.decoder(self.post_quant_proj(codes.to(self.post_quant_proj.weight.dtype)))
        if self.cls_emb is not None and self.label_bias is not None:
            rows = nn.functional.linear(y.permute(0, 2, 3, 1), self.cls_emb.weight, self.label_bias)
            return rows.permute(0, 3, 1, 2)
        return y

    def forward(self, x: Tensor) -> TokenizerOutput:
        """Target: the input."""
        prepared = self._prepare(x)
        codes, code_loss, ids = self.quantize(self._latents(prepared))
        return TokenizerOutput(self._decode(codes), prepared, code_loss, ids)


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
        case "UNet":
            raise CheckpointError(f"dec_type {config.dec_type!r}: a diffusion decoder needs a DiffusionConfig.")
