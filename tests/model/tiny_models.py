"""A small model over every kind of stream, and random batches for it."""

from __future__ import annotations

import torch

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.model import FourM, ModelConfig
from open4m.streams import Position, StreamKind, StreamSpec

GRID = Position.SINCOS_2D
STREAMS = (
    StreamSpec(
        "rgb@16", "rgb", StreamKind.PIXELS, 16, grid=(4, 4), patch_size=4, channels=3, position=GRID, is_target=False
    ),
    StreamSpec("tok_depth@16", "depth", StreamKind.TOKENS, 16, vocab_size=11, grid=(4, 4), position=GRID),
    StreamSpec("caption", "caption", StreamKind.SEQUENCE, 12, vocab_size=20, table="text"),
    StreamSpec("t5_caption", "t5_caption", StreamKind.EMBEDDING, 7, channels=5, is_target=False),
    StreamSpec("tok_global", "clip", StreamKind.TOKENS, 6, vocab_size=9, position=Position.LEARNED),
    StreamSpec("det", "det", StreamKind.SEQUENCE, 12, vocab_size=20, table="text", max_target_position=4),
)


def tiny_config(**changes: object) -> ModelConfig:
    options = {"dim": 16, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2} | changes
    return ModelConfig(STREAMS, **options)  # type: ignore[arg-type]


def tiny_model(seed: int = 0, **changes: object) -> FourM:
    return FourM(tiny_config(**changes), seed)


def random_batch(seed: int, inputs: list[int], targets: list[int]) -> TokenBatch:
    """A batch with ``inputs[b]`` visible and ``targets[b]`` predicted positions in sample b."""
    generator = torch.Generator().manual_seed(seed)
    rows = [_distinct(n, STREAMS, generator) for n in inputs]
    stream, position = _padded(rows)
    valid = torch.arange(stream.shape[1])[None] < torch.tensor(inputs)[:, None]
    dense = {
        "rgb@16": torch.randn(len(inputs), 3, 16, 16, generator=generator),
        "t5_caption": torch.randn(len(inputs), 7, 5, generator=generator),
    }
    token = _ids(stream, generator) * valid
    encoder = TokenInputs(stream, position, token, valid, dense)

    rows = [_distinct(n, tuple(s for s in STREAMS if s.is_target), generator) for n in targets]
    stream, position = _padded(rows)
    valid = torch.arange(stream.shape[1])[None] < torch.tensor(targets)[:, None]
    is_sequence = torch.tensor([s.kind is StreamKind.SEQUENCE for s in STREAMS])[stream]
    order = position * is_sequence
    ids = [_ids(stream, generator) * valid for _ in range(2)]
    decoder = TokenTargets(stream, position, ids[0], ids[1], order, valid)
    return TokenBatch(tuple(s.name for s in STREAMS), encoder, decoder)


def _distinct(count: int, specs: tuple[StreamSpec, ...], generator: torch.Generator) -> list[tuple[int, int]]:
    every = [(STREAMS.index(spec), position) for spec in specs for position in range(spec.max_tokens)]
    return [every[int(i)] for i in torch.randperm(len(every), generator=generator)[:count]]


def _padded(rows: list[list[tuple[int, int]]]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(row) for row in rows)
    table = torch.tensor([row + [(0, 0)] * (length - len(row)) for row in rows], dtype=torch.int64)
    table = table.view(len(rows), length, 2)
    return table[..., 0], table[..., 1]


def _ids(stream: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    vocabulary = torch.tensor([max(spec.vocab_size, 1) for spec in STREAMS])[stream]
    return (torch.rand(stream.shape, generator=generator) * vocabulary).long()


def take(batch: TokenBatch, samples: list[int]) -> TokenBatch:
    """Some samples of a batch."""
    i, t = batch.inputs, batch.targets
    inputs = TokenInputs(
        i.stream[samples], i.position[samples], i.token[samples], i.valid[samples],
        {k: v[samples] for k, v in i.dense.items()},
    )  # fmt: skip
    targets = TokenTargets(
        t.stream[samples], t.position[samples], t.token[samples], t.label[samples], t.order[samples], t.valid[samples]
    )
    return TokenBatch(batch.streams, inputs, targets)
