"""A small data set in the published layout, made of boxes and ramps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open4m.data.shards import ShardWriter
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.training.recipe import TokenizerRecipe
from open4m.training.run import train_tokenizer
from open4m.training.tokenize import tokenize_dataset
from recipes.tokenizers import TOKENIZER_OF, tokenizer_recipe

SIZE = 32
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 220)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bits; processes started by tests use one, too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(seed: int) -> Mapping[str, Any]:
    """One scene: a coloured box before a ramp of depth; values by modality."""
    rng = np.random.default_rng(seed)
    y, x = rng.integers(2, SIZE - 16, 2)
    colour = list(COLOURS)[int(rng.integers(3))]
    rgb = np.full((SIZE, SIZE, 3), rng.integers(90, 200), dtype=np.uint8)
    depth = np.tile(np.linspace(6, 2, SIZE, dtype=np.float32)[:, None], (1, SIZE))
    classes = np.full((SIZE, SIZE), 120, dtype=np.uint8)
    box = (slice(y, y + 14), slice(x, x + 14))
    rgb[box], depth[box], classes[box] = COLOURS[colour], 1.5, 57
    rotations = np.tile(np.eye(3, dtype=np.float32), (23, 1, 1))
    person = Person(
        np.array([0.1, 0.2, 0.5, 0.9]), np.eye(3, dtype=np.float32), rotations, np.zeros(10), np.array([0.9, 0.0, 0.1])
    )
    return {
        "rgb": rgb,
        "depth": depth,
        "semseg": classes,
        "caption": f"a {colour} box before a grey wall",
        "dinov2_global": rng.normal(size=12).astype(np.float32),
        "human_poses": [person] * (seed % 3),
    }


def write_split(root: Path, split: str, count: int, offset: int = 0) -> None:
    names = list(picture(0))
    with ShardWriter(root, split, names, shard_size=10) as writer:
        for i in range(offset, offset + count):
            files = {}
            for name, value in picture(i).items():
                modality = get_modality(name)
                files[name] = (modality.extensions[0], modality.encode(value))
            files["caption"] = ("json", json.dumps([picture(i)["caption"]]).encode())
            writer.write(f"{i:05d}", files)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` (24 samples) and ``val`` (8)."""
    root = tmp_path_factory.mktemp("data")
    write_split(root, "train", 24)
    write_split(root, "val", 8, offset=100)
    return root


def small(name: str, **config: object) -> TokenizerRecipe:
    """The recipe ``name`` with a network for 32 px that trains in a second."""
    recipe = tokenizer_recipe(name)
    sizes = {"image_size": SIZE, "codebook_size": 16, **config}
    return replace(recipe, config=replace(recipe.config, **sizes), late_start=4, pool_batches=4)


def dense(name: str) -> TokenizerRecipe:
    return small(name, enc_type="Conv/B_1-Wi_16", dec_type="Conv/B_1-Wi_16", threshold_ema_dead_code=0.1)


def vectors(name: str) -> TokenizerRecipe:
    return small(name, enc_type="BottleneckMLP/B_1-Wi_16", dec_type="BottleneckMLP/B_1-Wi_16")


@pytest.fixture(scope="session")
def tokenizers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained (a little) tokenizers of pictures, depth, one vector and poses."""
    out = tmp_path_factory.mktemp("tokenizers")
    for recipe in (dense("rgb"), dense("depth"), vectors("dinov2_global"), vectors("human_poses")):
        train_tokenizer(recipe, data, out, steps=12, show_progress=False)
    return out


@pytest.fixture(scope="session")
def tokenized(data: Path, tokenizers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """:func:`data` with the tokens of :func:`tokenizers`."""
    root = tmp_path_factory.mktemp("tokenized") / "data"
    shutil.copytree(data, root)
    for split in ("train", "val"):
        tokenize_dataset(root, split, tokenizers, TOKENIZER_OF, show_progress=False)
    return root
