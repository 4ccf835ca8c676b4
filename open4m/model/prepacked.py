"""Linear layers whose weights lie in the order in which the kernels of a CPU read them, for inference on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from open4m.errors import GenerationError
from open4m.model.linear import InferenceLinear

_ROWS = 256
"""The rows of the products for which the order is chosen. It serves all numbers of them; for 1 it would be slower."""


class PrepackedLinear(InferenceLinear):
    """``y = x Wᵀ + bias``, up to rounding the same as of the layer it is made from.

    In bfloat16 every product brings the weights into the order of the matrix unit first; here that has been done. They
    take as many bytes as before (oneDNN's blocked formats, by the operators that ``torch.compile`` uses as well). No
    gradients come through.

    Args:
        linear: the layer whose weights are taken over, on a CPU.
    """

    held = "weights in the order of a CPU's kernels"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = _ordered(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) → (…, O). Raises :class:`GenerationError` if gradients are wanted."""
        if x.requires_grad and torch.is_grad_enabled():
            raise GenerationError(f"No gradients come through {self.held}. Load the model by open4m.hub.load_bundle.")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def check_change(self, change: Callable[[Tensor], Tensor]) -> None:
        """Raises :class:`GenerationError` if ``change`` gives tensors another device or number format."""
        before = torch.empty(0, dtype=self.weight.dtype)
        after = change(before)
        if (after.dtype, after.device) != (before.dtype, before.device):
            raise GenerationError(
                f"{self.held} stay as they are. Load the model with the device and dtype that you want."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Every change of device or number format comes here."""
        del recurse
        self.check_change(fn)
        return self

    # -- opaque to storage: read and written as ordinary weights ------------------------------------------------------
    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.to_dense()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "weight": self.weight.to_dense()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.weight = _ordered(self.weight)


def _ordered(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
