"""Values of a data set, for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open4m.data.shards import ShardDataset
from open4m.errors import DataError
from open4m.modalities.registry import get_modality


def read_values(
    root: str | Path, split: str, names: Sequence[str], limit: int | None = None, first: int = 0
) -> list[dict[str, Any]]:
    """Up to ``limit`` samples of a split, from number ``first`` on, as values: modality → value.

    Args:
        names: modalities that are wanted; those that the data set has no folder for are an error.

    Raises:
        DataError: no such split, folder or sample; a damaged shard.
        ModalityError: a file that is not what it claims to be.
    """
    dataset = ShardDataset(root, split, names)
    samples: list[dict[str, Any]] = []
    if not 0 <= first < len(dataset):
        raise DataError(f"{root}/{split} has no sample {first}: its samples are 0…{len(dataset) - 1}.")
    end = len(dataset) if limit is None else min(len(dataset), first + limit)
    for index in range(first, end):
        sample = dataset[index]
        values: dict[str, Any] = {}
        for name in names:
            extension, data = sample.files[name]
            values[name] = get_modality(name).decode(data, f"{split}/{name}/{sample.key}.{extension}")
        samples.append(values)
    return samples
