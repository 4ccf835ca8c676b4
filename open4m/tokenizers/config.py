"""What a tokenizer is made of: the published constructor keys and a few of our own (spec: tokenizers §1)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal

from open4m.errors import CheckpointError
from open4m.tokenizers.losses import LOSSES

_PRESETS = {
    "vit_s": "ViT/B_8-Wi_512-H_8",
    "vit_b": "ViT/B_12-Wi_768-H_12",
    "vit_l": "ViT/B_24-Wi_1024-H_16",
    "unet_patched": "UNet/B_3-Wi_256-L_4",
}
"""Published names of sizes."""

_GRAMMAR = re.compile(
    r"(?P<kind>ViT|Conv|BottleneckMLP|UNet)/B_(?P<B>\d{1,3})-Wi_(?P<Wi>\d{1,5})"
    r"(?:-H_(?P<H>\d{1,3}))?(?:-E_(?P<E>\d{1,2}))?(?:-L_(?P<L>[1-4]))?"
)
UNET_GROUPS = 32
"""Groups of the UNet's norms; its width is a multiple."""

_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "int | None": (int, NoneType),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}
_LARGEST = {
    **dict.fromkeys(("image_size", "image_size_enc", "image_size_dec"), 4096),
    **dict.fromkeys(("patch_size", "patch_size_dec"), 512),
    **dict.fromkeys(("n_channels", "n_labels", "latent_dim"), 2**16),
    "codebook_size": 2**24,
    "num_codebooks": 1024,
    "num_train_timesteps": 100_000,
}
"""Far beyond any published tokenizer, and still built within memory: configurations may come from anywhere."""

_IGNORED = {
    "sync_codebook",
    "code_replacement_policy",
    "ckpt_path",
    "ignore_keys",
    "cls_free_guidance_dropout",
    "masked_cfg",
    "masked_cfg_low",
    "masked_cfg_high",
    "dec_transformer_dropout",
}
"""Published keys without effect on a trained tokenizer (or only on decoders that were never published)."""


@dataclass(frozen=True)
class Backbone:
    """Size of an encoder or decoder; ``heads`` concerns ViT only, ``levels`` UNet only (1…4 resolutions)."""

    kind: Literal["ViT", "Conv", "BottleneckMLP", "UNet"]
    blocks: int
    width: int
    heads: int = 1
    expansion: int = 4
    levels: int = 4

    @classmethod
    def parse(cls, name: str) -> Backbone:
        """From a published name (``vit_{s,b,l}_{enc,dec}``, ``unet_patched``) or a size.

        Sizes are ``<kind>/B_<blocks>-Wi_<width>[-H_<heads>][-E_<expansion>][-L_<levels>]``; kinds are ViT, Conv,
        BottleneckMLP and UNet. ``BottleneckMLP/…`` is the published spelling; the others follow it.
        """
        match = _GRAMMAR.fullmatch(_PRESETS.get(re.sub("_(enc|dec)$", "", name), name))
        if match is None:
            raise CheckpointError(
                f"Unknown encoder or decoder type {name!r}. Expected vit_s_enc, vit_b_enc, vit_l_enc (or _dec), "
                "unet_patched, or a size such as ViT/B_2-Wi_128-H_2, Conv/B_1-Wi_128, BottleneckMLP/B_6-Wi_1024, "
                "UNet/B_1-Wi_64-L_3. The UViT and ControlNet decoders, which were never published, are not supported."
            )
        kind: Any = match["kind"]
        width, heads = int(match["Wi"]), int(match["H"] or 1)
        if kind == "ViT" and (heads < 1 or width % heads or width % 4):
            raise CheckpointError(f"{name!r}: the width must be divisible by 4 and by the number of heads.")
        if kind == "UNet" and (not width or width % UNET_GROUPS):
            raise CheckpointError(f"{name!r}: the width must be divisible by {UNET_GROUPS}.")
        return cls(kind, int(match["B"]), width, heads, int(match["E"] or 4), int(match["L"] or 4))


