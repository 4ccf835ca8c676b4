"""Going on from a trained model: what is copied, what starts fresh, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from open4m.errors import TrainingError
from open4m.hub.bundle import Bundle, load_bundle
from open4m.tokenizers.io import load_tokenizer, save_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.training.distributed import World
from open4m.training.pretrain_task import PretrainTask
from open4m.training.recipe import PretrainRecipe
from open4m.training.run import pretrain
from open4m.training.text_vocabulary import learn_text
from tests.training.conftest import SIZE
from tests.training.test_pretrain import TINY


@pytest.fixture(scope="module")
def first(tokenized: Path, tokenizers: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("first")
    pretrain(TINY, tokenized, tokenizers, out, steps=4, show_progress=False)
    return load_bundle(out / "bundle")


def start(bundle: Bundle, data: Path, tokenizers: Path, recipe: PretrainRecipe = TINY) -> PretrainTask:
    return PretrainTask(recipe, data, tokenizers, learn_text(data, tokenizers), World(), seed=7, start=bundle)


def test_all_weights_are_copied(first: Bundle, tokenized: Path, tokenizers: Path) -> None:
    task = start(first, tokenized, tokenizers)
    assert task.fresh == []
    for name, value in first.model.state_dict().items():
        assert torch.equal(task.model.state_dict()[name], value), name


def test_new_streams_start_fresh(tokenized: Path, tokenizers: Path, tmp_path: Path) -> None:
    without = replace(TINY, modalities=tuple(m for m in TINY.modalities if m != "depth"))
    pretrain(without, tokenized, tokenizers, tmp_path, steps=2, show_progress=False)
    task = start(load_bundle(tmp_path / "bundle"), tokenized, tokenizers)
    assert set(task.fresh) == {f"modality_embeddings.tok_depth@{SIZE}", "decoder_tables.depth.weight"}


def test_ids_of_another_codebook_start_fresh(first: Bundle, tokenized: Path, tokenizers: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizers, tmp_path / "tokenizers")
    changed = load_tokenizer(tmp_path / "tokenizers" / "depth")
    for buffer in changed.quantize.buffers():
        buffer += 0.25
    save_tokenizer(changed, tmp_path / "tokenizers" / "depth")
    task = start(first, tokenized, tmp_path / "tokenizers")
    assert task.fresh == ["decoder_tables.depth.weight"]
    fresh, found = task.model.state_dict(), first.model.state_dict()
    assert not torch.equal(fresh["decoder_tables.depth.weight"], found["decoder_tables.depth.weight"])
    assert torch.equal(fresh["mask_token"], found["mask_token"])


def test_words_are_matched_by_spelling(first: Bundle, tokenized: Path, tokenizers: Path) -> None:
    text = TextTokenizer.train(["a green zebra before a wall"] * 3, 4400)
    assert text.vocabulary != learn_text(tokenized, tokenizers).vocabulary
    task = PretrainTask(TINY, tokenized, tokenizers, text, World(), seed=7, start=first)
    assert task.fresh == ["decoder_tables.text.weight"]
    assert first.text is not None
    here, there = task.model.state_dict()[task.fresh[0]], first.model.state_dict()[task.fresh[0]]
    for word in ("[S_1]", "v0=7", "green", "wall"):
        assert torch.equal(here[text.vocabulary[word]], there[first.text.vocabulary[word]]), word


def test_another_trunk_is_refused(first: Bundle, tokenized: Path, tokenizers: Path) -> None:
    with pytest.raises(TrainingError, match=r"tiny cannot be the start of this recipe: mask_token is \(1, 1, 48\)"):
        start(first, tokenized, tokenizers, replace(TINY, dim=48))
    with pytest.raises(TrainingError, match=r"encoder\.1\..* nothing there"):
        start(first, tokenized, tokenizers, replace(TINY, encoder_depth=2))


def test_a_continued_run_goes_on_from_there(tokenized: Path, tokenizers: Path, tmp_path: Path) -> None:
    first_folder = tmp_path / "first"
    pretrain(TINY, tokenized, tokenizers, first_folder, steps=40, show_progress=False)
    calm = replace(TINY, learning_rate=1e-5)
    afresh = pretrain(calm, tokenized, tokenizers, tmp_path / "afresh", steps=2, show_progress=False)
    on = pretrain(
        calm, tokenized, tokenizers, tmp_path / "on", steps=2, start=first_folder / "bundle", show_progress=False
    )
    assert on.metrics["loss"] < 0.9 * afresh.metrics["loss"]
    provenance = load_bundle(tmp_path / "on" / "bundle").info.provenance
    assert provenance["steps"] == 2 and provenance["start"]["steps"] == 40
