"""Edge maps: Canny edges of a picture and borders of its instances.

The published system's Canny settings and the way its SAM edges were made are not documented (4M-21, App. B);
ours are the constants below. Edge maps are (H, W) uint8, 255 on an edge and 0 elsewhere.
"""

from __future__ import annotations

import numpy as np
from skimage.feature import canny

CANNY_SIGMA = 1.0
"""Standard deviation, in pixels, of the Gaussian that smooths the picture before the gradient."""

CANNY_LOW, CANNY_HIGH = 0.08, 0.2
"""Hysteresis thresholds on the Sobel gradient of luminance in [0, 1]."""


def luminance(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 → (H, W) float32 in 0…255 (ITU-R BT.601 weights, as PIL's mode L)."""
    return rgb.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def canny_edges(image: np.ndarray) -> np.ndarray:
    """Canny edges (Canny, 1986) of a picture (H, W, 3) or (H, W), uint8."""
    grey = image.astype(np.float32) if image.ndim == 2 else luminance(image)
    edges = canny(grey / 255.0, sigma=CANNY_SIGMA, low_threshold=CANNY_LOW, high_threshold=CANNY_HIGH)
    return edges.astype(np.uint8) * 255


def sam_edges(instance_map: np.ndarray) -> np.ndarray:
    """Borders of an instance map (H, W) of integer ids.

    On ids there is nothing to smooth, so the border is taken exactly: the pixels whose right or lower neighbour
    has another id.
    """
    edges = np.zeros(instance_map.shape, dtype=np.uint8)
    edges[:, :-1][instance_map[:, :-1] != instance_map[:, 1:]] = 255
    edges[:-1][instance_map[:-1] != instance_map[1:]] = 255
    return edges
