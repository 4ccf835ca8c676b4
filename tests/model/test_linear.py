"""Linear layers: the same result for any number of rows, however the weights are read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from open4m.model.linear import Linear


def product(layer: Linear, x: Tensor) -> Tensor:
    """As the definition says, in float64."""
    y = x.double() @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize("outputs", [32, 33])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(0, 24), (1, 24), (5, 24), (6, 1, 24), (2, 3, 24), (12, 24), (13, 24), (24,)])
def test_any_number_of_rows_gives_the_product(outputs: int, bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, outputs, bias=bias), torch.randn(shape)
    torch.testing.assert_close(layer(x), product(layer, x).float(), atol=1e-6, rtol=1e-5)


def test_rows_need_not_lie_one_behind_the_other() -> None:
    torch.manual_seed(1)
    layer, x = Linear(24, 32), torch.randn(24, 6).T
    torch.testing.assert_close(layer(x), product(layer, x).float(), atol=1e-6, rtol=1e-5)


def test_gradients_are_those_of_the_product() -> None:
    torch.manual_seed(2)
    layer, x = Linear(24, 32), torch.randn(6, 24, requires_grad=True)
    taken = [x, layer.weight, layer.bias]
    ours = torch.autograd.grad(layer(x).square().sum(), taken)
    exact = torch.autograd.grad(product(layer, x).square().sum(), taken)
    for gradient, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 6, 20])
def test_bfloat16_is_the_ordinary_product(rows: int) -> None:
    torch.manual_seed(3)
    layer, x = Linear(24, 32).bfloat16(), torch.randn(rows, 24).bfloat16()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
