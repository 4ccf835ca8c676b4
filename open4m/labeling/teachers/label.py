"""Labelling a rendered data set with the teachers: adds the feature folders to its shards."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import track

from open4m.data.derive import Compute, Files, derive_folders
from open4m.data.shards import Sample, ShardDataset
from open4m.errors import DataError
from open4m.labeling.teachers.base import Projection, Teacher
from open4m.labeling.teachers.contrastive import ContrastiveTeacher, train_contrastive
from open4m.labeling.teachers.efficientnet import EfficientNetLite0
from open4m.labeling.teachers.sentence import SentenceEncoder
from open4m.labeling.teachers.vgg import VGG16
from open4m.modalities.registry import get_modality

TEACHER_MODALITIES = ("clip", "dinov2", "imagebind", "dinov2_global", "imagebind_global", "t5_caption")
"""The folders that :func:`label_features` adds."""

DENSE_CHANNELS = 64
VECTOR_CHANNELS = 256
CONTRASTIVE_PICTURES = 6000
PROJECTION_PICTURES = 512
TEXT_FOLDERS = ("rgb", "caption")


def label_features(
    root: str | Path,
    split: str,
    *,
    workers: int = 1,
    contrastive_steps: int = 900,
    seed: int = 0,
    show_progress: bool = True,
) -> int:
    """Add the folders :data:`TEACHER_MODALITIES` to a split that has ``rgb`` and ``caption``.

    Dense maps have 64 channels and vectors 256 (principal components, see :class:`Projection`); ``t5_caption``
    holds the token states of the first caption. What was fitted on the split ``train`` (the contrastive pair and
    the projections) lies in ``ROOT/teachers/*.safetensors`` and is made when it is missing.
    About 60 ms per picture and core. Resumable by shard; ``workers`` processes take disjoint shards.

    Returns:
        The number of pictures labelled now.
    """
    fit_teachers(root, contrastive_steps=contrastive_steps, seed=seed, show_progress=show_progress)
    return derive_folders(
        root,
        split,
        TEXT_FOLDERS,
        TEACHER_MODALITIES,
        partial(make_labeller, str(root)),
        workers=workers,
        title="labelling",
        show_progress=show_progress,
    )


def fit_teachers(root: str | Path, *, contrastive_steps: int = 900, seed: int = 0, show_progress: bool = True) -> None:
    """Train the contrastive pair and fit the projections on the split ``train``, where their files are missing."""
    folder = Path(root) / "teachers"
    contrastive = folder / f"{ContrastiveTeacher.name}.safetensors"
    to_project = [kind for kind in (EfficientNetLite0, VGG16) if not _projection_paths(folder, kind)[0].exists()]
    if contrastive.exists() and not to_project:
        return
    dataset = ShardDataset(root, "train", TEXT_FOLDERS)
    for kind in to_project:
        fit_projections(kind(), _pictures(dataset, _spread(len(dataset), PROJECTION_PICTURES)), folder)
    if not contrastive.exists():
        rows = _spread(len(dataset), CONTRASTIVE_PICTURES)
        sentences = _sentence_vectors(dataset, rows, show_progress)
        train_contrastive(
            _pictures(dataset, rows),
            sentences,
            contrastive,
            steps=contrastive_steps,
            seed=seed,
            show_progress=show_progress,
        )


def fit_projections(teacher: Teacher, rgb: np.ndarray, folder: Path) -> None:
    """Fit the projections of a teacher's dense map and vector on pictures (N, H, W, 3) and save them."""
    features = [teacher.extract(rgb[i : i + 32]) for i in range(0, len(rgb), 32)]
    dense = np.concatenate([np.moveaxis(f.dense, 1, -1).reshape(-1, teacher.channels) for f in features])
    vectors = np.concatenate([f.vector for f in features if f.vector is not None])
    dense_path, vector_path = _projection_paths(folder, type(teacher))
    Projection.fit(vectors, VECTOR_CHANNELS).save(vector_path)
    Projection.fit(dense, DENSE_CHANNELS).save(dense_path)  # last: its presence says that both are there


def make_labeller(root: str) -> Compute:
    """The function that computes the feature files of samples; loads the teachers of ``ROOT/teachers``."""
    folder = Path(root) / "teachers"
    clip, sentences = ContrastiveTeacher(folder / f"{ContrastiveTeacher.name}.safetensors"), SentenceEncoder()
    projected = [
        (teacher, *(Projection.load(path) for path in _projection_paths(folder, type(teacher))))
        for teacher in (EfficientNetLite0(), VGG16())
    ]

    def compute(samples: Sequence[Sample]) -> list[Files]:
        rgb = np.stack([decode_rgb(s) for s in samples])
        values: dict[str, np.ndarray | list[np.ndarray]] = {
            clip.name: clip.extract(rgb).dense,
            sentences.name: sentences.encode([first_caption(s) for s in samples]),
        }
        for teacher, dense_projection, vector_projection in projected:
            features = teacher.extract(rgb)
            assert features.vector is not None
            values[teacher.name] = dense_projection(features.dense, axis=1)
            values[f"{teacher.name}_global"] = vector_projection(features.vector, axis=1)
        modalities = {name: get_modality(name) for name in values}
        return [
            {name: (m.extensions[0], m.encode(values[name][row])) for name, m in modalities.items()}
            for row in range(len(samples))
        ]

    return compute


def decode_rgb(sample: Sample) -> np.ndarray:
    """(H, W, 3) uint8 picture of a sample."""
    extension, data = sample.files["rgb"]
    return get_modality("rgb").decode(data, f"{sample.key}.{extension}")


def first_caption(sample: Sample) -> str:
    """The first caption of a sample."""
    extension, data = sample.files["caption"]
    return get_modality("caption").decode(data, f"{sample.key}.{extension}")


def _projection_paths(folder: Path, kind: type[Teacher]) -> tuple[Path, Path]:
    return folder / f"{kind.name}.safetensors", folder / f"{kind.name}_global.safetensors"


def _spread(length: int, count: int) -> list[int]:
    """``count`` (or all) sample numbers, evenly spread over the data set."""
    return np.linspace(0, length, min(count, length), endpoint=False).astype(int).tolist()


def _pictures(dataset: ShardDataset, rows: Sequence[int]) -> np.ndarray:
    pictures = [decode_rgb(dataset[i]) for i in rows]
    if len({p.shape for p in pictures}) > 1:
        raise DataError(f"{dataset.root}: the pictures have different sizes. Render them with one size.")
    return np.stack(pictures)


def _sentence_vectors(dataset: ShardDataset, rows: Sequence[int], show_progress: bool) -> np.ndarray:
    encoder = SentenceEncoder()
    starts = track(range(0, len(rows), 64), "sentence vectors", disable=not show_progress)
    chunks = [[first_caption(dataset[i]) for i in rows[start : start + 64]] for start in starts]
    return np.concatenate([encoder.sentence_vectors(chunk) for chunk in chunks])
