"""Colour photographs: pixels for the transformer, and a VQ stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array, require_finite
from open4m.modalities.drawing import fit_square
from open4m.modalities.merging import Merged
from open4m.modalities.pictures import open_picture, png_bytes
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import Position, StreamKind, StreamSpec

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]


class Rgb(DenseModality[np.ndarray]):
    """(H, W, 3) uint8, sRGB."""

    name = "rgb"
    extensions = ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "jp2", "jpx", "avif", "ppm", "tga")
    channels = 3
    card = Card(
        title="RGB",
        description="A colour picture: (H, W, 3) uint8, 0…255, sRGB. Read from any common image file; the transformer "
        "sees ImageNet-normalised pixels, the tokenizer [-1, 1].",
        metrics={"psnr": Metric("dB", True), "l1": Metric("", False)},
        source="Photographs (CC12M, COYO in the published system).",
    )

    def decode(self, data: bytes, source: str) -> np.ndarray:
        """Any image file → (H, W, 3) uint8: upright (EXIF), transparency on white, 16 bits and palettes reduced."""
        return self._from_picture(open_picture(data, source, self.name), source)

    def encode(self, value: np.ndarray) -> bytes:
        self._check_form(value, "encode")
        return png_bytes(value)

    @classmethod
    def coerce(cls, picture: object) -> np.ndarray:
        """A ``PIL.Image.Image`` of any mode, or an (H, W, 3) uint8 array, as a value."""
        if isinstance(picture, Image.Image):
            picture = cls._from_picture(picture, "picture")
        cls._check(picture, "array")
        return np.asarray(picture)

    @classmethod
    def _from_picture(cls, image: Image.Image, source: str) -> np.ndarray:
        try:
            return np.array(_to_rgb(ImageOps.exif_transpose(image)))
        except Exception as error:  # broken EXIF blocks and exotic modes fail in many ways
            raise ModalityError(
                cls.name,
                source,
                f"a picture of mode {image.mode!r} cannot be turned into 8-bit RGB ({error}).",
                "Save it as an ordinary 8-bit RGB picture.",
            ) from error

    def validate(self, value: np.ndarray, source: str) -> None:
        self._check(value, source)

    @classmethod
    def _check(cls, value: object, source: str) -> None:
        array = cls._check_form(value, source)
        if array.max() == 1:
            raise ModalityError(
                cls.name,
                source,
                "the largest value is 1, expected 0…255.",
                "If it was in 0…1 before it was cast to whole numbers, use numpy.rint(255 * array).astype(numpy.uint8) "
                "on the original; multiply a 0/1 mask by 255.",
            )

    @classmethod
    def _check_form(cls, value: object, source: str) -> np.ndarray:
        """A well-formed picture (which a nearly black prediction is, too)."""
        array = require_array(value, cls.name, source, "an (H, W, 3) uint8 array")
        if array.ndim != 3 or array.shape[2] != 3:
            raise ModalityError(cls.name, source, f"found shape {array.shape}, expected (H, W, 3).", _shape_fix(array))
        if array.dtype != np.uint8:
            require_finite(array, cls.name, source)
            low, high = array.min(), array.max()
            found = f"found {array.dtype} in [{low:g}, {high:g}], expected uint8 in 0…255."
            raise ModalityError(cls.name, source, found, _scale_fix(float(low), float(high)))
        return array

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Crop and bicubic resize; black outside of the picture."""
        return np.array(view.image(Image.fromarray(value), Resample.BICUBIC))

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        return fit_square(Image.fromarray(value), size)

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """Size."""
        return f"{value.shape[1]} × {value.shape[0]} pixels"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """Mean over pictures of the peak signal-to-noise ratio (at most 100 dB) and of |difference| on 0…1."""
        psnr, l1 = [], []
        for prediction, truth in pairs(self.name, predictions, truths):
            difference = (prediction.astype(np.float64) - truth) / 255
            psnr.append(-10 * np.log10(max(float((difference**2).mean()), 1e-10)))
            l1.append(self.errors(prediction, truth).mean(dtype=np.float64))
        return {"psnr": float(np.mean(psnr)), "l1": float(np.mean(l1))}

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(H, W) |difference| on 0…1, mean of the three colours."""
        return np.abs(prediction.astype(np.float32) - truth).mean(axis=-1) / 255

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """The mean, which is blurred where the samples differ; their standard deviation on 0…1."""
        stack = np.stack(values).astype(np.float32)
        return Merged(np.rint(stack.mean(axis=0)).astype(np.uint8), stack.std(axis=0).mean(axis=-1) / 255, "on 0…1")

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(3, H, W) float32 in [-1, 1], for the tokenizer."""
        return np.ascontiguousarray(value.transpose(2, 0, 1), dtype=np.float32) / 127.5 - 1

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`to_array`; values outside [-1, 1] are clamped."""
        return np.rint((np.clip(array, -1, 1).transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)

    def pixels_for_model(self, value: np.ndarray) -> np.ndarray:
        """(3, H, W) float32, ImageNet-normalised, for the transformer's ``rgb@S`` stream."""
        return (value.transpose(2, 0, 1).astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """``rgb@S`` (pixels, input only) and ``tok_rgb@S`` (16 384 codes)."""
        side = image_size // patch_size
        pixels = StreamSpec(
            f"rgb@{image_size}",
            self.name,
            StreamKind.PIXELS,
            side * side,
            grid=(side, side),
            patch_size=patch_size,
            channels=3,
            position=Position.SINCOS_2D,
            is_target=False,
        )
        return pixels, token_stream(self.name, self.name, image_size, patch_size, 16_384)


def _shape_fix(array: np.ndarray) -> str:
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return "Repeat a grey picture three times: numpy.dstack([array] * 3)."
    if array.ndim == 3 and array.shape[2] == 4:
        return "Take away the transparency: give PIL.Image.fromarray(array) instead."
    if array.ndim == 3 and array.shape[0] == 3:
        return "Move the channels to the end: array.transpose(1, 2, 0)."
    return "Give an (H, W, 3) uint8 array; a batch as a list of pictures."


_SCALES: tuple[tuple[float, float, str, str], ...] = (
    (0.0, 1.0, "0…1", "numpy.rint(255 * array)"),
    (0.0, 255.0, "0…255", "numpy.rint(array)"),
    (0.0, 65_535.0, "16 bits", "numpy.rint(array / 257)"),
    (-1.0, 1.0, "[-1, 1] (mean and deviation 0.5)", "numpy.rint(127.5 * (array + 1))"),
    (-2.2, 2.7, "ImageNet-standardised", "numpy.rint(255 * (array * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]))"),
)
"""Scales that pictures are often left in: low, high, what it is called, the way back to 0…255. The first that fits."""


def _scale_fix(low: float, high: float) -> str:
    """What an array of numbers that are no bytes seems to be, and how to convert it. Nothing is ever converted here."""
    for lowest, highest, name, conversion in _SCALES:
        if lowest <= low and high <= highest:
            return (
                f"It looks like {name}: use {conversion}.astype(numpy.uint8), or give the picture as it was before; "
                "open4m normalises by itself."
            )
    return "Its scale is not a usual one: give the picture as it was before it was normalised, as uint8."


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow picture → mode RGB."""
    if image.mode == "F":
        raise ValueError("the brightness scale of floating-point pictures is not known")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65_535:
            raise ValueError(f"32-bit values {deep.min()}…{deep.max()} exceed 16 bits")
        return Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


register(Rgb())
