"""The training objective: cross-entropy per stream, and the ways to add them up (spec: model §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from open4m.model.transformer import StreamPrediction

Reduction = Literal["mod", "token", "target"]


@dataclass
class Loss:
    """Result of :func:`masked_loss`.

    Attributes:
        total: scalar to be minimised, with gradient.
        per_stream: mean cross-entropy in nats of each stream that had targets, detached scalars.
        counts: number of targets of those streams.
    """

    total: Tensor
    per_stream: dict[str, Tensor]
    counts: dict[str, int]


def masked_loss(
    predictions: Sequence[StreamPrediction],
    target_streams: Sequence[str],
    reduction: Reduction = "mod",
    stream_weights: Mapping[str, float] | None = None,
) -> Loss:
    """Cross-entropy of the predictions of a batch.

    Args:
        predictions: what :class:`~open4m.model.transformer.FourM` returned.
        target_streams: all streams that could have been targets (``config.targets``), with or without any here.
        reduction: ``mod``: Σ w·CE / Σ w over *all* ``target_streams``, those without targets counting 0 (published
            default; with fewer targets in the batch the loss is smaller). ``token``: mean weighted by the number of
            *logits*, targets × vocabulary – the published quirk: large vocabularies weigh more. ``target``:
            Σ w·n·CE / Σ w·n with n targets, every predicted token alike; a stream that happens to have few targets
            in a small batch then adds little noise.
        stream_weights: weight w of each stream in ``mod`` and ``target`` (1 where not named).

    Raises:
        ValueError: weights given with ``token``, or weights or predictions for streams that are no targets.
    """
    weights = dict.fromkeys(target_streams, 1.0) | dict(stream_weights or {})
    unknown = {*weights, *(p.stream for p in predictions)} - set(target_streams)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are not among the target streams {list(target_streams)}")
    if stream_weights and reduction == "token":
        raise ValueError("stream_weights go with the reductions 'mod' and 'target', not with 'token'")
    entropies = {p.stream: F.cross_entropy(p.logits.float(), p.labels) for p in predictions}
    if reduction == "token":
        weights = {p.stream: float(p.logits.numel()) for p in predictions}
    if reduction == "target":
        weights = {p.stream: weights[p.stream] * len(p.labels) for p in predictions}
    parts = [entropy * weights[stream] for stream, entropy in entropies.items()]
    total = torch.stack(parts).sum() / sum(weights.values()) if parts else torch.zeros(())
    return Loss(total, {k: v.detach() for k, v in entropies.items()}, {p.stream: len(p.labels) for p in predictions})
