"""Linear layers whose weights lie in the order in which the kernels of a CPU read them, for inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from open4m.errors import GenerationError
from open4m.model.linear import InferenceLinear

_ROWS = 256
"""The products for which the order is chosen; it is the same for all numbers of rows but one."""


class PrepackedLinear(InferenceLinear):
    """``y = x Wᵀ + bias``, the same as of the layer it is made from.

    In bfloat16 every product brings the weights into the order of the matrix unit (AMX) first; here that has been done.
    They take as many bytes as before (oneDNN's blocked formats, by the operators that ``torch.compile`` uses as well).

    Args:
        linear: the layer whose weights are taken over, on a CPU.
    """

    held = "weights in the order of a CPU's kernels"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Every change of device or number format comes here."""
        del fn, recurse
        raise GenerationError(
            f"{self.held} stay where they are. Load the model with the device and dtype that you want."
        )

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias
