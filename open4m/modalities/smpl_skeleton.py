"""A simple human skeleton with the joints, order and axes of SMPL, but with measures of its own.

Axes of the body in its rest pose (a T-pose): x to the body's left, y up, z to where it looks; metres. The origin is
that of the body model (in the chest), as a camera translation refers to it (4D-Humans; spec: human poses).
Neither the body model nor its learned shape space is needed: the ten shape coefficients act by the simple rules
of :func:`shaped_joints` and :func:`girth`.
"""

from __future__ import annotations

import numpy as np

JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip
"""The 24 joints in SMPL order; ``body_pose`` rotates joints 1…23, ``global_orient`` joint 0."""

PARENTS: tuple[int, ...] = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Index of every joint's parent; -1 for the pelvis."""

_MIDDLE = {
    "pelvis": (-0.24, 0.02), "spine1": (-0.12, 0.01), "spine2": (0.02, 0.01), "spine3": (0.07, 0.02),
    "neck": (0.28, -0.02), "head": (0.38, 0.03),
}  # fmt: skip
_SIDE = {
    "hip": (0.07, -0.33, 0.01), "knee": (0.10, -0.71, 0.01), "ankle": (0.09, -1.11, -0.03), "foot": (0.12, -1.17, 0.09),
    "collar": (0.08, 0.20, 0.00), "shoulder": (0.18, 0.23, -0.01), "elbow": (0.44, 0.22, -0.02),
    "wrist": (0.69, 0.22, -0.02), "hand": (0.77, 0.21, -0.03),
}  # fmt: skip


def _rest_joint(name: str) -> tuple[float, float, float]:
    if name in _MIDDLE:
        return (0.0, *_MIDDLE[name])
    side, part = name.split("_")
    x, y, z = _SIDE[part]
    return (x if side == "left" else -x, y, z)


REST_JOINTS: np.ndarray = np.array([_rest_joint(name) for name in JOINT_NAMES])
"""(24, 3) float64, joints of the mean body (1.72 m) in its rest pose."""
REST_JOINTS.setflags(write=False)

LIMBS: tuple[tuple[int, int, float], ...] = (
    (1, 4, 0.080), (2, 5, 0.080), (4, 7, 0.055), (5, 8, 0.055), (7, 10, 0.045), (8, 11, 0.045),
    (0, 3, 0.135), (3, 9, 0.135), (9, 12, 0.095), (12, 15, 0.055), (13, 16, 0.070), (14, 17, 0.070),
    (16, 18, 0.050), (17, 19, 0.050), (18, 20, 0.040), (19, 21, 0.040), (20, 22, 0.040), (21, 23, 0.040),
)  # fmt: skip
"""Capsules of the mean body: (joint, joint, radius in metres)."""

HEAD_RADIUS = 0.11
"""Radius of the ball round the head joint, metres; its centre lies :data:`HEAD_LIFT` above the joint."""

HEAD_LIFT = 0.09

_LEGS, _ARMS = (4, 5, 7, 8, 10, 11), (18, 19, 20, 21, 22, 23)


def shaped_joints(betas: np.ndarray) -> np.ndarray:
    """(24, 3) float64 rest joints of a body with shape ``betas`` (10,), nominally in [-3, 3].

    Per unit: betas[0] the whole body +3.5 %, betas[2] legs +2 %, betas[3] arms +2 %, betas[4] shoulders +3 %,
    betas[5] hips +3 %, betas[6] torso +1.5 %. betas[1] is the :func:`girth`; the others have no effect.
    """
    betas = np.clip(np.asarray(betas, dtype=np.float64), -4.0, 4.0)
    offsets = REST_JOINTS - REST_JOINTS[list(PARENTS)]
    offsets[0] = REST_JOINTS[0]
    offsets[list(_LEGS)] *= 1 + 0.02 * betas[2]
    offsets[list(_ARMS)] *= 1 + 0.02 * betas[3]
    offsets[[13, 14, 16, 17], 0] *= 1 + 0.03 * betas[4]
    offsets[[1, 2], 0] *= 1 + 0.03 * betas[5]
    offsets[[3, 6, 9, 12]] *= 1 + 0.015 * betas[6]
    joints = offsets * (1 + 0.035 * betas[0])
    for joint, parent in enumerate(PARENTS[1:], start=1):
        joints[joint] += joints[parent]
    return joints


def girth(betas: np.ndarray) -> float:
    """Factor on the radii of :data:`LIMBS` and of the head: +7 % per unit of betas[1], +3.5 % per unit of betas[0]."""
    betas = np.clip(np.asarray(betas, dtype=np.float64), -4.0, 4.0)
    return float((1 + 0.07 * betas[1]) * (1 + 0.035 * betas[0]))


def forward_kinematics(
    global_orient: np.ndarray, body_pose: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Joints of a posed body.

    Args:
        global_orient: (3, 3) rotation of the pelvis, body axes → target axes (camera: x right, y down, z forward).
        body_pose: (23, 3, 3) rotations of joints 1…23 relative to their parents.
        betas: (10,) shape.

    Returns:
        joints (24, 3) float64 in metres and their rotations (24, 3, 3), in the target axes. The pelvis stays at its
        rest place, so that a translation means the same as in SMPL.
    """
    rest = shaped_joints(betas)
    joints = np.empty((24, 3))
    rotations = np.empty((24, 3, 3))
    joints[0], rotations[0] = rest[0], global_orient
    for joint, parent in enumerate(PARENTS[1:], start=1):
        joints[joint] = joints[parent] + rotations[parent] @ (rest[joint] - rest[parent])
        rotations[joint] = rotations[parent] @ body_pose[joint - 1]
    return joints, rotations
