"""Human poses: articulated bodies in the SMPL convention."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Person:
    """One person.

    Attributes:
        box: (4,) float, xmin ymin xmax ymax relative to the image, may reach outside [0, 1].
        global_orient: (3, 3) float32, rotation of the body's root in camera coordinates.
        body_pose: (23, 3, 3) float32, joint rotations relative to the parent, SMPL order.
        betas: (10,) float32, shape coefficients, nominally in [-3, 3].
        camera: (3,) float32, weak-perspective (scale, tx, ty) relative to ``box`` (HMR 2.0 convention).
        pose_tokens: (8,) ids of the body-pose tokenizer, or None when it has not been tokenized.
    """

    box: np.ndarray
    global_orient: np.ndarray
    body_pose: np.ndarray
    betas: np.ndarray
    camera: np.ndarray
    pose_tokens: tuple[int, ...] | None = None
