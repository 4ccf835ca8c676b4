"""Linear layers: fast for a few rows at a time, as sequences are written; and what other forms for inference share."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from open4m.errors import TrainingError
from open4m.precision import slicing_is_faster, table_first_is_faster

_FEW_ROWS = range(4, 13)  # for which slices are faster
_MOST_ROWS = 12  # for which a table in front is faster
_SLICES = 16
_LARGE = 2**20  # weights


class Linear(nn.Linear):
    """``y = x Wᵀ + b``, for a few rows as a batch of products with slices of W: what counts then is how W is read.

    For 4 to 12 rows the ordinary product reads large weights at half of the rate at which it reads them for one
    (``python -m benchmarks.few_rows``). Both give the same up to rounding; nothing is copied but the result.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        rows = input.numel() // self.in_features
        fits = rows in _FEW_ROWS and self.weight.numel() > _LARGE and self.out_features % _SLICES == 0
        if not fits or not slicing_is_faster(input):
            return super().forward(input)
        slices = self.weight.view(_SLICES, -1, self.in_features).transpose(1, 2)
        products = input.reshape(1, rows, -1).expand(_SLICES, -1, -1).bmm(slices)
        y = products.transpose(0, 1).reshape(*input.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def table_product(hidden: Tensor, table: Tensor) -> Tensor:
    """States (…, D) times a table (V, D) → (…, V); in bfloat16 on a CPU, for a few rows, with the table in front.

    The kernels bring what comes second into an order of their own first: better the few rows than the table.
    """
    rows = hidden.reshape(-1, hidden.shape[-1])
    if not 0 < len(rows) <= _MOST_ROWS or hidden.dtype != table.dtype or not table_first_is_faster(hidden):
        return F.linear(hidden, table)
    product = torch.mv(table, rows[0]) if len(rows) == 1 else torch.mm(table, rows.t()).t()
    return product.reshape(*hidden.shape[:-1], -1)


class InferenceLinear(nn.Module):
    """Base of layers that take the place of a linear one, for inference alone: its weights in another form.

    Attributes:
        held: the form, for people.
    """

    held: ClassVar[str]

    def train(self, mode: bool = True) -> Self:
        """Refuses to: raises :class:`TrainingError` unless ``mode`` is False."""
        if mode:
            raise TrainingError(f"{self.held} cannot be trained. Load the model by open4m.hub.load_bundle, as float32.")
        return super().train(mode)


def replace_linear_layers(module: nn.Module, form: Callable[[nn.Linear], InferenceLinear]) -> None:
    """Put ``form`` of it in the place of every linear layer inside of ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, form(child).eval())
        else:
            replace_linear_layers(child, form)
