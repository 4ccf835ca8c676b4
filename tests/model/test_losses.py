"""The ways to add up cross-entropies."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import random_batch, tiny_model

from open4m.model import StreamPrediction, masked_loss

NAMES = ("a", "b", "c")


def predictions() -> list[StreamPrediction]:
    """Stream a: certain and right once, uniform over 4 once; stream b: uniform over 2, three times."""
    sure = torch.tensor([[50.0, 0, 0, 0], [0, 0, 0, 0]])
    return [
        StreamPrediction("a", sure, torch.tensor([0, 3])),
        StreamPrediction("b", torch.zeros(3, 2), torch.tensor([0, 1, 1])),
    ]


A, B = math.log(4) / 2, math.log(2)


def test_mod_counts_streams_without_targets() -> None:
    loss = masked_loss(predictions(), NAMES)
    assert loss.total.item() == pytest.approx((A + B) / 3)
    assert {k: v.item() for k, v in loss.per_stream.items()} == pytest.approx({"a": A, "b": B})
    assert loss.counts == {"a": 2, "b": 3}


def test_token_weighs_by_logits() -> None:
    loss = masked_loss(predictions(), NAMES, "token")
    assert loss.total.item() == pytest.approx((A * 8 + B * 6) / 14)


def test_target_weighs_every_target_alike() -> None:
    loss = masked_loss(predictions(), NAMES, "target")
    assert loss.total.item() == pytest.approx((A * 2 + B * 3) / 5)
    weighted = masked_loss(predictions(), NAMES, "target", {"a": 2.0, "c": 9.0})
    assert weighted.total.item() == pytest.approx((A * 4 + B * 3) / 7)


def test_stream_weights() -> None:
    loss = masked_loss(predictions(), NAMES, stream_weights={"a": 3.0, "c": 0.5})
    assert loss.total.item() == pytest.approx((3 * A + B) / 4.5)
    ones = masked_loss(predictions(), NAMES, stream_weights=dict.fromkeys(NAMES, 1.0))
    assert ones.total.item() == pytest.approx((A + B) / 3)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="'d'"):
        masked_loss(predictions(), NAMES, stream_weights={"d": 1.0})
    with pytest.raises(ValueError, match="token"):
        masked_loss(predictions(), NAMES, "token", {"a": 2.0})
    with pytest.raises(ValueError, match="'b'"):
        masked_loss(predictions(), ("a",))


def test_no_target_at_all_is_zero() -> None:
    assert masked_loss([], NAMES).total.item() == 0.0


def test_training_lowers_the_loss() -> None:
    model, batch = tiny_model(dim=32), random_batch(0, [8] * 4, [12] * 4)
    names = [spec.name for spec in model.config.targets]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = masked_loss(model(batch), names).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
