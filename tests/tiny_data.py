"""One value of every modality, and a data set of them on disk, for the tiny system of ``tiny_bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tiny_bundle import FEATURES, SIZE, WIDTH, bundle

from open4m.data.shards import ShardWriter
from open4m.hub.bundle import save_bundle
from open4m.modalities.det import Box
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.modalities.sam_instance import Instance

SPLIT = "heldout"


def values(seed: int = 0, size: int = SIZE) -> dict[str, Any]:
    """A value of every modality of the tiny system, all different from seed to seed."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(size, size, 3)).astype(np.float32)
    low = rng.uniform(0.1, 0.3, 2)
    high = low + rng.uniform(0.3, 0.5, 2)
    corners = np.array([low, [high[0], low[1]], high, [low[0], high[1]]])
    eye = np.eye(3, dtype=np.float32)
    person = Person(
        np.array([0.2, 0.1, 0.8, 0.9]), eye, np.tile(eye, (23, 1, 1)), np.zeros(10, np.float32),
        np.array([0.9, 0, 0], np.float32),
    )  # fmt: skip
    features = rng.normal(size=(4, FEATURES, 4, 4)).astype(np.float32)
    return {
        "rgb": rng.integers(0, 256, (size, size, 3), dtype=np.uint8),
        "depth": rng.uniform(1, 9, (size, size)).astype(np.float32),
        "normal": normal / np.linalg.norm(normal, axis=-1, keepdims=True),
        "semseg": rng.integers(1, 134, (size, size)).astype(np.uint8),
        "canny_edge": rng.integers(0, 256, (size, size)).astype(np.uint8),
        "sam_edge": rng.integers(0, 256, (size, size)).astype(np.uint8),
        **dict(zip(("clip", "dinov2", "imagebind"), features, strict=False)),
        "dinov2_global": features[3, :, 0, 0],
        "imagebind_global": features[3, :, 1, 1],
        "caption": f"a red ball and {seed} dogs",
        "t5_caption": rng.normal(size=(5, WIDTH)).astype(np.float32),
        "det": [Box(*low, *high, class_name="dog")],
        "metadata": {"brightness": 100.0 + seed, "n_humans": 1},
        "human_poses": [person],
        "color_palette": rng.integers(0, 256, (3, 3), dtype=np.uint8),
        "sam_instance": [Instance(corners, np.array([*low, *high]))],
    }


def write_data(root: Path, count: int = 3, size: int = SIZE, names: tuple[str, ...] = ()) -> None:
    """A data set ``ROOT/heldout`` of ``count`` samples in the published layout; ``names``: default all."""
    names = names or tuple(name for name in values() if name != "t5_caption")
    with ShardWriter(root, SPLIT, names) as writer:
        for seed in range(count):
            sample = values(seed, size)
            modalities = {name: get_modality(name) for name in names}
            files = {name: (m.extensions[0], m.encode(sample[name])) for name, m in modalities.items()}
            writer.write(f"{seed:04d}", files)


def write_model(folder: Path) -> Path:
    """The tiny system as a bundle on disk; returns the folder."""
    import torch

    save_bundle(bundle(), folder, torch.float32)
    return folder
