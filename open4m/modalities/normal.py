"""Orientation of surfaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array, require_finite
from open4m.modalities.drawing import fit_square
from open4m.modalities.merging import Merged
from open4m.modalities.pictures import open_picture, png_bytes
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import StreamSpec

_FORM = "an (H, W, 3) float32 array of unit vectors, zero where there is no surface"
# Rounding to 8 bits moves a length by less than 0.01; resized and JPEG-compressed maps stray further.
_NEAR_UNIT = (0.75, 1.25)
_UNIT = (0.97, 1.03)
_MAX_STRAY = 0.05


class Normal(DenseModality[np.ndarray]):
    """(H, W, 3) float32 unit vectors in camera axes; the zero vector marks pixels without a surface."""

    name = "normal"
    extensions = ("png", "jpg", "jpeg")
    channels = 3
    card = Card(
        title="Surface normals",
        description="Surface orientation: (H, W, 3) float32 unit vectors in camera axes, zero = no surface. "
        "File: 8-bit RGB, 127.5·(n + 1).",
        metrics={
            "mean_angle": Metric("°", False),
            "median_angle": Metric("°", False),
            "within_11.25": Metric("", True),
        },
        source="Omnidata DPT-Hybrid v2 pseudo labels in the published system.",
    )

    def decode(self, data: bytes, source: str) -> np.ndarray:
        """8-bit RGB → unit vectors. Black (padding) and middle grey (no direction) become the zero vector."""
        image = open_picture(data, source, self.name)
        if image.mode != "RGB":
            raise ModalityError(
                self.name, source, f"found a picture of mode {image.mode!r}, expected 8-bit RGB.", "Save it as RGB."
            )
        stored = np.asarray(image)
        vectors = stored.astype(np.float32) / 127.5 - 1
        nothing = (stored == 0).all(axis=-1) | (np.abs(vectors) < 0.01).all(axis=-1)
        vectors[nothing] = 0
        self._check_lengths(vectors, source)
        return unit(vectors)

    def encode(self, value: np.ndarray) -> bytes:
        """8-bit PNG; only directions are kept."""
        self.validate(value, "encode")
        return png_bytes(_colours(unit(value)))

    def validate(self, value: np.ndarray, source: str) -> None:
        value = require_array(value, self.name, source, _FORM)
        if value.ndim != 3 or value.shape[-1] != 3 or value.dtype.kind != "f":
            fix = f"Give {_FORM}"
            if value.dtype == np.uint8:
                fix += "; from the colours of a file: array.astype(numpy.float32) / 127.5 - 1"
            raise ModalityError(self.name, source, f"found {value.dtype} {value.shape}.", f"{fix}.")
        require_finite(value, self.name, source)
        self._check_lengths(value, source)

    def _check_lengths(self, vectors: np.ndarray, source: str) -> None:
        length = np.linalg.norm(vectors, axis=-1)
        length = length[length > 0]
        # Colours in [0, 1] have lengths of 0.7 to 1.2 where the vectors had 1, but never a negative component.
        near = _NEAR_UNIT if vectors.min() < 0 else _UNIT
        stray = float(((length < near[0]) | (length > near[1])).mean()) if length.size else 0.0
        if stray > _MAX_STRAY:
            fix = "Give unit vectors in [-1, 1] (file: 127.5·(n + 1)), not normalised or rescaled again."
            if vectors.min() >= 0:
                fix = "If they are colours in [0, 1], give 2 * array - 1; in 0…255, array / 127.5 - 1."
            found = f"in [{vectors.min():.2g}, {vectors.max():.2g}], median length {np.median(length):.2f}"
            raise ModalityError(self.name, source, f"{stray:.0%} of the vectors are not of unit length ({found}).", fix)

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Bilinear, brought back to unit length; a flip mirrors x; zero outside of the picture."""
        seen = view.array(value, Resample.BILINEAR)
        if view.flip:
            seen[..., 0] *= -1
        return unit(seen)

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """The usual colours: 127.5·(n + 1) as RGB."""
        return fit_square(Image.fromarray(_colours(value)), size)

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """The mean direction, in camera axes."""
        x, y, z = value.reshape(-1, 3).mean(axis=0)
        return f"mean ({x:.2f}, {y:.2f}, {z:.2f}), camera axes"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """Angles between prediction and truth over all pixels of all pictures that have a true surface.

        Mean and median in degrees, and the share of pixels within 11.25°. A missing prediction counts as 90°.
        """
        angles = []
        for prediction, truth in pairs(self.name, predictions, truths):
            found = self.errors(prediction, truth)
            angles.append(found[np.isfinite(found)])
        every = np.concatenate(angles)
        if not every.size:
            raise ModalityError(self.name, "score", "no truth has a surface.", "Leave out empty normal maps.")
        return {
            "mean_angle": float(every.mean()),
            "median_angle": float(np.median(every)),
            "within_11.25": float((every < 11.25).mean()),
        }

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(H, W) angles in degrees; NaN where there is no true surface."""
        return np.where(np.any(truth != 0, axis=-1), _angles(prediction, truth), np.float32(np.nan))

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """Mean direction, zero where the samples cancel out; their mean angle to it in degrees."""
        mean = unit(np.mean([unit(value) for value in values], axis=0))
        return Merged(mean, np.mean([_angles(value, mean) for value in values], axis=0), "°")

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(3, H, W) float32 in [-1, 1]."""
        return np.ascontiguousarray(value.transpose(2, 0, 1), dtype=np.float32)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(3, H, W) → unit vectors."""
        return unit(np.ascontiguousarray(array.transpose(1, 2, 0), dtype=np.float32))

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        return (token_stream(self.name, self.name, image_size, patch_size, 8192),)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (…, 3) at length 1, float32; those too short to have a direction become zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 1e-3, vectors / np.maximum(length, 1e-3), 0).astype(np.float32)


def _angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(…) float32 degrees between vectors (…, 3); 90 where one of them has no direction."""
    cosine = (unit(a) * unit(b)).sum(axis=-1)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def _colours(vectors: np.ndarray) -> np.ndarray:
    """127.5·(n + 1) as uint8."""
    return np.rint((np.clip(vectors, -1, 1) + 1) * 127.5).astype(np.uint8)


register(Normal())
