"""SAM instances: class-less object masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Instance:
    """One instance mask.

    Attributes:
        polygon: (K, 2) float, x y of the outline relative to the image in [0, 1].
        box: (4,) float, xmin ymin xmax ymax relative to the image in [0, 1].
        mask: (64, 64) float32 in [0, 1], the mask stretched to its own box; None until rasterised.
        mask_tokens: (16,) ids of the mask tokenizer (4×4 grid), or None when it has not been tokenized.
    """

    polygon: np.ndarray
    box: np.ndarray
    mask: np.ndarray | None = None
    mask_tokens: tuple[int, ...] | None = None
