"""Feature maps and feature vectors of pretrained networks: CLIP, DINOv2, ImageBind."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array, require_finite
from open4m.modalities.drawing import diverging, fit_square, principal_colours
from open4m.modalities.merging import Merged, cosine, mean_direction
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import Position, StreamKind, StreamSpec

CODEBOOK = 8192
GLOBAL_CODES = 16
_METRICS = {"cosine": Metric("", True), "l1": Metric("", False)}


class Features(DenseModality[np.ndarray]):
    """What maps and vectors have in common; ``axes`` is the layout that messages name."""

    extensions = ("npy",)
    axes: tuple[str, ...]

    @property
    def _form(self) -> str:
        return f"a ({', '.join(self.axes)}) float array"

    def decode(self, data: bytes, source: str) -> np.ndarray:
        """npy file of floats → float32."""
        try:
            array = np.load(io.BytesIO(data), allow_pickle=False)
            if not isinstance(array, np.ndarray):
                raise ValueError("it is an archive of several arrays")
        except Exception as error:  # damaged headers fail in many ways
            raise ModalityError(
                self.name, source, f"it is not a readable .npy file ({error}).", f"Save {self._form} with numpy.save."
            ) from error
        self.validate(array, source)
        return array.astype(np.float32)

    def encode(self, value: np.ndarray) -> bytes:
        """float16 npy."""
        self.validate(value, "encode")
        largest = float(np.abs(value).max())
        if largest > float(np.finfo(np.float16).max):
            raise ModalityError(
                self.name, "encode", f"the largest value {largest:g} does not fit float16.", "Scale the features."
            )
        buffer = io.BytesIO()
        np.save(buffer, value.astype(np.float16), allow_pickle=False)
        return buffer.getvalue()

    def validate(self, value: np.ndarray, source: str) -> None:
        value = require_array(value, self.name, source, self._form)
        if value.ndim != len(self.axes) or value.dtype.kind != "f":
            raise ModalityError(self.name, source, f"found {value.dtype} {value.shape}.", f"Give {self._form}.")
        require_finite(value, self.name, source)
        if not value.any():
            raise ModalityError(self.name, source, "all features are zero.", "Extract the features again.")

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """Shape and spread."""
        return f"{' × '.join(map(str, value.shape))} numbers, standard deviation {value.std():.3g}"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """Means over samples: cosine similarity of the feature vectors (of every position) and |difference|."""
        similarity, l1 = [], []
        for prediction, truth in pairs(self.name, predictions, truths):
            similarity.append(cosine(prediction, truth).mean())
            l1.append(np.abs(prediction.astype(np.float64) - truth).mean())
        return {"cosine": float(np.mean(similarity)), "l1": float(np.mean(l1))}

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1 − cosine similarity: (h, w) of a map, () of a vector."""
        return np.asarray(1 - cosine(prediction, truth), dtype=np.float32)

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """Mean direction, as long as the samples on average; their mean distance to it, 1 − cosine."""
        mean = mean_direction(np.stack(values))
        spread = np.asarray(np.mean([self.errors(value, mean) for value in values], axis=0))  # () of vectors
        return Merged(mean, spread, "1 − cosine")


