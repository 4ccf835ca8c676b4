"""Pre-training on a small tokenized data set: learning, resuming, bundling."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from open4m.errors import DataError, UnknownNameError
from open4m.hub.bundle import load_bundle
from open4m.streams import StreamKind
from open4m.tokenizers.text import TextTokenizer
from open4m.training.distributed import World
from open4m.training.pretrain_task import PretrainTask, tokenizer_configs
from open4m.training.recipe import PretrainRecipe
from open4m.training.run import pretrain
from open4m.training.text_vocabulary import learn_text
from recipes.mixtures import scenes
from recipes.scenes_tiny import LOSS_WEIGHTS, PRETRAIN_RECIPES, pretrain_recipe
from recipes.tokenizers import SCENES_TOKENIZERS, TOKENIZER_OF
from tests.training.conftest import SIZE
from tests.training.test_trainer import assert_same
from tests.training.toy import weights

TINY = PretrainRecipe(
    "tiny",
    "A model for tests.",
    modalities=("rgb", "depth", "dinov2_global", "caption", "human_poses"),
    mixture=scenes(SIZE),
    tokenizer_of=TOKENIZER_OF,
    dim=32,
    encoder_depth=1,
    decoder_depth=1,
    num_heads=2,
    image_size=SIZE,
    learning_rate=1e-2,
    loss_weights=LOSS_WEIGHTS,
)


def task(tokenized: Path, tokenizers: Path, recipe: PretrainRecipe = TINY, world: World | None = None) -> PretrainTask:
    return PretrainTask(recipe, tokenized, tokenizers, learn_text(tokenized, tokenizers), world or World())


def test_a_model_learns_and_becomes_a_bundle(tokenized: Path, tokenizers: Path, tmp_path: Path) -> None:
    model = task(tokenized, tokenizers)
    model.model.eval()
    with torch.no_grad():
        before = model.evaluate(torch.device("cpu"))
    outcome = pretrain(TINY, tokenized, tokenizers, tmp_path, steps=40, show_progress=False)
    assert outcome.finished
    assert before.keys() == outcome.metrics.keys() >= {"loss", f"loss/tok_depth@{SIZE}", "loss/caption"}
    assert outcome.metrics["loss"] < 0.85 * before["loss"]
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.model.trained and bundle.info.provenance["steps"] == 40
    assert bundle.info.stream_tokenizers[f"tok_depth@{SIZE}"] == "depth"
    assert bundle.tokenizer("human_poses").config.num_codebooks == 8
    saved = weights(tmp_path / "run")
    for name, value in bundle.model.state_dict().items():
        np.testing.assert_allclose(value.numpy(), saved[name], rtol=1e-2, atol=1e-6, err_msg=name)


def test_a_stopped_run_ends_with_the_same_bits(
    tokenized: Path, tokenizers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> bool:
        return pretrain(TINY, tokenized, tokenizers, tmp_path / name, steps=8, show_progress=False).finished

    assert run("whole")
    original = PretrainTask.batch

    def stop_at_three(self: PretrainTask, step: int, world: World) -> object:
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, world)

    with monkeypatch.context() as patched:
        patched.setattr(PretrainTask, "batch", stop_at_three)
        assert not run("stopped")
    assert not (tmp_path / "stopped" / "bundle").exists()
    assert run("stopped")
    assert_same(weights(tmp_path / "stopped" / "run"), weights(tmp_path / "whole" / "run"))


def test_ranks_share_the_batch(tokenized: Path, tokenizers: Path) -> None:
    whole = task(tokenized, tokenizers).batch(2, World())
    halves = [
        task(tokenized, tokenizers, world=world).batch(2, world) for world in (World(rank=r, size=2) for r in (0, 1))
    ]
    assert [h.inputs.valid.shape[0] for h in halves] == [8, 8]
    counts = torch.cat([h.targets.valid.sum(dim=1) for h in halves])
    assert torch.equal(counts, whole.targets.valid.sum(dim=1))
    with pytest.raises(DataError, match="3 processes"):
        task(tokenized, tokenizers, world=World(rank=0, size=3))


def test_missing_tokenizers_are_named(tokenized: Path, tokenizers: Path) -> None:
    with pytest.raises(DataError, match="tok_normal@32 needs the tokenizer 'normal'"):
        task(tokenized, tokenizers, replace(TINY, modalities=("rgb", "normal")))
    with pytest.raises(DataError, match="recipe tiny: tokenizer_of names no tokenizer of 'depth'"):
        task(tokenized, tokenizers, replace(TINY, tokenizer_of={"rgb": "rgb"}))
    assert set(tokenizer_configs(tokenizers)) == {"rgb", "depth", "dinov2_global", "human_poses"}


def test_text_vocabulary_covers_the_data(tokenized: Path, tokenizers: Path, tmp_path: Path) -> None:
    text = learn_text(tokenized, tmp_path)
    words = "a green box before a grey wall human pose global camera shape none"
    ids = text.encode(words)
    assert text.unk not in ids and text.decode(ids) == words
    assert len(text.encode("human pose")) <= 10
    assert isinstance(learn_text(tmp_path / "no data needed", tmp_path), TextTokenizer)
    assert text.vocab_size == learn_text(tokenized, tokenizers).vocab_size


@pytest.mark.parametrize("name", PRETRAIN_RECIPES)
def test_recipes_fit_their_mixtures_and_budgets(name: str) -> None:
    recipe = pretrain_recipe(name)
    config = recipe.model_config({n: r.config for n, r in SCENES_TOKENIZERS.items()}, 5000)
    mixture = recipe.mixture_for(config.streams)
    mixture.check(config.streams)
    shown = {name for component in mixture.components for name, alpha in component.inputs.items() if alpha > 0}
    asked = {name for component in mixture.components for name, alpha in component.targets.items() if alpha > 0}
    assert shown == {s.name for s in config.inputs} and asked == {s.name for s in config.targets}
    trunk = config.dim**2 * (config.encoder_depth * 12 + config.decoder_depth * 16)
    tables = {s.table: s.vocab_size * config.dim for s in config.streams}
    assert trunk + sum(tables.values()) < 7.5e6
    assert {s.table for s in config.streams if s.kind is StreamKind.SEQUENCE} == {"text"}
    assert all(s.grid in (None, (14, 14)) for s in config.streams)
    assert set(recipe.loss_weights) <= set(recipe.modalities)


def test_the_short_run_has_batches_of_its_own_streams_only() -> None:
    recipe = pretrain_recipe("scenes-speedrun")
    config = recipe.model_config({n: r.config for n, r in SCENES_TOKENIZERS.items()}, 5000)
    components = recipe.mixture_for(config.streams).components
    weights = {component.name: component.weight for component in components}
    assert len(weights) == 8  # all that the recipe names are components of the whole mixture
    assert weights["rgb to grids"] + weights["rgb to sentences"] > 0.5 * sum(weights.values())


def test_scenes_tiny_has_19_streams() -> None:
    config = pretrain_recipe("scenes-tiny").model_config({n: r.config for n, r in SCENES_TOKENIZERS.items()}, 5000)
    assert len(config.inputs) == 19 and len(config.targets) == 17
    with pytest.raises(UnknownNameError, match="scenes-tiny"):
        pretrain_recipe("scene-tiny")


def test_token_budgets_count_the_largest_sample() -> None:
    recipe = pretrain_recipe("scenes-tiny")
    assert recipe.mixture.token_budget == 392 + 212
    assert recipe.steps_for(604 * 16 * 10) == 10
    assert recipe.steps_for(604 * 16 * 10 + 1) == 11
    endless = replace(recipe.mixture, components=(replace(recipe.mixture.components[0], target_tokens=None),))
    with pytest.raises(DataError, match="steps"):
        replace(recipe, mixture=endless).steps_for(1e6)
