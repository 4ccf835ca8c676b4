"""Linear layers that are also fast for a few rows at a time, as sequences are written."""

from __future__ import annotations

from torch import Tensor, nn

from open4m.precision import slicing_is_faster

_FEW_ROWS = range(4, 13)
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
