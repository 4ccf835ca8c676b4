"""TokenBatch: what the data room hands to the model.

The published implementation carries, per modality, full tensors with masks and selects *after* embedding.
Here the loader selects first; a batch holds only positions that are used, as flat padded index tensors.
Padding has ``valid == False`` and zeros elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass
class TokenInputs:
    """What the encoder sees. B samples, N positions (the longest sample; shorter ones are padded).

    Attributes:
        stream: (B, N) int64, index of the stream in the model's list of streams.
        position: (B, N) int64, position inside the stream. Images: row-major grid index.
            Sequences and embeddings: 0, 1, 2, … over the visible items of the sample.
        token: (B, N) int64 ids; 0 for pixel and embedding streams.
        valid: (B, N) bool, True where there is content.
        dense: content of pixel and embedding streams, by stream name.
            Pixels: (B, C, H, W) float, normalised; the visible patches are those named by ``position``.
            Embeddings: (B, L, E) float; row i belongs to ``position`` i.
    """

    stream: Tensor
    position: Tensor
    token: Tensor
    valid: Tensor
    dense: dict[str, Tensor]


@dataclass
class TokenTargets:
    """What the decoder predicts. B samples, M positions (padded as the inputs).

    A position attends the positions j of its own stream with ``order[j] <= order[i]``: image targets
    all have order 0 (mutual attention); sequences count 0, 1, 2, … (causal). Streams never attend each other.

    Attributes:
        stream, position, valid: as in :class:`TokenInputs`. Sequence positions restart at 0.
        token: (B, M) int64, decoder input id: the preceding target id of a sequence (teacher forcing);
            0 and unused for image streams, whose input is the mask token.
        label: (B, M) int64, id to be predicted.
        order: (B, M) int64, see above.
    """

    stream: Tensor
    position: Tensor
    token: Tensor
    label: Tensor
    order: Tensor
    valid: Tensor


@dataclass
class TokenBatch:
    """Inputs and targets of B samples, and the streams that indices refer to."""

    streams: tuple[str, ...]
    inputs: TokenInputs
    targets: TokenTargets

    def to(self, device: torch.device | str, non_blocking: bool = True) -> TokenBatch:
        """The same batch on ``device``."""

        def move(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=non_blocking)
            if isinstance(value, dict):
                return {k: move(v) for k, v in value.items()}
            return value

        inputs = TokenInputs(**{f.name: move(getattr(self.inputs, f.name)) for f in fields(TokenInputs)})  # type: ignore[arg-type]
        targets = TokenTargets(**{f.name: move(getattr(self.targets, f.name)) for f in fields(TokenTargets)})  # type: ignore[arg-type]
        return TokenBatch(self.streams, inputs, targets)