class FeatureMap(Features):
    """(C, h, w) float32: one vector per patch of the picture."""

    axes = ("C", "h", "w")
    published_patch: int
    """Patch size of the published network; its grid has ``image_size / published_patch`` cells a side (16 → 14 × 14,
    14 → 16 × 16 at 224 pixels)."""

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """The crop, resized bilinearly to the grid of the whole map (not to ``view.size``, which is in pixels).

        Where ``view.size`` is no square, the shorter side of the grid shrinks with it. An approximation: features of a
        cropped picture are not the cropped features of the picture.
        """
        _, rows, cols = value.shape
        if view.box_for((rows, cols)) == (0, 0, cols, rows):
            return np.ascontiguousarray(value[:, :, ::-1]) if view.flip else value
        longest = max(view.size)
        grid = (max(1, round(rows * view.size[0] / longest)), max(1, round(cols * view.size[1] / longest)))
        seen = replace(view, size=grid).array(value.transpose(1, 2, 0), Resample.BILINEAR)
        return np.ascontiguousarray(seen.transpose(2, 0, 1))

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """The first three principal components of this map as red, green and blue."""
        return self.draw_all([value], size)[0]

    def draw_all(
        self, values: Sequence[np.ndarray], size: int = 224, backgrounds: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """As :meth:`draw`, with the components of all maps together: equal colours are equal features."""
        return [fit_square(Image.fromarray(c), size, smooth=False) for c in principal_colours(values)]

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(C, h, w) float32, as it is."""
        return value.astype(np.float32)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(C, h, w) float32, as it is."""
        return array.astype(np.float32)

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """``tok_<name>@S`` on the network's own grid: ``image_size / patch_size · 16 / published_patch`` a side.

        A system whose features lie on another grid replaces ``grid`` and ``max_tokens`` (``dataclasses.replace``).
        """
        side = round(image_size / patch_size * 16 / self.published_patch)
        stream = token_stream(self.name, self.name, image_size, patch_size, CODEBOOK)
        return (replace(stream, grid=(side, side), max_tokens=side * side),)


class FeatureVector(Features):
    """(C,) float32: one vector for the whole picture."""

    axes = ("C",)

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Unchanged: the vector belongs to the whole picture."""
        return value

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """The numbers as coloured cells in reading order: blue negative, white zero, red positive.

        Cells beyond the last number are dark. Colours are scaled to the 99th percentile of this vector.
        """
        side = int(np.ceil(len(value) ** 0.5))
        scale = max(float(np.percentile(np.abs(value), 99)), 1e-9)
        cells = np.zeros((side * side, 3), dtype=np.uint8)
        cells[: len(value)] = diverging(value / scale)
        return fit_square(Image.fromarray(cells.reshape(side, side, 3)), size, smooth=False)

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(C, 1, 1) float32: a picture of one pixel."""
        return value.astype(np.float32)[:, None, None]

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(C, 1, 1) → (C,) float32."""
        return array.astype(np.float32).reshape(-1)

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """``tok_<name>``: 16 codes without an order, positions learned; the same at every resolution."""
        return (
            StreamSpec(
                f"tok_{self.name}",
                self.name,
                StreamKind.TOKENS,
                GLOBAL_CODES,
                vocab_size=CODEBOOK,
                position=Position.LEARNED,
            ),
        )


def _card(title: str, what: str, network: str, licence: str) -> Card:
    return Card(
        title=title,
        description=f"{what} File: npy float16.",
        metrics=_METRICS,
        source=f"{network} in the published system (weights: {licence}).",
    )


class Clip(FeatureMap):
    name = "clip"
    channels = 512
    published_patch = 16
    card = _card(
        "CLIP features",
        "Patch features of CLIP, projected: (C, h, w) float32; C = 512 as published.",
        "CLIP ViT-B/16",
        "MIT",
    )


class Dinov2(FeatureMap):
    name = "dinov2"
    channels = 768
    published_patch = 14
    card = _card(
        "DINOv2 features",
        "Normalised patch features of DINOv2: (C, h, w) float32; C = 768 as published.",
        "DINOv2 ViT-B/14",
        "Apache-2.0",
    )


class ImageBind(FeatureMap):
    name = "imagebind"
    channels = 1280
    published_patch = 14
    card = _card(
        "ImageBind features",
        "Patch features of ImageBind's vision trunk: (C, h, w) float32; C = 1280 as published.",
        "ImageBind ViT-H/14",
        "non-commercial",
    )


class Dinov2Global(FeatureVector):
    name = "dinov2_global"
    channels = 768
    card = _card(
        "DINOv2 global feature",
        "The normalised class token of DINOv2: (C,) float32; C = 768 as published.",
        "DINOv2 ViT-B/14",
        "Apache-2.0",
    )


class ImageBindGlobal(FeatureVector):
    name = "imagebind_global"
    channels = 1280
    card = _card(
        "ImageBind global feature",
        "The class token of ImageBind's vision trunk: (C,) float32; C = 1280 as published.",
        "ImageBind ViT-H/14",
        "non-commercial",
    )


for _modality in (Clip(), Dinov2(), ImageBind(), Dinov2Global(), ImageBindGlobal()):
    register(_modality)
