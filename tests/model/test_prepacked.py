"""Weights in the order of a CPU's kernels: the same products, saved as they were, for inference alone."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import random_batch, tiny_model
from torch import nn
from torch.nn import functional as F

import open4m
from open4m.errors import CheckpointError, GenerationError, TrainingError
from open4m.generation import AnyToAny
from open4m.hub import load_bundle, save_bundle
from open4m.model.linear import table_product
from open4m.model.prepacked import PrepackedLinear
from open4m.precision import prepacking_is_faster

pytestmark = pytest.mark.skipif(
    not prepacking_is_faster("cpu", torch.bfloat16), reason="this CPU does not multiply bfloat16 in hardware"
)


@pytest.mark.parametrize(("inputs", "outputs"), [(16, 4), (7, 5), (33, 32), (96, 288)])
@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_products_are_those_of_the_layer(inputs: int, outputs: int, bias: bool) -> None:
    torch.manual_seed(inputs)
    linear = nn.Linear(inputs, outputs, bias=bias).bfloat16()
    layer, x = PrepackedLinear(linear), torch.randn(300, inputs).bfloat16()
    for rows in (0, 1, 2, 6, 13, 300):
        wanted, found = linear(x[None, :rows]), layer(x[None, :rows])
        assert found.dtype == torch.bfloat16 and found.shape == wanted.shape
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)  # two roundings


@pytest.mark.parametrize("rows", [0, 1, 2, 12, 13])
@torch.inference_mode()
def test_tables_in_front_give_the_same_logits(rows: int) -> None:
    torch.manual_seed(rows)
    table, hidden = torch.randn(70, 32).bfloat16(), torch.randn(rows, 1, 32).bfloat16()
    torch.testing.assert_close(table_product(hidden, table), F.linear(hidden, table), rtol=0.02, atol=0.02)
    assert table_product(hidden, table).shape == (rows, 1, 70)


@torch.inference_mode()
def test_a_prepacked_model_predicts_the_same() -> None:
    batch, plain, model = random_batch(0, [9, 3], [8, 5]), tiny_model(dim=64).bfloat16(), tiny_model(dim=64).bfloat16()
    model.prepack()
    inside = {name for name, part in model.named_modules() if isinstance(part, PrepackedLinear)}
    assert len(inside) == 2 * 5 + 2 * 8 and all(name.startswith(("encoder.", "decoder.")) for name in inside)
    for wanted, found in zip(plain(batch), model(batch), strict=True):
        torch.testing.assert_close(found.logits, wanted.logits, rtol=0.05, atol=0.05)


def test_bfloat16_is_loaded_prepacked_and_saved_as_it_was(tmp_path: Path) -> None:
    system, plain = open4m.load("scenes-tiny", dtype=torch.bfloat16), load_bundle("scenes-tiny", torch.bfloat16)
    assert isinstance(system.bundle.model.encoder[0].mlp.fc1, PrepackedLinear)
    assert not any(isinstance(part, PrepackedLinear) for part in open4m.load("scenes-tiny").bundle.model.modules())
    save_bundle(system.bundle, tmp_path / "prepacked", torch.bfloat16)
    save_bundle(plain, tmp_path / "plain", torch.bfloat16)
    written = [
        folder / name
        for folder in (tmp_path / "prepacked", tmp_path / "plain")
        for name in ("model.safetensors", "README.md")
    ]
    assert written[0].read_bytes() == written[2].read_bytes() and written[1].read_text() == written[3].read_text()


def test_what_would_need_the_weights_is_refused() -> None:
    model = tiny_model().bfloat16()
    model.prepack()
    with pytest.raises(TrainingError, match="cannot be trained"):
        model.train()
    with pytest.raises(GenerationError, match="device and dtype"):
        model.float()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}  # nothing was changed
    assert model.cpu() is model
    with pytest.raises(CheckpointError, match="prepacked for inference"):
        model.load_weights(tiny_model().state_dict())
    layer = model.encoder[0].mlp.fc1
    with pytest.raises(GenerationError, match="No gradients"):
        layer(torch.ones(1, 32, dtype=torch.bfloat16, requires_grad=True))


def test_copies_are_prepacked_too() -> None:
    model, batch = tiny_model().bfloat16(), random_batch(0, [9, 3], [8, 5])
    model.prepack()
    other = copy.deepcopy(model)
    assert isinstance(other.encoder[0].mlp.fc1, PrepackedLinear)
    for wanted, found in zip(model(batch), other(batch), strict=True):
        assert torch.equal(found.logits, wanted.logits)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in model.state_dict().items())


def test_the_whole_system_says_nearly_the_same() -> None:
    system, plain = (
        open4m.load("scenes-tiny", dtype=torch.bfloat16),
        AnyToAny(load_bundle("scenes-tiny", torch.bfloat16)),
    )
    given = {"caption": "a red couch in a room", "metadata": {"brightness": 120.0}}
    assert np.corrcoef(system.embed(given), plain.embed(given))[0, 1] > 0.999
    ours, theirs = (one.generate(given, ["color_palette", "depth"], seed=1) for one in (system, plain))
    assert np.corrcoef(ours["depth"].value.ravel(), theirs["depth"].value.ravel())[0, 1] > 0.8  # rounded differently
    assert len(ours["color_palette"].value)
