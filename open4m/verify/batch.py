"""The published data contract (spec: model §1-5) → ``TokenBatch``, written as plainly as possible for comparison."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from open4m.batch import TokenBatch, TokenInputs, TokenTargets
from open4m.model import ModelConfig
from open4m.streams import StreamKind
from open4m.verify.recorded import Entries

ModDict = Mapping[str, Mapping[str, Tensor]]
Row = tuple[int, ...]


def read_mod_dict(entries: Entries) -> ModDict:
    """``batch.safetensors`` → modality → part → tensor, floats widened to float32."""
    out: dict[str, Entries] = {}
    for key in entries:
        name, _, part = key.rpartition(".")
        value = entries[key]
        parts = out.setdefault(name, Entries((), entries.path))
        parts[part] = value.float() if value.is_floating_point() else value
    return dict(out)


def token_batch(mods: ModDict, config: ModelConfig, num_inputs: int, num_targets: int) -> TokenBatch:
    """The batch that the published model makes of ``mods``, modalities in alphabetical order, padded to the budgets."""
    size = len(next(iter(mods.values()))["input_mask"])
    dense: dict[str, Tensor] = {}
    inputs: list[list[Row]] = [[] for _ in range(size)]
    targets: list[list[Row]] = [[] for _ in range(size)]
    for name in sorted(mods):
        spec, mod = config.stream(name), mods[name]
        if spec.kind is StreamKind.PIXELS:
            dense[name] = mod["tensor"]
        if spec.kind is StreamKind.EMBEDDING:
            dense[name] = torch.zeros_like(mod["tensor"])
        for b in range(size):
            ids = mod["tensor"][b].flatten().tolist() if spec.vocab_size else None
            slots = (~mod["input_mask"][b]).nonzero().flatten().tolist()
            counted = spec.kind in (StreamKind.SEQUENCE, StreamKind.EMBEDDING)
            for count, slot in enumerate(slots):
                if spec.kind is StreamKind.EMBEDDING:
                    dense[name][b, count] = mod["tensor"][b, slot]
                inputs[b].append((config.index(name), count if counted else slot, ids[slot] if ids else 0))
            if spec.is_target:
                assert ids is not None
                hidden = mod["target_mask"][b].tolist()
                targets[b] += (_pairs if counted else _set)(config.index(name), ids, hidden)
    stream, position, token, valid = _pad(inputs, num_inputs, 3)
    encoder = TokenInputs(stream, position, token, valid, dense)
    stream, position, token, label, order, valid = _pad(targets, num_targets, 5)
    return TokenBatch(config.names, encoder, TokenTargets(stream, position, token, label, order, valid))


def _set(index: int, ids: list[int], hidden: list[bool]) -> list[Row]:
    """Image-like targets: mutual attention, no input id."""
    return [(index, slot, 0, ids[slot], 0) for slot, h in enumerate(hidden) if not h]


def _pairs(index: int, ids: list[int], hidden: list[bool]) -> list[Row]:
    """Sequence targets: each id predicts the next one; both must be targets."""
    rows, count = [], 0
    for slot in range(len(ids) - 1):
        if not hidden[slot]:
            if not hidden[slot + 1]:
                rows.append((index, count, ids[slot], ids[slot + 1], len(rows)))
            count += 1
    return rows


def _pad(rows: list[list[Row]], length: int, columns: int) -> tuple[Tensor, ...]:
    out = torch.zeros(columns + 1, len(rows), length, dtype=torch.int64)
    for b, sample in enumerate(rows):
        for i, row in enumerate(sample[:length]):
            out[:columns, b, i] = torch.tensor(row)
            out[columns, b, i] = 1
    *values, valid = out.unbind(0)
    return *values, valid.bool()
