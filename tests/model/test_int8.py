"""int8 weights: as near to the weights as they can be, the same by both ways of multiplying, for inference alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_batch, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from open4m.errors import CheckpointError, TrainingError
from open4m.model.int8 import Int8Linear

SIZES = [(16, 4), (12, 8), (7, 5), (33, 32), (96, 70)]  # inputs, outputs: with and without what the kernel fills up


def layers(inputs: int, outputs: int, bias: bool = True) -> tuple[nn.Linear, Int8Linear]:
    torch.manual_seed(inputs)
    linear = nn.Linear(inputs, outputs, bias=bias)
    return linear, Int8Linear(linear)


def restored(layer: Int8Linear) -> Tensor:
    return layer.weight[:, : layer.inputs].float() * layer.scale.float()[:, None]


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_weights_are_off_by_half_a_scale_at_most(inputs: int, outputs: int) -> None:
    linear, layer = layers(inputs, outputs)
    scale = layer.scale.float()[:, None]
    assert ((restored(layer) - linear.weight).abs() <= scale * 0.5001).all()
    assert (scale <= linear.weight.abs().amax(dim=1, keepdim=True) / 127 * 1.005).all()


def test_rows_of_zeros_and_of_tiny_and_huge_numbers() -> None:
    linear = nn.Linear(16, 3, bias=False)
    linear.weight.data = torch.tensor([0.0, 1e-41, 1e30])[:, None].expand(3, 16).clone()
    layer = Int8Linear(linear)
    for rows in (1, 20):
        y = layer(torch.ones(rows, 16, dtype=torch.bfloat16)).float()
        torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 1.6e31]).expand(rows, 3), rtol=0.01, atol=1e-30)


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_few_rows_and_many_give_the_product_with_the_restored_weights(inputs: int, outputs: int, bias: bool) -> None:
    linear, layer = layers(inputs, outputs, bias)
    x = torch.randn(40, inputs).bfloat16()
    expected = F.linear(x.float(), restored(layer), None if linear.bias is None else linear.bias.detach())
    some = torch.tensor([outputs - 1, 0, 2])
    for rows in (0, 1, 3, 6, 7, 40):
        y = layer(x[None, :rows])
        assert y.dtype == torch.bfloat16 and y.shape == (1, rows, outputs)
        torch.testing.assert_close(y[0].float(), expected[:rows], atol=0.02, rtol=0.01)
        torch.testing.assert_close(layer(x[:rows], some).float(), y[0, :, some].float(), atol=0.02, rtol=0.01)


def test_rows_may_begin_anywhere_in_memory() -> None:
    _, layer = layers(16, 4)
    memory = torch.randn(100).bfloat16()
    for begin in range(9):
        x = memory[begin : begin + 32].view(2, 16)
        torch.testing.assert_close(layer(x), layer(x.clone()), atol=0, rtol=0)


# -- a whole model ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [False, True])
@torch.inference_mode()
def test_a_quantized_model_predicts_nearly_the_same(tied: bool) -> None:
    changes = {"dim": 64, "num_heads": 4, "tied_output": tied}
    batch, exact, model = random_batch(0, [9, 3], [8, 5]), tiny_model(**changes), tiny_model(**changes)
    model.quantize()
    linear = {name for name, part in exact.named_modules() if isinstance(part, nn.Linear)}
    kept = {name for name in linear if not name.startswith(("encoder.", "decoder.", "heads."))}
    assert "decoder_proj_context" in kept and len(linear - kept) == 2 * 5 + 2 * 8 + (0 if tied else 4)
    assert {n for n, part in model.named_modules() if isinstance(part, Int8Linear)} == linear - kept
    assert model.quantized and not exact.quantized and {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for wanted, found in zip(exact(batch), model(batch), strict=True):
        error = (found.logits.float() - wanted.logits).std() / wanted.logits.std()
        assert 0 < error < 0.05, found.stream
    hidden = torch.randn(2, 64).bfloat16()
    ids = torch.tensor([7, 1])
    torch.testing.assert_close(
        model.logits(hidden, "caption", ids), model.logits(hidden, "caption")[:, ids], atol=0.01, rtol=0.01
    )


def test_a_quantized_model_is_for_inference() -> None:
    model = tiny_model().eval()
    model.quantize()
    with pytest.raises(TrainingError, match="int8 weights cannot be trained"):
        model.train()
    with pytest.raises(CheckpointError, match="do not fit"):
        model.load_weights(tiny_model().state_dict())
