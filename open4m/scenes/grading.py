"""Grading: the same view developed darker or brighter, paler or more vivid, or in another tint.

The scenes are lit and exposed much alike, so that brightness, saturation and palettes vary little beside what is
in the picture. A share of graded views gives a model something to learn these controls from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from open4m.labeling.edges import luminance
from open4m.scenes.shading import GAMMA

_STOPS = (-1.8, 1.3)
_VIVIDNESS = (0.1, 1.9)
_TINT = 0.18


@dataclass(frozen=True)
class Grade:
    """How a picture is developed.

    Attributes:
        gains: (red, green, blue) factors of the exposure; 1 = as rendered.
        vividness: factor of every pixel's distance from its grey; 0 = grey picture, 1 = as rendered.
    """

    gains: tuple[float, float, float]
    vividness: float


def draw_grade(rng: np.random.Generator) -> Grade:
    """From 0.29 to 2.5 times the exposure, from nearly grey to nearly twice as vivid, and mostly a mild tint."""
    stops, vividness = rng.uniform(*_STOPS), rng.uniform(*_VIVIDNESS)
    red, green, blue = np.exp2(stops + rng.normal(0.0, _TINT, 3) / math.log(2)).tolist()
    return Grade((red, green, blue), float(vividness))


def develop(rgb: np.ndarray, grade: Grade) -> np.ndarray:
    """(H, W, 3) uint8 → the same: another exposure through the curve of :func:`open4m.scenes.shading.film`."""
    exposed = (rgb.astype(np.float32) / 255) ** GAMMA
    again = (1 - (1 - exposed) ** np.array(grade.gains, np.float32)) ** (1 / GAMMA) * 255
    grey = luminance(again)[..., None]
    return np.round(np.clip(grey + (again - grey) * grade.vividness, 0, 255)).astype(np.uint8)
