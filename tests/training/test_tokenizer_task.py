"""Training tokenizers on a small data set, and tokenizing it with them."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from open4m.data.shards import ShardDataset
from open4m.errors import DataError, TrainingError
from open4m.modalities.registry import get_modality
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.divae import DiVAE
from open4m.tokenizers.io import load_tokenizer
from open4m.training.distributed import World
from open4m.training.recipe import TokenizerRecipe
from open4m.training.run import train_tokenizer
from open4m.training.tokenize import tokenize_dataset
from open4m.training.tokenizer_task import TokenizerData, TokenizerTask, through_tokens
from open4m.training.trainer import TrainSettings
from recipes import solver_report
from recipes.solver_report import SolverReport
from recipes.tokenizer_report import TokenizerReport, main
from recipes.tokenizers import TOKENIZER_OF
from tests.training.conftest import SIZE, dense, small, vectors
from tests.training.toy import weights


def diffusion() -> TokenizerRecipe:
    """A decoder for the tokens of :func:`dense` depth."""
    options = {"enc_type": "Conv/B_1-Wi_16", "dec_type": "UNet/B_1-Wi_32-L_2", "threshold_ema_dead_code": 0.1}
    return replace(small("depth-diffusion", **options), average=0.9)


def read_records(tokenizer: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tokenizer / "run" / "metrics.jsonl").read_text().splitlines()]


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


def test_a_diffusion_decoder_learns_to_read_the_tokens_of_another(
    data: Path, tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tokenizers / "depth", tmp_path / "depth")
    monkeypatch.setattr("open4m.training.run.TrainSettings", partial(TrainSettings, log_every=1))
    train_tokenizer(diffusion(), data, tmp_path, steps=60, show_progress=False)
    records = read_records(tmp_path / "depth-diffusion")
    losses = [r["loss"] for r in records if r["phase"] == "train"]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])
    assert {"l1", "abs_rel", "codes_used"} <= records[-1].keys()
    source, model = load_tokenizer(tmp_path / "depth"), load_tokenizer(tmp_path / "depth-diffusion")
    assert isinstance(model, DiVAE)
    for key, value in source.state_dict().items():
        if not key.startswith(("decoder.", "post_quant_proj.")):
            assert torch.equal(value, model.state_dict()[key]), key
    untrained = TokenizerTask(diffusion(), data, encoder=tmp_path / "depth").evaluate(torch.device("cpu"))
    assert records[-1]["l1"] < 0.8 * untrained["l1"]


def test_a_killed_diffusion_run_ends_with_the_same_bits(
    data: Path, tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(task: TokenizerTask, step: int, world: World) -> None:  # noqa: ARG001
        if step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr("open4m.training.run.TrainSettings", partial(TrainSettings, checkpoint_every=2))
    for name in ("whole", "killed"):
        shutil.copytree(tokenizers / "depth", tmp_path / name / "depth")
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(TokenizerTask, "before_step", stop)
        train_tokenizer(diffusion(), data, tmp_path / "killed", steps=8, show_progress=False)
    assert not (tmp_path / "killed" / "depth-diffusion" / "config.json").exists()
    for name in ("whole", "killed"):
        train_tokenizer(diffusion(), data, tmp_path / name, steps=8, show_progress=False)
    whole, killed = (weights(tmp_path / name / "depth-diffusion" / "run") for name in ("whole", "killed"))
    assert whole.keys() == killed.keys() and any(key.startswith("average/decoder") for key in whole)
    for key, value in whole.items():
        np.testing.assert_array_equal(value, killed[key], err_msg=key)


def test_the_tokenizer_it_builds_on_must_be_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'depth', which is missing .* open4m train tokenizer depth"):
        train_tokenizer(diffusion(), data, tmp_path, steps=3, show_progress=False)


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
    assert {"psnr", "perplexity", "codes_used"} <= read_records(tokenizers / "rgb")[-1].keys()


def test_tokenizers_are_shown_side_by_side(data: Path, tokenizers: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizers / "depth", tmp_path / "depth")
    train_tokenizer(diffusion(), data, tmp_path, steps=2, show_progress=False)
    main(TokenizerReport(data, tmp_path, count=3, shown=2, out=tmp_path / "report"))
    scores = json.loads((tmp_path / "report" / "scores.json").read_text())
    values = TokenizerData(data, "val", "depth", SIZE).spread(3)
    decoded, _ = through_tokens(get_modality("depth"), values, load_tokenizer(tokenizers / "depth"))
    assert scores["depth"].pop("seconds") > 0
    assert scores["depth"] == pytest.approx(get_modality("depth").score(decoded, values))
    assert scores["depth-diffusion"]["l1"] != scores["depth"]["l1"]
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("data:image/png") == 6 and "UNet/B_1-Wi_32-L_2" in page
    with pytest.raises(DataError, match="different modalities"):
        main(TokenizerReport(data, tokenizers, names=("depth", "rgb")))


def test_few_steps_are_compared_with_many(
    data: Path, tokenizers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tokenizers / "depth", tmp_path / "depth")
    train_tokenizer(diffusion(), data, tmp_path, steps=2, show_progress=False)
    solver_report.main(SolverReport(data, tmp_path / "depth-diffusion", count=2, ddim=(2, 250), dpm=(20,)))
    told = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    names, (few, exact, other) = rows[0], rows[2:]
    assert names[:3] == ["solver", "steps", "abs_rel"] and names[-2:] == ["distance to 250 steps", "seconds a value"]
    assert [row[:2] for row in (few, exact, other)] == [["ddim", "2"], ["ddim", "250"], ["dpm++", "20"]]
    assert float(exact[-2]) == 0 < float(other[-2]) < float(few[-2])
    assert "fewest steps of dpm++ as good as 50 of ddim:" in told
