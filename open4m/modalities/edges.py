"""Edge maps: Canny edges of the picture, and borders of its SAM instances. One tokenizer serves both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array
from open4m.modalities.drawing import fit_square
from open4m.modalities.merging import Merged
from open4m.modalities.pictures import open_picture, png_bytes
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import StreamSpec

_FORM = "an (H, W) uint8 array, 0 = no edge, 255 = edge"
_EDGE = 128
"""Values from here on are edges."""

_METRICS = {"f1": Metric("", True), "l1": Metric("", False)}


class EdgeMap(DenseModality[np.ndarray]):
    """(H, W) uint8: 0 = no edge … 255 = edge."""

    extensions = ("png", "jpg", "jpeg")
    channels = 1

    def decode(self, data: bytes, source: str) -> np.ndarray:
        """A grey picture, or a coloured file whose three channels are (nearly) equal."""
        image = open_picture(data, source, self.name)
        if image.mode == "RGB":
            spread = np.ptp(np.asarray(image), axis=-1).max()
            if spread > 16:  # JPEG leaves some colour in grey pictures
                raise ModalityError(
                    self.name,
                    source,
                    f"found a coloured picture (channels differ by up to {spread}), expected grey edges.",
                    "Give the edge map; open4m.labeling.edges.canny_edges makes one from a photograph.",
                )
        elif image.mode not in ("L", "1"):
            raise ModalityError(
                self.name, source, f"found a picture of mode {image.mode!r}, expected 8-bit grey.", "Save it as grey."
            )
        return np.array(image.convert("L"))

    def encode(self, value: np.ndarray) -> bytes:
        self._check_form(value, "encode")
        return png_bytes(value)

    def validate(self, value: np.ndarray, source: str) -> None:
        self._check_form(value, source)
        if value.max() == 1:
            raise ModalityError(self.name, source, "the largest value is 1.", "Multiply a 0/1 mask by 255.")

    def _check_form(self, value: np.ndarray, source: str) -> None:
        value = require_array(value, self.name, source, _FORM)
        if value.ndim != 2 or value.dtype != np.uint8:
            raise ModalityError(self.name, source, f"found {value.dtype} {value.shape}.", f"Give {_FORM}.")

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Crop and bicubic resize, as published; 0 outside of the picture."""
        return np.array(view.image(Image.fromarray(value), Resample.BICUBIC))

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """White edges on black."""
        return fit_square(Image.fromarray(value), size)

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        return f"{np.mean(value >= _EDGE):.1%} of the pixels are edges"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """``f1``: edges are values ≥ 128, correct within one pixel (8 neighbours), counted over the whole list;
        1 if neither side has an edge. ``l1``: mean |difference| on 0…1."""
        correct = predicted = found = true = 0
        l1 = []
        for prediction, truth in pairs(self.name, predictions, truths):
            ours, theirs = prediction >= _EDGE, truth >= _EDGE
            correct += int((ours & _thicken(theirs)).sum())
            found += int((theirs & _thicken(ours)).sum())
            predicted += int(ours.sum())
            true += int(theirs.sum())
            l1.append(self.errors(prediction, truth).mean(dtype=np.float64))
        precision = correct / predicted if predicted else float(true == 0)
        recall = found / true if true else float(predicted == 0)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return {"f1": f1, "l1": float(np.mean(l1))}

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(H, W) |difference| on 0…1."""
        return np.abs(prediction.astype(np.float32) - truth) / 255

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """The mean, brightened until as many pixels are edges (≥ 128) as on average; standard deviation on 0…1.

        Samples seldom agree on a line to the pixel, so that the mean alone would show hardly any edge.
        """
        stack = np.stack(values).astype(np.float32)
        mean, usual = stack.mean(axis=0), round((stack >= _EDGE).mean() * stack[0].size)
        faintest = np.sort(mean, axis=None)[-usual] if usual else _EDGE
        brighter = mean * max(1.0, _EDGE / max(faintest, 1.0))
        return Merged(np.rint(np.clip(brighter, 0, 255)).astype(np.uint8), stack.std(axis=0) / 255, "on 0…1")

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(1, H, W) float32 in [-1, 1]."""
        return (value.astype(np.float32) / 127.5 - 1)[None]

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_array`; values outside [-1, 1] are clamped."""
        return np.rint((np.clip(array[0], -1, 1) + 1) * 127.5).astype(np.uint8)

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        return (token_stream(self.name, self.name, image_size, patch_size, 8192),)


class CannyEdge(EdgeMap):
    name = "canny_edge"
    card = Card(
        title="Canny edges",
        description="Brightness edges of the picture: (H, W) uint8, 0 = no edge … 255 = edge.",
        metrics=_METRICS,
        source="Canny's detector (open4m.labeling); the published system does not state its parameters.",
    )


class SamEdge(EdgeMap):
    name = "sam_edge"
    card = Card(
        title="SAM edges",
        description="Borders between object instances: (H, W) uint8, 0 = no edge … 255 = edge.",
        metrics=_METRICS,
        source="Edges of SAM ViT-H instances in the published system.",
    )


def _thicken(mask: np.ndarray) -> np.ndarray:
    """A binary mask grown by one pixel in all eight directions."""
    padded = np.pad(mask, 1)
    rows, cols = mask.shape
    return np.logical_or.reduce([padded[y : y + rows, x : x + cols] for y in range(3) for x in range(3)])


register(CannyEdge())
register(SamEdge())
