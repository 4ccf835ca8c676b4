"""What a tokenizer is made of: the published constructor keys and a few of our own (spec: tokenizers §1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from open4m.errors import CheckpointError

_VIT_PRESETS = {"vit_s": (8, 512, 8), "vit_b": (12, 768, 12), "vit_l": (24, 1024, 16)}
_GRAMMAR = re.compile(
    r"(?P<kind>ViT|Conv|BottleneckMLP)/B_(?P<B>\d+)-Wi_(?P<Wi>\d+)(?:-H_(?P<H>\d+))?(?:-E_(?P<E>\d+))?"
)


@dataclass(frozen=True)
class Backbone:
    """Size of an encoder or decoder; ``heads`` concerns ViT only."""

    kind: Literal["ViT", "Conv", "BottleneckMLP"]
    blocks: int
    width: int
    heads: int = 1
    expansion: int = 4

    @classmethod
    def parse(cls, name: str) -> Backbone:
        """From ``vit_{s,b,l}_{enc,dec}`` or ``<kind>/B_<blocks>-Wi_<width>[-H_<heads>][-E_<expansion>]``.

        Kinds are ViT, Conv and BottleneckMLP. ``BottleneckMLP/…`` is the published spelling; the others follow it.
        """
        preset = re.sub("_(enc|dec)$", "", name)
        if preset in _VIT_PRESETS:
            blocks, width, heads = _VIT_PRESETS[preset]
            return cls("ViT", blocks, width, heads)
        match = _GRAMMAR.fullmatch(name)
        if match is None:
            raise CheckpointError(
                f"Unknown encoder or decoder type {name!r}. Expected vit_s_enc, vit_b_enc, vit_l_enc (or _dec), or a "
                "size such as ViT/B_2-Wi_128-H_2, Conv/B_1-Wi_128, BottleneckMLP/B_6-Wi_1024. Diffusion decoders "
                "(unet_…, uvit_…; published for RGB, depth, normals and edges) are not supported."
            )
        kind: Any = match["kind"]
        width, heads = int(match["Wi"]), int(match["H"] or 1)
        if kind == "ViT" and (width % heads or width % 4):
            raise CheckpointError(f"{name!r}: the width must be divisible by 4 and by the number of heads.")
        return cls(kind, int(match["B"]), width, heads, int(match["E"] or 4))


@dataclass(frozen=True)
class TokenizerConfig:
    """Constructor keys of a VQ-VAE. Names, meanings and defaults are the published ones, unless marked *own*.

    Attributes:
        image_size: side in pixels that the position tables are built for (other sizes resize them).
        n_channels: channels of the input, or of the class embedding when ``n_labels`` is given.
        n_labels: number of classes of a class map, whose input is (B, H, W) ids and output (B, n_labels, H, W) logits.
        enc_type, dec_type: see :meth:`Backbone.parse`.
        patch_proj: False = the input is already a grid of features (one vector per token).
        post_mlp: an extra tanh MLP after the blocks of a ViT encoder and decoder.
        patch_size: side of a patch in pixels.
        quant_type: ``lucid`` (one cosine codebook) or ``memcodes`` (``num_codebooks`` heads).
        codebook_size, num_codebooks, latent_dim: K, heads, width of the latent.
        norm_codes: only True (cosine codebook) is supported for ``lucid``.
        norm_latents: latents are L2-normalised before the straight-through step and the commitment loss.
        ema_decay: of the codebook.
        threshold_ema_dead_code: codes used less often per step (EMA) than this are replaced; 0 = never.
        commitment_weight: of the code loss.
        kmeans_init: codes start from k-means; until then training runs unquantized
            (see :meth:`open4m.tokenizers.vqvae.VQVAE.begin_quantization`).
        undo_std: the input is ImageNet-standardised and is brought back to [-1, 1] first.
        out_conv: two ConvNeXt blocks after a ViT decoder.
        image_size_enc, image_size_dec, patch_size_dec: differing sizes of the encoder's or decoder's table.
        tied_labels: *own*. Logits are products with the class embedding, instead of ``n_labels`` output channels.
        input_scale: *own*. Standard deviation of the data; inputs are divided by it, outputs multiplied.
        loss: *own*. Terms of :data:`open4m.tokenizers.losses.LOSSES`, joined by ``+``.
    """

    image_size: int = 224
    n_channels: int = 3
    n_labels: int | None = None
    enc_type: str = "vit_b_enc"
    dec_type: str = "vit_b_dec"
    patch_proj: bool = True
    post_mlp: bool = False
    patch_size: int = 16
    quant_type: str = "lucid"
    codebook_size: int = 16384
    num_codebooks: int = 1
    latent_dim: int = 32
    norm_codes: bool = True
    norm_latents: bool = False
    ema_decay: float = 0.99
    threshold_ema_dead_code: float = 0.25
    commitment_weight: float = 1.0
    kmeans_init: bool = False
    undo_std: bool = False
    out_conv: bool = False
    image_size_enc: int | None = None
    image_size_dec: int | None = None
    patch_size_dec: int | None = None
    tied_labels: bool = False
    input_scale: float = 1.0
    loss: str = "mse"

    def __post_init__(self) -> None:
        if self.quant_type not in ("lucid", "memcodes"):
            raise CheckpointError(f"quant_type {self.quant_type!r} is unknown. Expected 'lucid' or 'memcodes'.")
        if self.quant_type == "lucid" and not (self.norm_codes and self.num_codebooks == 1):
            raise CheckpointError(
                "Only the cosine codebook (norm_codes true, num_codebooks 1) of 'lucid' is supported."
            )
        if self.latent_dim % self.num_codebooks:
            raise CheckpointError(f"latent_dim {self.latent_dim} is not divisible by {self.num_codebooks} codebooks.")
        if self.tied_labels and self.n_labels is None:
            raise CheckpointError("tied_labels needs n_labels.")
        if not self.input_scale > 0:
            raise CheckpointError(f"input_scale must be positive, not {self.input_scale}.")

    @property
    def token_shape(self) -> tuple[int, ...]:
        """Shape of one sample's ids at ``image_size``: (rows, columns), or (heads, 1, 1) of a vector's memory codes."""
        if self.quant_type == "memcodes":
            return (self.num_codebooks, 1, 1)
        side = self.image_size // self.patch_size
        return (side, side)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, as stored in ``config.json``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerConfig:
        """From a hub ``config`` dict. Keys that only concern the reference's training scripts are ignored."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})
