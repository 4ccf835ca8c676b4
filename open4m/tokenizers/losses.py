"""Losses between a tokenizer's reconstruction and its input."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from open4m.errors import UnknownNameError

SMOOTH_L1_BETA = 0.1
"""Where the loss turns from quadratic to linear, in standard deviations of the data."""


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """1 − cosine along channels (the published ``cosine_1d``), mean over positions."""
    return (1 - F.cosine_similarity(prediction, target, dim=1)).mean()


def cross_entropy(logits: Tensor, ids: Tensor) -> Tensor:
    """Logits (B, labels, H, W) against ids (B, H, W).

    Averaged in float32, but the logits are not widened: under bfloat16 autocast a float32 copy of a hundred logits per
    pixel would cost more than the whole network.
    """
    rows = logits.movedim(1, -1).flatten(0, -2)
    return F.cross_entropy(rows, ids.flatten(), reduction="none").float().mean()


def smooth_l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Huber-like loss with :data:`SMOOTH_L1_BETA`."""
    return F.smooth_l1_loss(prediction, target, beta=SMOOTH_L1_BETA)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": smooth_l1,
    "cosine": cosine,
    "cross_entropy": cross_entropy,
    # A proper Bernoulli likelihood; the reference feeds probabilities to a softmax (spec: tokenizers §5).
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


def loss_by_name(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum of the losses joined by ``+`` in ``name``, as a function of (prediction, target)."""
    terms = name.split("+")
    for term in terms:
        if term not in LOSSES:
            raise UnknownNameError("loss", term, LOSSES)

    def total(prediction: Tensor, target: Tensor) -> Tensor:
        values = [LOSSES[term](prediction, target) for term in terms]
        return sum(values[1:], start=values[0])

    return total
