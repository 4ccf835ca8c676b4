"""Linear layers with int8 weights and one scale for each output: half the bytes of bfloat16, for inference on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.model.linear import InferenceLinear
from open4m.precision import activation_dtype

_LARGEST = 127
_BLOCK = 16
"""The kernel reads so many inputs at a time, without a look at where a row ends, and from aligned memory."""
_FEW_ROWS = 6
"""Up to so many rows the kernel that reads int8 is the faster one; with more, converting the weights pays."""


class Int8Linear(InferenceLinear):
    """``y = (x Wᵀ) · scale + bias`` with W (O, I) int8: each row of the weights divided by its scale, and rounded.

    A weight is off by half a scale at most, that is by 1/254 of the largest of its row. Activations stay as they are.

    Args:
        linear: the layer whose weights are taken over; they must be finite.

    Attributes:
        weight: (O, I) int8, filled up with zeros to a multiple of 16 inputs.
        scale, bias: (O,) bfloat16; a layer may have no bias.
    """

    held = "int8 weights"

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inputs = linear.in_features
        rows, dtype = linear.weight.detach().float(), activation_dtype(torch.int8)
        smallest = torch.finfo(dtype).tiny  # rows of zeros need a scale, too
        scale = (rows.abs().amax(dim=1) / _LARGEST).to(dtype).clamp_min(smallest)
        numbers = (rows / scale.float()[:, None]).round_().clamp_(-_LARGEST, _LARGEST)
        self.register_buffer("weight", F.pad(numbers.to(torch.int8), (0, -self.inputs % _BLOCK)))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().to(dtype))

    def forward(self, x: Tensor, outputs: Tensor | None = None) -> Tensor:
        """(…, I) → (…, O), or (…, n) of ``outputs`` (n,)."""
        weight, scale, bias = self.weight, self.scale, self.bias
        if outputs is not None:
            weight, scale, bias = weight[outputs], scale[outputs], None if bias is None else bias[outputs]
        rows = x.reshape(-1, x.shape[-1])
        if 0 < len(rows) <= _FEW_ROWS:
            fresh = rows.new_zeros(len(rows), weight.shape[1])  # aligned, as a view may not be
            fresh[:, : self.inputs] = rows
            y = torch._weight_int8pack_mm(fresh, weight, scale)  # pyright: ignore[reportPrivateImportUsage]
        else:
            y = F.linear(rows, weight[:, : self.inputs].to(x.dtype)) * scale  # every int8 is a bfloat16
        return (y if bias is None else y + bias).view(*x.shape[:-1], len(weight))
