"""Masks: a picture, or any other grid, of which a part is given and the rest is open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m.errors import GenerationError, ModalityError
from open4m.modalities.pictures import open_picture
from open4m.modalities.view import Resample, View

Mask = np.ndarray | Image.Image | str | Path
"""(H, W) bool, True = open; or a picture (or its file) in which white is open."""

ASPECT_TOLERANCE = 0.02
"""How much the proportions (logarithm of height / width) of what shows the same picture may differ."""


@dataclass(frozen=True, eq=False)
class Masked:
    """A value of which a part is hidden: ``{"rgb": Masked("photo.jpg", "hole.png")}``.

    It is given as tokens. Positions of the grid that the mask touches are open: they are generated if the modality is
    asked for, and unknown otherwise. What was hidden has no influence: it is covered by its surroundings first.

    Attributes:
        value: of a modality with a grid, as it would be given without a mask.
        hidden: of the same proportions as the picture.
    """

    value: Any
    hidden: Mask


def read_mask(mask: Mask, modality: str) -> np.ndarray:
    """(H, W) bool of a mask in any of its forms.

    Raises:
        ModalityError: it is no picture, and no array of booleans.
    """
    source = str(mask) if isinstance(mask, str | Path) else "mask"
    if isinstance(mask, str | Path):
        path = Path(mask)
        if not path.is_file():
            raise ModalityError(modality, source, "there is no such mask.", "Check the path.")
        mask = open_picture(path.read_bytes(), source, modality)
    array = np.asarray(mask.convert("L")) > 127 if isinstance(mask, Image.Image) else np.asarray(mask)
    if array.ndim != 2 or array.dtype != bool or not array.size:
        found = f"found an array of {array.dtype}, shape {array.shape}, expected (H, W) of bool."
        raise ModalityError(modality, source, found, "Give True where it is open, such as array > 0.")
    return array


def same_proportions(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether two sizes (rows, columns) may belong to one picture."""
    return abs(np.log((a[0] * b[1]) / (a[1] * b[0]))) <= ASPECT_TOLERANCE


def wrong_size(modality: str, mask: np.ndarray, view: View) -> GenerationError:
    """What is raised for a mask of other proportions than the picture that ``view`` looks at."""
    found, expected = (f"{rows} × {columns}" for rows, columns in (mask.shape, view.original))
    return GenerationError(
        f"{modality}: the mask has {found} pixels, the picture {expected}: they do not belong together. Draw the mask "
        "over the whole picture."
    )


def seen_mask(mask: np.ndarray, view: View) -> np.ndarray:
    """(H, W) bool as seen through a view; a pixel is hidden if anything of it is."""
    return view.array(mask.astype(np.float32), Resample.BOX) > 0


def hidden_cells(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(rows, columns) bool: cells of a grid over the whole of ``mask`` (H, W) that it touches."""
    return seen_mask(mask, View.full((mask.shape[0], mask.shape[1]), grid))


def cover(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """``values`` (H, W) or (H, W, C) with the hidden ones (H, W) replaced by their nearest neighbours (4-connected).

    If everything is hidden, nothing is replaced.
    """
    values, hidden = values.copy(), hidden.copy()
    while hidden.any() and not hidden.all():
        found = hidden.copy()
        for axis in (0, 1):
            for step in (1, -1):
                neighbour, unknown = np.roll(values, step, axis), np.roll(hidden, step, axis)
                np.moveaxis(unknown, axis, 0)[0 if step == 1 else -1] = True  # no neighbours beyond the border
                reached = found & ~unknown
                values[reached] = neighbour[reached]
                found &= ~reached
        hidden = found
    return values
