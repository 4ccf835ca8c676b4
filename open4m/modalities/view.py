"""View: the one object that keeps all modalities of a sample aligned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Resample = Image.Resampling

Fit = Literal["crop", "letterbox"]
"""How a picture of any shape becomes the model's square: its largest centred square, or all of it between bars."""


@dataclass(frozen=True)
class View:
    """A crop of an image, an optional horizontal flip after it, and the size it is resized to.

    The box is in pixels of the image the view was made for (``original``); a value with another
    resolution (a depth map at half size) is cropped at the same relative place.

    Attributes:
        top, left, height, width: crop box in pixels of ``original``; it may reach outside (zero padding).
        flip: mirror left–right after cropping.
        size: (rows, columns) of the result.
        original: (rows, columns) of the image the box refers to.
        index: row of a pre-tokenized crop (``crop_settings``); 0 = the unflipped centre square.
    """

    top: int
    left: int
    height: int
    width: int
    flip: bool
    size: tuple[int, int]
    original: tuple[int, int]
    index: int = 0

    def __post_init__(self) -> None:
        if min(self.height, self.width, *self.size, *self.original) < 1:
            raise ValueError(f"view {self} has an empty box, size or original")

    @property
    def is_whole(self) -> bool:
        """Whether the whole image is seen as it is, up to its size: relative coordinates do not change."""
        return not (self.flip or self.top or self.left) and (self.height, self.width) == self.original

    @classmethod
    def full(cls, original: tuple[int, int], size: tuple[int, int] | None = None) -> View:
        """The whole image, resized to ``size`` (default: as it is)."""
        return cls(0, 0, original[0], original[1], False, size or original, original)

    @classmethod
    def centre_square(cls, original: tuple[int, int], size: int) -> View:
        """The largest centred square, resized to ``size`` × ``size``."""
        rows, cols = original
        side = min(rows, cols)
        return cls((rows - side) // 2, (cols - side) // 2, side, side, False, (size, size), original)

    @classmethod
    def letterbox(cls, original: tuple[int, int], size: int) -> View:
        """All of the image, centred in a square of its longer side, resized to ``size`` × ``size``; the bars are 0."""
        rows, cols = original
        side = max(rows, cols)
        return cls(-((side - rows) // 2), -((side - cols) // 2), side, side, False, (size, size), original)

    @classmethod
    def fitted(cls, original: tuple[int, int], size: int, fit: Fit) -> View:
        """:meth:`centre_square` (``crop``) or :meth:`letterbox`."""
        return cls.letterbox(original, size) if fit == "letterbox" else cls.centre_square(original, size)

    @classmethod
    def random_crop(
        cls,
        original: tuple[int, int],
        size: int,
        rng: np.random.Generator,
        scale: tuple[float, float] = (0.2, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_probability: float = 0.5,
    ) -> View:
        """A random area and aspect ratio (log-uniform), as in Inception-style training crops."""
        rows, cols = original
        flip = bool(rng.random() < flip_probability)
        for _ in range(10):
            area = rows * cols * rng.uniform(*scale)
            aspect = float(np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1]))))
            w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if 0 < w <= cols and 0 < h <= rows:
                top, left = int(rng.integers(rows - h + 1)), int(rng.integers(cols - w + 1))
                return cls(top, left, h, w, flip, (size, size), original)
        centre = cls.centre_square(original, size)
        return cls(centre.top, centre.left, centre.height, centre.width, flip, (size, size), original)

    def inverse(self) -> View:
        """The way back: from a picture seen through this view to all of the original, at the scale of what was seen.

        What was not seen is outside (0). A letterbox is undone without resampling: its bars are cut off, to whole
        pixels.
        """
        (rows, cols), (height, width) = self.original, self.size
        scale_y, scale_x = height / self.height, width / self.width
        top, left = round(-self.top * scale_y), round(-self.left * scale_x)
        bottom = max(top + 1, round((rows - self.top) * scale_y))
        right = max(left + 1, round((cols - self.left) * scale_x))
        if self.flip:
            left, right = width - right, width - left
        return View(top, left, bottom - top, right - left, self.flip, (bottom - top, right - left), self.size)

    @classmethod
    def from_row(cls, row: np.ndarray, size: int, original: tuple[int, int], index: int) -> View:
        """From one row (top, left, h, w, flip) of a published ``crop_settings`` file."""
        top, left, height, width, flip = (int(v) for v in row)
        return cls(top, left, height, width, bool(flip), (size, size), original, index)

    def to_row(self) -> np.ndarray:
        """(5,) int64, the published ``crop_settings`` row; inverse of :meth:`from_row`."""
        return np.array([self.top, self.left, self.height, self.width, int(self.flip)], dtype=np.int64)

    def filled(self, grid: tuple[int, int]) -> np.ndarray:
        """(rows, columns) bool: the cells of a grid over the result that show anything of the image, not only bars."""
        inside = []
        for cells, start, extent, whole in zip(
            grid, (self.top, self.left), (self.height, self.width), self.original, strict=True
        ):
            borders = start + extent * np.arange(cells + 1) / cells
            inside.append((borders[1:] > 1e-6) & (borders[:-1] < whole - 1e-6))
        seen = inside[0][:, None] & inside[1]
        return seen[:, ::-1] if self.flip else seen

    def box_for(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the crop in pixels of an image of ``shape`` (rows, columns)."""
        sy, sx = shape[0] / self.original[0], shape[1] / self.original[1]
        return self.left * sx, self.top * sy, (self.left + self.width) * sx, (self.top + self.height) * sy

    def points(self, xy: np.ndarray) -> np.ndarray:
        """Map points from relative image coordinates (…, 2) in [0, 1] to relative crop coordinates.

        The result may lie outside [0, 1]: clipping is the caller's decision.
        """
        rows, cols = self.original
        out = np.empty_like(xy, dtype=np.float64)
        out[..., 0] = (xy[..., 0] * cols - self.left) / self.width
        out[..., 1] = (xy[..., 1] * rows - self.top) / self.height
        if self.flip:
            out[..., 0] = 1.0 - out[..., 0]
        return out

    def image(self, image: Image.Image, resample: Resample) -> Image.Image:
        """Crop, resize and flip a PIL image of any mode; outside of the image is 0.

        The crop is cut at pixel borders before it is resized, so that no pixel from outside of it leaks in.
        """
        left, top, right, bottom = (_snap(v) for v in self.box_for((image.height, image.width)))
        x, y = math.floor(left), math.floor(top)
        cut = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
        box = (left - x, top - y, right - x, bottom - y)
        target = (self.size[1], self.size[0])
        if cut.size != target or box != (0, 0, *cut.size):
            cut = cut.resize(target, resample, box=box)
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else cut

    def array(self, values: np.ndarray, resample: Resample) -> np.ndarray:
        """As :meth:`image` for a float array (H, W) or (H, W, C), channel by channel in float32."""
        if values.ndim == 2:
            return np.array(self.image(Image.fromarray(values.astype(np.float32)), resample))
        return np.stack([self.array(values[..., c], resample) for c in range(values.shape[-1])], axis=-1)


def _snap(coordinate: float) -> float:
    """``coordinate``, or the pixel border that it misses only by rounding."""
    border = round(coordinate)
    return border if abs(coordinate - border) < 1e-6 else coordinate
