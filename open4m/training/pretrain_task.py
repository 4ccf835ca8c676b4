"""Pre-training: masked prediction of any stream from any others (4M-21, section 3; spec: training §1)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from open4m.batch import TokenBatch
from open4m.data.loader import PretrainLoader
from open4m.data.reader import CROPS, folder_of
from open4m.data.shards import ShardDataset, folder_names
from open4m.errors import DataError
from open4m.files import read_json
from open4m.hub.bundle import Bundle
from open4m.model.losses import masked_loss
from open4m.model.transformer import FourM
from open4m.streams import StreamSpec
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.text import TextTokenizer
from open4m.training.distributed import World
from open4m.training.recipe import PretrainRecipe
from open4m.training.trainer import Task
from open4m.training.warm_start import warm_start

VALIDATION_BATCHES = 12
VALIDATION_SEED = 2406_09406
"""Validation masks are the same in every run and at every step."""


class PretrainTask(Task[FourM, TokenBatch]):
    """Train the transformer after a recipe.

    With several processes each averages over its own targets, then gradients are averaged (as the published runs do).

    Args:
        recipe: what to train.
        data: root of a tokenized data set with splits ``train`` and ``val``.
        tokenizers: folder of the tokenizers that made its tokens.
        text: word pieces ↔ ids.
        world: the processes that share ``recipe.batch_size``.
        seed: of the weights and of samples and masks.
        start: a trained system to start from instead of random weights, see :func:`warm_start`.
    """

    def __init__(
        self,
        recipe: PretrainRecipe,
        data: str | Path,
        tokenizers: str | Path,
        text: TextTokenizer,
        world: World,
        seed: int = 0,
        start: Bundle | None = None,
    ) -> None:
        if recipe.batch_size % world.size:
            raise DataError(f"A batch of {recipe.batch_size} cannot be shared by {world.size} processes evenly.")
        config = recipe.model_config(tokenizer_configs(tokenizers), text.vocab_size)
        self.recipe, self._data, self._seed = recipe, str(data), seed
        self.model = FourM(config, seed)
        self._start = None if start is None else start.info.name
        self.fresh = [] if start is None else warm_start(self.model, start, tokenizers, text)
        self.samples_per_step = recipe.batch_size
        own_share = recipe.batch_size // world.size
        mixture = recipe.mixture_for(config.streams)
        train, held_out = (open_dataset(data, split, config.streams) for split in ("train", "val"))
        self._loader = PretrainLoader(train, config.streams, mixture, text, own_share, seed, world.rank, world.size)
        self._held_out = PretrainLoader(held_out, config.streams, mixture, text, recipe.batch_size, VALIDATION_SEED)
        self._targets = [spec.name for spec in config.targets]
        self._weights = {
            spec.name: recipe.loss_weights[spec.modality]
            for spec in config.targets
            if spec.modality in recipe.loss_weights
        }

    def batch(self, step: int, world: World) -> TokenBatch:
        return self._loader.batch(step).to(world.device)

    def loss(self, model: Callable[..., Any], batch: TokenBatch) -> tuple[Tensor, dict[str, Tensor]]:
        loss = masked_loss(model(batch), self._targets, "target", self._weights)
        return loss.total, {f"loss/{stream}": value for stream, value in loss.per_stream.items()}

    def evaluate(self, device: torch.device) -> dict[str, float]:
        """Mean cross-entropy (nats) of each stream over fixed held-out batches with fixed masks, and of all targets."""
        sums: defaultdict[str, float] = defaultdict(float)
        counts: defaultdict[str, int] = defaultdict(int)
        for step in range(VALIDATION_BATCHES):
            loss = masked_loss(self.model(self._held_out.batch(step).to(device)), self._targets)
            for stream, value in loss.per_stream.items():
                sums[stream] += value.item() * loss.counts[stream]
                counts[stream] += loss.counts[stream]
        scores = {f"loss/{stream}": sums[stream] / counts[stream] for stream in self._targets if counts[stream]}
        return {"loss": sum(scores.values()) / len(scores), **scores}

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "pretrain",
            "recipe": self.recipe.name,
            "data": self._data,
            "start": self._start,
            "model": self.model.config.to_dict(),
        }


def open_dataset(root: str | Path, split: str, streams: Iterable[StreamSpec]) -> ShardDataset:
    """The folders of a split that these streams are read from, and those of crops and item codes where they exist."""
    needed = {"rgb", *(folder_of(spec) for spec in streams)}
    helpful = {CROPS, "tok_human_poses", "tok_sam_instance"} & set(folder_names(root, split))
    return ShardDataset(root, split, sorted(needed | helpful))


def tokenizer_configs(folder: str | Path) -> dict[str, TokenizerConfig]:
    """Configurations of the trained tokenizers in a folder, by name."""
    paths = sorted(Path(folder).glob("*/config.json"))
    return {path.parent.name: TokenizerConfig.from_dict(read_json(path)) for path in paths}
