"""Collate: masked samples → one padded :class:`TokenBatch`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.data.masking import MaskedSample
from open4m.streams import StreamKind, StreamSpec


def collate(samples: Sequence[MaskedSample], streams: Sequence[StreamSpec]) -> TokenBatch:
    """Stack samples, padded to the longest one.

    Dense content is present for the streams that at least one sample uses: pixels (B, C, H, W) and embeddings
    (B, L, E) with L of the longest sample, float32; samples that do not use the stream have zeros.
    """
    inputs, inputs_valid = _pad([s.inputs for s in samples])
    targets, targets_valid = _pad([s.targets for s in samples])
    dense = {
        spec.name: _stack_dense([s.dense.get(spec.name) for s in samples], spec)
        for spec in streams
        if any(spec.name in s.dense for s in samples)
    }
    return TokenBatch(
        streams=tuple(s.name for s in streams),
        inputs=TokenInputs(*inputs.unbind(), valid=inputs_valid, dense=dense),
        targets=TokenTargets(*targets.unbind(), valid=targets_valid),
    )


def _pad(tables: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(R, n) tables → (R, B, N) int64 padded with zeros, and (B, N) bool."""
    longest = max(t.shape[1] for t in tables)
    padded = np.zeros((tables[0].shape[0], len(tables), longest), dtype=np.int64)
    for i, table in enumerate(tables):
        padded[:, i, : table.shape[1]] = table
    lengths = np.array([t.shape[1] for t in tables])
    return torch.from_numpy(padded), torch.from_numpy(np.arange(longest) < lengths[:, None])


def _stack_dense(values: Sequence[np.ndarray | None], spec: StreamSpec) -> Tensor:
    shapes = [v.shape for v in values if v is not None]
    shape = shapes[0]
    if spec.kind is StreamKind.EMBEDDING:
        shape = (max(s[0] for s in shapes), shape[1])
    stacked = np.zeros((len(values), *shape), dtype=np.float32)
    for i, value in enumerate(values):
        if value is not None:
            stacked[i, : len(value)] = value
    return torch.from_numpy(stacked)
