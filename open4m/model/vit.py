"""ViT: the encoder of a 4M model for pictures alone, as a plain backbone (spec: model §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from open4m.errors import DataError
from open4m.model.attention import layer_norm
from open4m.model.blocks import EncoderBlock, layer_number, run_encoder
from open4m.model.config import ModelConfig
from open4m.model.embeddings import cut_patches, sincos_2d
from open4m.model.transformer import INIT_STD, initialise_layer
from open4m.streams import StreamKind, StreamSpec


class PatchEmbedding(nn.Module):
    """A picture as tokens: linear map of the patches + position + modality.

    ``pos_emb`` (1, N, D) is constant; for pictures of another size the sine-cosine table of their grid is computed.
    """

    pos_emb: Tensor

    def __init__(self, spec: StreamSpec, dim: int) -> None:
        super().__init__()
        assert spec.grid is not None
        self.spec, self.grid = spec, spec.grid
        self.mod_emb = nn.Parameter(torch.empty(1, 1, dim))
        self.proj = nn.Linear(spec.patch_size**2 * spec.channels, dim, bias=False)
        self.register_buffer("pos_emb", sincos_2d(spec.grid, dim)[None])

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, H/patch · W/patch, D)."""
        side, channels = self.spec.patch_size, self.spec.channels
        if images.dim() != 4 or images.shape[1] != channels or images.shape[2] % side or images.shape[3] % side:
            raise DataError(
                f"Images {tuple(images.shape)}: expected (B, {channels}, H, W), H and W multiples of the patch, {side}."
            )
        patches = cut_patches(images, side)
        grid, table = (patches.shape[1], patches.shape[2]), self.pos_emb
        if grid != self.grid:
            table = sincos_2d(grid, table.shape[-1]).to(table)[None]
        content = self.proj(patches.flatten(3).flatten(1, 2).to(self.proj.weight.dtype))
        return content + (table + self.mod_emb)


class ViT(nn.Module):
    """Normalised pictures (B, 3, H, W) → features (B, N, D), N = patches row by row; no class token.

    H and W may be any multiples of the patch. The names of the weights are those of the encoder in a published 4M
    checkpoint. Equal to the any-to-any encoder that is given nothing but pixels.

    Args:
        config: shape; its only stream is the pixels. The decoder's part is of no meaning here.
        output_head: applied to the features (B, N, D). If it has a method ``init(dim)``, that is called last.
        norm: whether features go through the final norm of the encoder.
        seed: of the initial weights.
        mean, std: per channel, of the pixels (0…1) as the model wants them; kept for those who prepare the pictures.

    Attributes:
        dim: D.
        patch_size: side of a patch in pixels.
        mean, std: see above.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        output_head: nn.Module | None = None,
        norm: bool = True,
        seed: int = 0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        (spec,) = config.streams
        if spec.kind is not StreamKind.PIXELS:
            raise ValueError(f"{spec.name} holds {spec.kind}; a ViT sees pixels")
        self.config, self.dim, self.patch_size = config, config.dim, spec.patch_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.encoder_embeddings = nn.ModuleDict({spec.name: PatchEmbedding(spec, config.dim)})
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.encoder_depth))
        self.encoder_norm = layer_norm(config, config.dim) if norm else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.LayerNorm) and module.bias is None:
                del module.bias  # published files store the missing biases: as zeros that are not trained
                module.register_buffer("bias", torch.zeros_like(module.weight))
        self._initialise(seed)
        self.output_head = output_head or nn.Identity()
        if hasattr(self.output_head, "init"):
            self.output_head.init(config.dim)  # type: ignore[operator]

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        generator = torch.Generator(self._embedding.mod_emb.device).manual_seed(seed)
        for name, module in self.named_modules():
            initialise_layer(name, module, generator)
        self._embedding.mod_emb.normal_(std=INIT_STD, generator=generator)

    @property
    def _embedding(self) -> PatchEmbedding:
        return cast(PatchEmbedding, self.encoder_embeddings[self.config.streams[0].name])

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) → (B, N, D), or what the output head makes of them."""
        states, _ = run_encoder(self._embedding(images), self.encoder, self.encoder_norm, None)
        return self.output_head(states)

    def intermediate(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features (B, N, D) of several layers, in the order asked for; without the output head.

        Layer 0 is the embedded picture, i the state after i blocks, -1 the last one, after the final norm (if any).
        ``x.transpose(1, 2).unflatten(2, (rows, columns))`` makes a map (B, D, rows, columns).

        Raises:
            GenerationError: there is no such layer.
        """
        numbers = [layer_number(layer, len(self.encoder)) for layer in layers]
        _, kept = run_encoder(self._embedding(images), self.encoder, self.encoder_norm, None, numbers)
        return [kept[number] for number in numbers]
