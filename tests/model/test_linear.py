"""Linear layers: the same result for any number of rows, however the weights are read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from open4m.model.linear import Linear

WIDTH, OUTPUTS = 1024, 1040
"""Of a layer whose weights are read slice by slice."""


def product(layer: Linear, x: Tensor) -> Tensor:
    """As the definition says, in float64."""
    y = x.double() @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


@pytest.mark.parametrize("outputs", [1040, 1041, 48])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(0,), (1,), (5,), (6, 1), (2, 3), (12,), (13,), ()])
def test_any_number_of_rows_gives_the_product(outputs: int, bias: bool, rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = Linear(WIDTH, outputs, bias=bias), torch.randn(*rows, WIDTH)
    torch.testing.assert_close(layer(x), product(layer, x).float(), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("rows", "outputs", "sliced"),
    [
        (3, OUTPUTS, False),
        (4, OUTPUTS, True),
        (12, OUTPUTS, True),
        (13, OUTPUTS, False),
        (6, 1041, False),
        (6, 48, False),
    ],
)
def test_large_weights_are_sliced_for_a_few_rows(
    monkeypatch: pytest.MonkeyPatch, rows: int, outputs: int, sliced: bool
) -> None:
    calls, bmm = [], Tensor.bmm
    monkeypatch.setattr(Tensor, "bmm", lambda *args: calls.append(args) or bmm(*args))
    Linear(WIDTH, outputs)(torch.ones(rows, WIDTH))
    assert bool(calls) == sliced


def test_rows_need_not_lie_one_behind_the_other() -> None:
    torch.manual_seed(1)
    layer, x = Linear(WIDTH, OUTPUTS), torch.randn(WIDTH, 6).T
    torch.testing.assert_close(layer(x), product(layer, x).float(), atol=3e-6, rtol=1e-5)


def test_gradients_are_those_of_the_product() -> None:
    torch.manual_seed(2)
    layer, x = Linear(WIDTH, OUTPUTS), torch.randn(6, WIDTH, requires_grad=True)
    taken = [x, layer.weight, layer.bias]
    ours = torch.autograd.grad(layer(x).square().sum(), taken)
    exact = torch.autograd.grad(product(layer, x).square().sum(), taken)
    for gradient, expected in zip(ours, exact, strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rows", [1, 6, 20])
def test_bfloat16_is_the_ordinary_product(rows: int) -> None:
    torch.manual_seed(3)
    layer, x = Linear(WIDTH, OUTPUTS).bfloat16(), torch.randn(rows, WIDTH).bfloat16()
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