@dataclass(frozen=True)
class TokenizerConfig:
    """Constructor keys of a tokenizer. Names, meanings and defaults are the published ones, unless marked *own*.

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
        freeze_enc: encoder and codebook do not learn (they come from another tokenizer).
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
    freeze_enc: bool = False
    undo_std: bool = False
    out_conv: bool = False
    image_size_enc: int | None = None
    image_size_dec: int | None = None
    patch_size_dec: int | None = None
    tied_labels: bool = False
    input_scale: float = 1.0
    loss: str = "mse"

    def __post_init__(self) -> None:
        for field in fields(self):
            value, types = getattr(self, field.name), _TYPES[str(field.type)]
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise CheckpointError(f"{field.name} is {value!r}, expected {field.type}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise CheckpointError(f"{field.name} is {value}, expected a finite number.")
            largest = _LARGEST.get(field.name)
            if largest is not None and value is not None and not 1 <= value <= largest:
                raise CheckpointError(f"{field.name} is {value}, expected 1…{largest}.")
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
        unknown = sorted(set(self.loss.split("+")) - set(LOSSES))
        if unknown:
            raise CheckpointError(f"loss {self.loss!r}: no loss is called {unknown}. Known: {', '.join(LOSSES)}.")
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
    def from_dict(cls, values: Mapping[str, Any], source: str = "tokenizer") -> TokenizerConfig:
        """From a ``config.json``, ours or published: a :class:`DiffusionConfig` where it describes a diffusion decoder.

        Published keys that only concern the reference's training scripts are dropped.

        Raises:
            CheckpointError: unknown keys, or values that no tokenizer of this package can have; names ``source``.
        """
        diffusion = {f.name for f in fields(DiffusionConfig)} - {f.name for f in fields(TokenizerConfig)}
        decoder = values.get("dec_type")
        is_unet = isinstance(decoder, str) and decoder.lower().startswith("unet")
        kind = DiffusionConfig if is_unet or (decoder is None and diffusion & set(values)) else TokenizerConfig
        known = {f.name for f in fields(kind)}
        unknown = sorted(str(key) for key in set(values) - known - _IGNORED - {"conditioning"})
        if unknown:
            raise CheckpointError(f"{source}: unknown keys {', '.join(unknown)} in a tokenizer's configuration.")
        if values.get("conditioning", "concat") != "concat":
            raise CheckpointError(f"{source}: conditioning {values['conditioning']!r} is not supported, only 'concat'.")
        try:
            return kind(**{k: v for k, v in values.items() if k in known})
        except CheckpointError as error:
            raise CheckpointError(f"{source}: {error}") from error


@dataclass(frozen=True)
class DiffusionConfig(TokenizerConfig):
    """Constructor keys of a tokenizer with a diffusion decoder ("DiVAE"; spec: tokenizers §1, §4).

    Attributes:
        num_train_timesteps: T, noise levels.
        scheduler: how values are drawn: ``ddim`` or ``ddpm``.
        beta_schedule: see :func:`open4m.tokenizers.diffusion.signal_levels`.
        prediction_type: what the network predicts: ``sample``, ``epsilon`` or ``v_prediction``.
        clip_sample, thresholding: either keeps predicted values in [-1, 1] while sampling.
        zero_terminal_snr: the last noise level holds no signal at all.
    """

    dec_type: str = "unet_patched"
    num_train_timesteps: int = 1000
    scheduler: str = "ddpm"
    beta_schedule: str = "squaredcos_cap_v2"
    prediction_type: str = "v_prediction"
    clip_sample: bool = False
    thresholding: bool = True
    zero_terminal_snr: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {"scheduler": ("ddim", "ddpm"), "prediction_type": ("sample", "epsilon", "v_prediction")}
        for name, accepted in choices.items():
            if getattr(self, name) not in accepted:
                raise CheckpointError(f"{name} {getattr(self, name)!r} is unknown. Expected {' or '.join(accepted)}.")
        if self.num_train_timesteps < 2:
            raise CheckpointError(f"num_train_timesteps must be at least 2, not {self.num_train_timesteps}.")
        if self.n_labels is not None or self.quant_type != "lucid" or not self.patch_proj:
            raise CheckpointError("A diffusion decoder needs pictures and one codebook (no n_labels, no memcodes).")
        if self.image_size_dec not in (None, self.image_size):
            raise CheckpointError("image_size_dec other than image_size is not supported with a diffusion decoder.")
