"""Training a tokenizer: reconstruction through a codebook (spec: tokenizers §3, §5; training §6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.data.shards import ShardDataset
from open4m.errors import DataError
from open4m.modalities.base import DenseModality, Modality
from open4m.modalities.features import Features, FeatureVector
from open4m.modalities.registry import get_modality
from open4m.modalities.view import View
from open4m.tokenizers.base import Tokenizer, TokenizerOutput
from open4m.tokenizers.instance_codecs import (
    decode_instances,
    decode_people,
    encode_instances,
    encode_people,
    mask_images,
    pose_vectors,
)
from open4m.tokenizers.io import build_tokenizer, load_tokenizer
from open4m.training.distributed import World
from open4m.training.recipe import TokenizerRecipe
from open4m.training.trainer import Task, step_seed

HELD_OUT = 64
"""Samples of the validation split that a tokenizer is judged on."""
AT_A_TIME = 16
"""Pictures that are decoded together when a tokenizer is judged."""
MOST_DRAWS = 1000
"""Samples in a row without any person or instance after which the data are taken to have none."""
STATISTICS_SAMPLES = 200


class TokenizerData:
    """Values of one modality in the shards of a split, and what the tokenizer sees of them.

    Args:
        size: side in pixels that pictures are brought to (centre square).
    """

    def __init__(self, root: str | Path, split: str, modality: str, size: int) -> None:
        self.modality: Modality[Any] = get_modality(modality)
        self._dataset = ShardDataset(root, split, [modality])
        self._size = size

    def __len__(self) -> int:
        return len(self._dataset)

    def value(self, index: int, flip: bool = False) -> Any:
        """The value of sample ``index`` as seen in the centre square."""
        extension, data = self._dataset.read(index, self.modality.name)
        value = self.modality.decode(data, f"{self._dataset.root} {self._dataset.key(index)}.{extension}")
        if isinstance(self.modality, FeatureVector):
            return value
        view = View.centre_square(_picture_size(self.modality, value), self._size)
        return self.modality.apply(value, replace(view, flip=flip))

    def spread(self, count: int) -> list[Any]:
        """``count`` values (or all), evenly spread over the split, of which none is empty."""
        rows = np.linspace(0, len(self), min(count, len(self)), endpoint=False).astype(int)
        values = [self.value(int(i)) for i in rows]
        return [v for v in values if len(v)]


def _picture_size(modality: Modality[Any], value: Any) -> tuple[int, int]:
    """(rows, columns) of an image-like value; people and instances have relative coordinates and no size."""
    if isinstance(value, np.ndarray):
        return value.shape[1:] if isinstance(modality, Features) else value.shape[:2]
    return (1, 1)


def tokenizer_inputs(modality: Modality[Any], value: Any) -> Tensor:
    """What the tokenizer sees of a value: (n, C, H, W) float32 or (n, H, W) int64 class ids.

    n = 1 for pictures, maps and vectors; one row per person (pose) or instance (mask).
    """
    if isinstance(modality, DenseModality):
        return torch.from_numpy(np.ascontiguousarray(modality.to_array(value)))[None]
    return pose_vectors(value) if modality.name == "human_poses" else mask_images(value)


def through_tokens(modality: Modality[Any], values: Sequence[Any], model: Tokenizer) -> tuple[list[Any], Tensor]:
    """The values after encoding and decoding, and all their ids (N, …) as from :meth:`Tokenizer.tokenize`."""
    device = next(model.parameters()).device
    inputs = [tokenizer_inputs(modality, value).to(device) for value in values]
    ids = torch.cat([model.tokenize(x) for x in inputs])
    if isinstance(modality, DenseModality):
        arrays = torch.cat([model.decode_tokens(part).float().cpu() for part in ids.split(AT_A_TIME)]).numpy()
        return [modality.from_array(array) for array in arrays], ids
    if modality.name == "human_poses":
        return [decode_people(encode_people(value, model), model) for value in values], ids
    return [decode_instances(encode_instances(value, model), model) for value in values], ids


class TokenizerTask(Task[Tokenizer, Tensor]):
    """Train one tokenizer after its recipe.

    Samples are drawn with replacement and flipped half of the time. Quantization begins after
    ``recipe.late_start`` steps with k-means on ``recipe.pool_batches`` batches of latents.

    Args:
        recipe: what to train; channels and scale of features are measured on the data.
        data: root of the data set.
        seed: of the weights and of the samples drawn.
        encoder: folder of the tokenizer that ``recipe.encoder_of`` names.

    Raises:
        DataError: that tokenizer is missing.
        CheckpointError: its encoder or codebook does not fit the recipe.
    """

    def __init__(
        self, recipe: TokenizerRecipe, data: str | Path, seed: int = 0, encoder: str | Path | None = None
    ) -> None:
        size = recipe.config.image_size
        self._train = [TokenizerData(data, "train", name, size) for name in recipe.modalities]
        self._held_out = [TokenizerData(data, "val", name, size) for name in recipe.modalities]
        self.recipe = fit_to_data(recipe, self._train[0])
        self._seed = seed
        self._data_name = str(data)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build_tokenizer(self.recipe.config)
        if recipe.encoder_of is not None:
            self.model.load_encoder(_trained_encoder(recipe, encoder))
        self.samples_per_step = recipe.batch_size

    def batch(self, step: int, world: World) -> Tensor:
        rng = np.random.default_rng(step_seed(self._seed + 1, step, world.rank))
        rows: list[Tensor] = []
        for _ in range(MOST_DRAWS):
            data = self._train[int(rng.integers(len(self._train)))]
            value = data.value(int(rng.integers(len(data))), flip=bool(rng.integers(2)))
            rows += tokenizer_inputs(data.modality, value)
            if len(rows) >= self.recipe.batch_size:
                return torch.stack(rows[: self.recipe.batch_size]).to(world.device)
        names = ", ".join(self.recipe.modalities)
        raise DataError(f"{self._data_name}: {MOST_DRAWS} samples hold too little of {names} to train a tokenizer.")

    def before_step(self, step: int, world: World) -> None:
        if self.model.quantizing or step < self.recipe.late_start:
            return
        self.model.begin_quantization([self.batch(step + i, world) for i in range(self.recipe.pool_batches)])

    def loss(self, model: Callable[..., Any], batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        output: TokenizerOutput = model(batch)
        reconstruction = self.model.loss(output)
        record = {"reconstruction": reconstruction.detach(), "code_loss": output.code_loss.detach()}
        return reconstruction + output.code_loss, record

    def evaluate(self, device: torch.device) -> dict[str, float]:  # noqa: ARG002 – the model is there already
        """The modality's own scores of held-out values after tokenizing and back, and the use of the codebook.

        Nothing before quantization has begun. With several modalities the names are prefixed.
        """
        if not self.model.quantizing:
            return {}
        scores: dict[str, float] = {}
        all_ids = []
        for data in self._held_out:
            values = data.spread(HELD_OUT)
            decoded, ids = through_tokens(data.modality, values, self.model)
            all_ids.append(ids)
            prefix = f"{data.modality.name}_" if len(self._held_out) > 1 else ""
            found = data.modality.score(decoded, values)
            scores |= {f"{prefix}{name}": value for name, value in found.items()}
        usage = self.model.codebook_usage(torch.cat(all_ids))
        return scores | {"codes_used": usage.used, "perplexity": usage.perplexity}

    def describe(self) -> dict[str, Any]:
        return {"kind": "tokenizer", "data": self._data_name, "recipe": _plain(asdict(self.recipe))}

    def state_of_forward(self) -> list[Tensor]:
        return list(self.model.quantize.buffers())


def _trained_encoder(recipe: TokenizerRecipe, folder: str | Path | None) -> Tokenizer:
    if folder is None or not Path(folder).is_dir():
        raise DataError(
            f"{recipe.name} takes encoder and codebook of the tokenizer {recipe.encoder_of!r}, which is missing "
            f"({folder}). Train it into the same folder first: open4m train tokenizer {recipe.encoder_of} …"
        )
    return load_tokenizer(folder)


def fit_to_data(recipe: TokenizerRecipe, data: TokenizerData) -> TokenizerRecipe:
    """The recipe with the number of channels and the standard deviation of feature data; others are left alone."""
    if not isinstance(data.modality, Features):
        return recipe
    arrays = [data.modality.to_array(value) for value in data.spread(STATISTICS_SAMPLES)]
    return recipe.for_data(arrays[0].shape[0], float(f"{np.stack(arrays).std():.4g}"))


def _plain(value: Any) -> Any:
    """Tuples as lists, so that the description survives JSON unchanged."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
