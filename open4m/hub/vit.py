"""``open4m.vit``: the picture encoder of a 4M model, from any checkpoint that holds one, or untrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from open4m.errors import CheckpointError
from open4m.hub import resolve
from open4m.hub.blueprint import read_blueprint
from open4m.hub.published import from_published
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.model.config import ModelConfig
from open4m.model.sizes import named_size
from open4m.model.vit import ViT
from open4m.streams import StreamKind, StreamSpec
from open4m.weights import check_weights, read_weights


def vit(
    weights: str | Path | None = None,
    *,
    size: str | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int = 16,
    output_head: nn.Module | None = None,
    norm: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> ViT:
    """A picture encoder (spec: model §8), in training mode like any new module.

    >>> backbone = open4m.vit("EPFL-VILAB/4M-21_B")
    >>> features = backbone(images)  # (B, 3, H, W), normalised by backbone.mean and .std → (B, N, D)
    >>> untrained = open4m.vit(size="base", image_size=256)

    Args:
        weights: name of a bundle of the package, a folder, a ``.safetensors`` file, or a hub id, of an any-to-any
            model or of such an encoder.
            Every weight of the encoder must be in the file; what belongs to other streams and to the decoder is left.
        size: without weights: ``base`` and the like, or a name in :data:`open4m.model.sizes.MODEL_SIZES`.
        image_size: H = W, or (H, W), that the position table is made for; others are served, too. Default: as trained,
            or 224.
        patch_size: without weights: side of a patch in pixels.
        output_head, norm, seed: see :class:`~open4m.model.vit.ViT`.

    Raises:
        UnknownNameError: no such model or size.
        CheckpointError: weights of the encoder are missing, mis-shaped or damaged; the message names them.
        ValueError: neither or both of ``weights`` and ``size`` are given, or sizes do not fit.
    """
    if (weights is None) == (size is None):
        raise ValueError("give the weights of a model, or without weights a size such as 'base'")
    part: dict[str, Tensor] | None = None
    if size is not None:
        image_size = image_size or 224
        side = image_size if isinstance(image_size, int) else image_size[0]
        pixels = get_modality("rgb").streams(side, patch_size)[0]
        config = ModelConfig((pixels,), **named_size(size))
    else:
        assert weights is not None
        config, part = _read(weights)
        (pixels,) = config.streams
    if image_size is not None:
        pixels = _resized(pixels, image_size)
    mean, std = (values.flatten().tolist() for values in (IMAGENET_MEAN, IMAGENET_STD))
    config = replace(config, streams=(pixels,))
    model = ViT(config, output_head=output_head, norm=norm, seed=seed, mean=mean, std=std)
    if part is not None:
        _fill(model, part, str(weights))
    return model.to(device, dtype)


def _resized(pixels: StreamSpec, size: int | tuple[int, int]) -> StreamSpec:
    """The stream for pictures of another size; it keeps its name, and so its weights."""
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = height // pixels.patch_size, width // pixels.patch_size
    if (rows * pixels.patch_size, columns * pixels.patch_size) != (height, width) or not rows * columns:
        raise ValueError(f"image_size {size} must be a multiple of the patch, {pixels.patch_size}")
    return replace(pixels, grid=(rows, columns), max_tokens=rows * columns)


def _read(name: str | Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Shape, and our names of the weights, of the part that sees pixels; constants in the file are checked."""
    plan = read_blueprint(resolve(name), name)
    assert plan.weights is not None  # what has been resolved is here
    pixels = next((spec for spec in plan.config.inputs if spec.kind is StreamKind.PIXELS), None)
    if pixels is None:
        raise CheckpointError(f"{name}: this model has no pixels among its inputs, so no picture encoder.")
    prefixes = ("encoder.", "encoder_norm.", f"encoder_embeddings.{pixels.name}.", f"modality_embeddings.{pixels.name}")
    part = {key: value for key, value in read_weights(plan.weights).items() if key.startswith(prefixes)}
    part = from_published(part, plan.config) if plan.published else part
    return replace(plan.config, streams=(pixels,)), part


def _fill(model: ViT, part: Mapping[str, Tensor], source: str) -> None:
    """Copy all weights; constants are the model's own."""
    (pixels,) = model.config.streams
    modality = f"modality_embeddings.{pixels.name}"
    found = {key: value for key, value in part.items() if key != modality}
    if modality in part:
        found[f"encoder_embeddings.{pixels.name}.mod_emb"] = part[modality].view(1, 1, -1)
    if isinstance(model.encoder_norm, nn.Identity):
        found = {key: value for key, value in found.items() if not key.startswith("encoder_norm.")}
    expected = {key: p for key, p in model.named_parameters() if not key.startswith("output_head.")}
    check_weights(found, expected, source)
    model.load_state_dict(found, strict=False)
