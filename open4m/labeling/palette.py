"""Colour palettes: the k dominant colours of a picture, for k = 1…7.

The published palettes come from PyPalette (4M-21, Sec. 3.1), whose parameters are not stated; here they are the
centres of a deterministic k-means in CIE Lab, so that equal pictures always have equal palettes.
"""

from __future__ import annotations

import numpy as np

from open4m.modalities.cielab import lab_to_rgb, rgb_to_lab

MAX_COLOURS = 7
_SAMPLES_PER_SIDE = 20
_LLOYD_STEPS = 4


def extract_palettes(rgb: np.ndarray) -> list[np.ndarray]:
    """Seven palettes (k, 3) uint8, k = 1…7, of a picture (H, W, 3) uint8; colours ordered by share, largest first.

    400 pixels on a regular grid are clustered. Each palette starts from the previous one plus the sample that
    lowers the squared error most (fast global k-means; Likas, Vlassis and Verbeek, 2003). A picture with fewer than
    k different colours has repeated ones.
    """
    rows = np.linspace(0, rgb.shape[0] - 1, _SAMPLES_PER_SIDE).round().astype(int)
    cols = np.linspace(0, rgb.shape[1] - 1, _SAMPLES_PER_SIDE).round().astype(int)
    samples = rgb_to_lab(rgb[np.ix_(rows, cols)].reshape(-1, 3)).astype(np.float32)
    between = _squared_distances(samples, samples)

    palettes, centres = [], np.empty((0, 3), np.float32)
    for k in range(1, MAX_COLOURS + 1):
        if k == 1:
            centres = samples.mean(axis=0, keepdims=True)
        else:
            nearest = _squared_distances(samples, centres).min(axis=1)
            gain = np.maximum(nearest - between, 0.0).sum(axis=1)  # of each sample as an additional centre
            centres = _lloyd(samples, np.vstack([centres, samples[gain.argmax()]]))
        counts = np.bincount(_squared_distances(samples, centres).argmin(axis=1), minlength=k)
        palettes.append(lab_to_rgb(centres[np.argsort(-counts, kind="stable")]))
    return palettes


def _lloyd(samples: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """A few k-means steps; a centre without samples stays where it is."""
    for _ in range(_LLOYD_STEPS):
        members = _squared_distances(samples, centres).argmin(axis=1) == np.arange(len(centres))[:, None]
        counts = members.sum(axis=1, keepdims=True)
        centres = np.where(counts > 0, members.astype(np.float32) @ samples / np.maximum(counts, 1), centres)
        centres = centres.astype(np.float32)
    return centres


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, 3), (M, 3) → (N, M)."""
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0)
