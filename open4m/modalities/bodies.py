"""Pictures of bodies: capsules on SMPL's joints, projected as HMR 2.0 does (spec: modalities §5).

Neither SMPL's mesh nor its licence is needed; who has the model sees its mesh instead (:mod:`open4m.modalities.smpl`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from open4m.modalities.drawing import GROUND, fit_square
from open4m.modalities.smpl_skeleton import HEAD_LIFT, HEAD_RADIUS, LIMBS, girth

FOCAL_OVER_SIZE = 5000 / 256
"""Focal length of the HMR 2.0 camera in units of the picture's side."""

NEAREST = 0.1  # metres; nothing nearer is drawn
OVERSAMPLING = 3
COLOURS = np.array(
    [[120, 170, 235], [240, 160, 105], [130, 205, 140], [215, 135, 205], [230, 205, 110], [125, 210, 210]]
)
LIGHT = np.array([-0.45, -0.6, -0.66])  # unit vector towards the light: from the viewer, above to the left
AMBIENT = 0.35

Body = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Joints (24, 3) in camera axes without translation, betas (10,), relative box (4,), camera (scale, tx, ty)."""

Capsule = tuple[np.ndarray, np.ndarray, float]
"""Ends (3,) in metres before the camera, and radius."""


def camera_translation(box: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """(3,) metres: where the body stands before a camera that sees the whole square picture.

    Args:
        box: (4,) xmin ymin xmax ymax relative to the picture.
        camera: (3,) weak-perspective scale, tx, ty relative to the box.
    """
    scale, tx, ty = (float(v) for v in camera)
    centre = (np.asarray(box[:2], dtype=np.float64) + box[2:]) / 2
    span = 2 * float((centre - box[:2]).max()) * max(scale, 1e-3)  # predicted scales may be nonsense: stay finite
    span = max(span, 1e-6)
    x, y = 2 * (centre - 0.5) / span + (tx, ty)
    return np.array([x, y, 2 * FOCAL_OVER_SIZE / span])


def project(points: np.ndarray) -> np.ndarray:
    """Points (…, 3) in metres before the camera → (…, 2) relative to the picture, x right and y down."""
    return 0.5 + FOCAL_OVER_SIZE * points[..., :2] / np.maximum(points[..., 2:], NEAREST)


def draw_bodies(bodies: Sequence[Body], size: int, background: Image.Image | None) -> Image.Image:
    """Bodies over the half-dimmed background; what is nearer hides what is behind it, also among several people."""
    side = size * OVERSAMPLING
    canvas = np.array(dimmed(size, background).resize((side, side), Image.Resampling.NEAREST))
    depth = np.full((side, side), np.inf)
    for number, (joints, betas, box, camera) in enumerate(bodies):
        placed = joints + camera_translation(box, camera)
        for capsule in _capsules(placed, girth(betas)):
            _paint(canvas, depth, capsule, COLOURS[number % len(COLOURS)])
    return Image.fromarray(canvas).resize((size, size), Image.Resampling.LANCZOS)


def dimmed(size: int, background: Image.Image | None) -> Image.Image:
    """What bodies are drawn on: the background at half its brightness, or a plain ground."""
    picture = Image.new("RGB", (size, size), GROUND) if background is None else fit_square(background, size)
    return picture.point([v // 2 for v in range(256)] * 3)


def _capsules(joints: np.ndarray, width: float) -> Iterator[Capsule]:
    """The limbs, and the head as a ball."""
    for a, b, radius in LIMBS:
        yield joints[a], joints[b], radius * width
    up = joints[15] - joints[12]
    head = joints[15] + HEAD_LIFT * up / max(float(np.linalg.norm(up)), 1e-6)
    yield head, head, HEAD_RADIUS * width


def _paint(canvas: np.ndarray, depth: np.ndarray, capsule: Capsule, colour: np.ndarray) -> None:
    """Draw a capsule into a picture (S, S, 3) uint8 and its depth (S, S) in metres, in place."""
    start, end, radius = capsule
    side = len(canvas)
    if min(start[2], end[2]) - radius < NEAREST:
        return
    reach = FOCAL_OVER_SIZE * radius / (min(start[2], end[2]) - radius)
    corners = np.stack([project(start), project(end)])
    low = np.floor((corners.min(axis=0) - reach) * side).clip(0, side).astype(int)
    high = np.ceil((corners.max(axis=0) + reach) * side).clip(0, side).astype(int)
    if (low >= high).any():
        return
    x, y = (((np.arange(low[axis], high[axis]) + 0.5) / side - 0.5) / FOCAL_OVER_SIZE for axis in (0, 1))
    rays = np.stack([*np.meshgrid(x, y), np.ones((len(y), len(x)))], axis=-1)
    window = np.s_[low[1] : high[1], low[0] : high[0]]
    distance, normal = _hit(rays, capsule)
    seen = distance < depth[window]
    brightness = AMBIENT + (1 - AMBIENT) * np.clip(normal[seen] @ LIGHT, 0, 1)
    canvas[window][seen] = np.rint(colour * brightness[:, None]).astype(np.uint8)
    depth[window][seen] = distance[seen]


def _hit(rays: np.ndarray, capsule: Capsule) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from the camera first meet a capsule.

    A ray meets the endless cylinder round the axis, and where that is beyond an end, the ball round this end.

    Args:
        rays: (…, 3) directions with z = 1.

    Returns:
        distance along z (…), infinite where nothing is met, and outward unit normal (…, 3) there.
    """
    start, end, radius = capsule
    axis = end - start
    length2 = max(float(axis @ axis), 1e-12)

    def along(points: np.ndarray) -> np.ndarray:
        """Place along the axis: 0 at the start, 1 at the end."""
        return (points - start) @ axis / length2

    across = rays - (rays @ axis / length2)[..., None] * axis  # rays and start without their part along the axis
    cylinder = _meet(across, start - (start @ axis / length2) * axis, radius)
    met = np.isfinite(cylinder)  # both balls lie inside of the endless cylinder
    where = along(np.where(met, cylinder, 0.0)[..., None] * rays)
    ball = _meet(rays, start + np.where(where > 0.5, 1.0, 0.0)[..., None] * axis, radius)
    distance = np.where((where >= 0) & (where <= 1), cylinder, np.where(met, ball, np.inf))
    point = np.where(np.isfinite(distance), distance, 0.0)[..., None] * rays
    nearest = start + np.clip(along(point), 0, 1)[..., None] * axis
    return distance, (point - nearest) / radius


def _meet(rays: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    """Smallest t with |t · ray − centre| = radius; infinite if there is none."""
    a, b = (rays * rays).sum(axis=-1), (rays * centre).sum(axis=-1)
    root = b * b - a * ((centre * centre).sum(axis=-1) - radius * radius)
    return np.where(root >= 0, (b - np.sqrt(np.maximum(root, 0))) / np.maximum(a, 1e-12), np.inf)
