"""sRGB ↔ CIE L*a*b* (D65, 2° observer): the space in which a Euclidean distance is roughly a visible one."""

from __future__ import annotations

import numpy as np

# IEC 61966-2-1 primaries; rows give X, Y, Z. Dividing by the row sums makes white (1, 1, 1).
_RGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_RGB_TO_XYZ = _RGB_TO_XYZ / _RGB_TO_XYZ.sum(axis=1, keepdims=True)
_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_XYZ)
_EPSILON, _SLOPE = (6 / 29) ** 3, (29 / 6) ** 2 / 3

_LEVELS = np.arange(256) / 255.0
_LINEAR = np.where(_LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4)


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(…, 3) uint8 sRGB → (…, 3) float64: L* in 0…100, a* and b* about −110…110."""
    xyz = _LINEAR[rgb] @ _RGB_TO_XYZ.T
    f = np.where(xyz > _EPSILON, np.cbrt(xyz), _SLOPE * xyz + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(…, 3) float Lab → (…, 3) uint8 sRGB; colours outside of sRGB are clipped."""
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], axis=-1)
    linear = np.clip(np.where(f > 6 / 29, f**3, (f - 4 / 29) / _SLOPE) @ _XYZ_TO_RGB.T, 0.0, 1.0)
    levels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(levels * 255).astype(np.uint8)


def colour_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CIE 1976 ΔE between uint8 colours (…, 3): about 2 is just noticeable, 100 is black against white."""
    return np.linalg.norm(rgb_to_lab(a) - rgb_to_lab(b), axis=-1)
