"""Pretokenization: adding token folders to a data set (spec: tokenizers §7; 4M-21, section 3.2)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open4m.data.derive import Compute, Files, derive_folders
from open4m.data.reader import CROPS
from open4m.data.shards import Sample, finished_shards
from open4m.errors import DataError
from open4m.files import read_json
from open4m.modalities.base import DenseModality, Modality
from open4m.modalities.features import FeatureVector
from open4m.modalities.registry import get_modality
from open4m.modalities.view import View
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.io import load_tokenizer
from open4m.training.tokenizer_task import tokenizer_inputs

INT16_MAX = 2**15 - 1
MIN_CROP_SCALE = 0.8


def tokenize_dataset(
    root: str | Path,
    split: str,
    tokenizers: str | Path,
    tokenizer_of: Mapping[str, str],
    *,
    n_crops: int = 1,
    seed: int = 0,
    workers: int = 1,
    show_progress: bool = True,
) -> int:
    """Add ``tok_<modality>`` folders and ``crop_settings`` to a split, for every modality that has a tokenizer.

    Dense modalities: npy int16 (n_crops, n_tokens); row 0 is the unflipped centre square, the others are random
    crops (scale ≥ 0.8, flipped half of the time) that all modalities share. People and instances, whose ids are
    part of their text, are tokenized as they are in the file: ``tok_human_poses`` and ``tok_sam_instance`` hold
    npy int16 (people or instances, ids), rows in the order of the file.

    Args:
        tokenizers: folder of trained tokenizers by name, as :func:`open4m.training.run.train_tokenizer` leaves it.
        tokenizer_of: modality → name of the tokenizer that serves it; those that are not there are left out.
        workers: processes over disjoint shards. Finished shards are skipped.

    Returns:
        The number of samples tokenized now.
    """
    served = served_modalities(tokenizers, tokenizer_of)
    present = {name: folder for name, folder in served.items() if finished_shards(root, split, [name])}
    if not present:
        raise DataError(f"{root}: the split {split!r} has none of {', '.join(served)}. Render or label it first.")
    return derive_folders(
        root,
        split,
        ("rgb", *(name for name in present if name != "rgb")),
        (CROPS, *(f"tok_{name}" for name in present)),
        partial(make_tokenize, present, n_crops, seed),
        workers=workers,
        chunk=8,
        title="tokenizing",
        show_progress=show_progress,
    )


def served_modalities(tokenizers: str | Path, tokenizer_of: Mapping[str, str]) -> dict[str, str]:
    """Modality → folder of its tokenizer, for the tokenizers that are there."""
    folders = {p.parent.name: str(p.parent) for p in sorted(Path(tokenizers).glob("*/config.json"))}
    served = {modality: folders[name] for modality, name in tokenizer_of.items() if name in folders}
    if not served:
        raise DataError(f"{tokenizers}: no tokenizers. Expected folders such as {tokenizers}/rgb with config.json.")
    return served


def make_tokenize(folders: dict[str, str], n_crops: int, seed: int) -> Compute:
    """The function that computes the token files of samples; loads each tokenizer once."""
    if n_crops < 1:
        raise DataError(f"n_crops must be at least 1, not {n_crops}.")
    models = {folder: load_tokenizer(folder) for folder in set(folders.values())}
    too_large = [f for f in models if read_json(Path(f) / "config.json")["codebook_size"] > INT16_MAX + 1]
    if too_large:
        raise DataError(f"{too_large[0]}: its ids do not fit the 16 bits of token files.")
    modalities: dict[str, Modality[Any]] = {name: get_modality(name) for name in folders}

    def compute(samples: Sequence[Sample]) -> list[Files]:
        values = {name: [_decode(m, sample) for sample in samples] for name, m in modalities.items()}
        pictures = values.get("rgb") or [_decode(get_modality("rgb"), sample) for sample in samples]
        results: list[Files] = [{} for _ in samples]
        sizes = {folder: model.config.image_size for folder, model in models.items()}
        crops = [_views(p.shape[:2], n_crops, seed, s.key) for p, s in zip(pictures, samples, strict=True)]
        for result, views in zip(results, crops, strict=True):
            result[CROPS] = ("npy", _npy(np.stack([v.to_row() for v in views])))
        for name, modality in modalities.items():
            model = models[folders[name]]
            side = sizes[folders[name]]
            if isinstance(modality, DenseModality):
                tables = _tokenize_views(modality, values[name], crops, side, model)
            else:
                tables = [_ids(tokenizer_inputs(modality, value), model) for value in values[name]]
            for result, table in zip(results, tables, strict=True):
                result[f"tok_{name}"] = ("npy", _npy(table.astype(np.int16)))
        return results

    return compute


def _decode(modality: Modality[Any], sample: Sample) -> Any:
    extension, data = sample.files[modality.name]
    return modality.decode(data, f"{sample.key}.{extension}")


def _views(shape: tuple[int, int], n_crops: int, seed: int, key: str) -> list[View]:
    """The centre square and ``n_crops - 1`` random crops, a function of (seed, key)."""
    rng = np.random.default_rng([seed, *key.encode()])
    side = min(shape)
    others = (View.random_crop(shape, side, rng, scale=(MIN_CROP_SCALE, 1.0)) for _ in range(n_crops - 1))
    return [View.centre_square(shape, side), *others]


def _tokenize_views(
    modality: DenseModality[Any], values: Sequence[Any], crops: Sequence[Sequence[View]], side: int, model: Tokenizer
) -> list[np.ndarray]:
    """(n_crops, n_tokens) ids of each value; all in one batch. Vectors belong to the whole picture in every crop."""
    rows = []
    for value, views in zip(values, crops, strict=True):
        for view in views:
            seen = modality.apply(value, replace(view, size=(side, side)))
            rows.append(tokenizer_inputs(modality, value if isinstance(modality, FeatureVector) else seen))
    ids = _ids(torch.cat(rows), model)
    return list(ids.reshape(len(values), -1, ids.shape[-1]))


@torch.inference_mode()
def _ids(x: torch.Tensor, model: Tokenizer) -> np.ndarray:
    """(n, n_tokens) ids; (0, n_tokens) of nothing."""
    if not len(x):
        return np.zeros((0, int(np.prod(model.config.token_shape))), dtype=np.int64)
    return model.tokenize(x).flatten(1).numpy()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()
