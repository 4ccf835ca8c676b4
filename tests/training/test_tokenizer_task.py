"""Training tokenizers on a small data set, and tokenizing it with them."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from open4m.data.shards import ShardDataset
from open4m.errors import DataError, TrainingError
from open4m.modalities.registry import get_modality
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import load_tokenizer
from open4m.training.distributed import World
from open4m.training.run import train_tokenizer
from open4m.training.tokenize import tokenize_dataset
from open4m.training.tokenizer_task import TokenizerTask
from recipes.tokenizers import TOKENIZER_OF
from tests.training.conftest import SIZE, dense, vectors


def test_a_tokenizer_learns_and_is_written(data: Path, tmp_path: Path) -> None:
    task = TokenizerTask(dense("rgb"), data)
    task.before_step(4, World())
    first = task.evaluate(torch.device("cpu"))
    assert task.model.quantizing and first["codes_used"] > 0.2
    metrics = train_tokenizer(dense("rgb"), data, tmp_path, steps=60, show_progress=False).metrics
    assert metrics["psnr"] > first["psnr"] + 2
    model = load_tokenizer(tmp_path / "rgb")
    x = torch.from_numpy(get_modality("rgb").to_array(np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)))[None]  # type: ignore[attr-defined]
    assert model.tokenize(x).shape == (1, 4, 4)
    assert (tmp_path / "rgb" / "run" / "metrics.jsonl").is_file()
    again = train_tokenizer(dense("rgb"), data, tmp_path, steps=60, show_progress=False)
    assert again.metrics == pytest.approx(metrics)


def test_batches_depend_on_step_and_rank_only(data: Path) -> None:
    one, two = (TokenizerTask(dense("depth"), data) for _ in range(2))
    assert torch.equal(one.batch(3, World()), two.batch(3, World()))
    assert not torch.equal(one.batch(3, World()), one.batch(4, World()))
    assert not torch.equal(one.batch(3, World()), one.batch(3, World(rank=1, size=2)))


def test_people_are_drawn_from_samples_that_have_them(data: Path) -> None:
    task = TokenizerTask(vectors("human_poses"), data)
    assert task.batch(0, World()).shape == (64, 207, 1, 1)


def test_feature_channels_and_scale_come_from_the_data(data: Path) -> None:
    config: TokenizerConfig = TokenizerTask(vectors("dinov2_global"), data).recipe.config
    assert config.n_channels == 12 and 0.8 < config.input_scale < 1.2


def test_a_run_shorter_than_the_late_start_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="late start"):
        train_tokenizer(dense("rgb"), data, tmp_path, steps=3, show_progress=False)


def test_tokenizing_adds_aligned_folders(data: Path, tokenizers: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(data, root)
    assert tokenize_dataset(root, "val", tokenizers, TOKENIZER_OF, n_crops=3, show_progress=False) == 8
    names = ["rgb", "tok_rgb", "tok_depth", "tok_dinov2_global", "tok_human_poses", "crop_settings", "human_poses"]
    dataset = ShardDataset(root, "val", names)

    def array(index: int, name: str) -> np.ndarray:
        return np.load(io.BytesIO(dataset.read(index, name)[1]), allow_pickle=False)

    for i in range(len(dataset)):
        assert array(i, "tok_depth").shape == (3, 16) and array(i, "tok_depth").dtype == np.int16
        assert array(i, "tok_dinov2_global").shape == (3, 16)
        np.testing.assert_array_equal(array(i, "crop_settings")[0], [0, 0, SIZE, SIZE, 0])
        people = get_modality("human_poses").decode(dataset.read(i, "human_poses")[1], "file")
        assert array(i, "tok_human_poses").shape == (len(people), 8)
    assert (array(0, "crop_settings")[1:] != array(1, "crop_settings")[1:]).any()
    model, rgb = load_tokenizer(tokenizers / "rgb"), get_modality("rgb")
    x = rgb.to_array(rgb.decode(dataset.read(2, "rgb")[1], "file"))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(model.tokenize(torch.from_numpy(x)[None]).flatten(), array(2, "tok_rgb")[0])
    assert tokenize_dataset(root, "val", tokenizers, TOKENIZER_OF, n_crops=3, show_progress=False) == 0


def test_tokenizing_names_what_is_missing(data: Path, tokenizers: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no tokenizers"):
        tokenize_dataset(data, "val", tmp_path, TOKENIZER_OF)
    with pytest.raises(DataError, match="'test'"):
        tokenize_dataset(data, "test", tokenizers, TOKENIZER_OF)
    records = [json.loads(line) for line in (tokenizers / "rgb" / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"psnr", "perplexity", "codes_used"} <= records[-1].keys()
