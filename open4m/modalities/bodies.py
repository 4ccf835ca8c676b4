"""Pictures of bodies: capsules on SMPL's joints, projected as HMR 2.0 does (spec: modalities §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from open4m.modalities.drawing import GROUND, fit_square
from open4m.modalities.smpl_skeleton import HEAD_LIFT, HEAD_RADIUS, LIMBS, girth

FOCAL_OVER_SIZE = 5000 / 256
"""Focal length of the HMR 2.0 camera in units of the picture's side."""

_NEAR = 0.1  # metres; nothing nearer is drawn
_OVERSAMPLING = 3
_COLOURS = np.array(
    [[120, 170, 235], [240, 160, 105], [130, 205, 140], [215, 135, 205], [230, 205, 110], [125, 210, 210]]
)

Body = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Joints (24, 3) in camera axes without translation, betas (10,), relative box (4,), camera (scale, tx, ty)."""


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
    return 0.5 + FOCAL_OVER_SIZE * points[..., :2] / np.maximum(points[..., 2:], _NEAR)


def draw_bodies(bodies: Sequence[Body], size: int, background: Image.Image | None) -> Image.Image:
    """Bodies over the half-dimmed background, far ones first."""
    picture = Image.new("RGB", (size, size), GROUND) if background is None else fit_square(background, size)
    picture = picture.point([v // 2 for v in range(256)] * 3)
    canvas = picture.resize((size * _OVERSAMPLING, size * _OVERSAMPLING), Image.Resampling.NEAREST)
    placed = [(joints + camera_translation(box, camera), betas) for joints, betas, box, camera in bodies]
    order = sorted(range(len(placed)), key=lambda i: -placed[i][0][0, 2])
    for index in order:
        _draw_body(canvas, *placed[index], _COLOURS[index % len(_COLOURS)])
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def _draw_body(canvas: Image.Image, joints: np.ndarray, betas: np.ndarray, colour: np.ndarray) -> None:
    """Capsules from far to near, each with a dark rim, nearer ones lighter."""
    width = girth(betas)
    up = joints[15] - joints[12]
    head = joints[15] + HEAD_LIFT * up / max(float(np.linalg.norm(up)), 1e-6)
    capsules = [(joints[a], joints[b], radius * width) for a, b, radius in LIMBS] + [(head, head, HEAD_RADIUS * width)]
    depths = np.array([(a[2] + b[2]) / 2 for a, b, _ in capsules])
    nearness = (depths.max() - depths) / max(float(np.ptp(depths)), 1e-6)
    for index in np.argsort(-depths):
        start, end, radius = capsules[index]
        if depths[index] > _NEAR:
            shade = colour * (0.65 + 0.35 * nearness[index])
            for grow, tone in ((1.0, shade * 0.45), (0.78, shade)):
                _capsule(canvas, start, end, radius * grow, tuple(int(v) for v in tone))


def _capsule(canvas: Image.Image, start: np.ndarray, end: np.ndarray, radius: float, colour: tuple[int, ...]) -> None:
    draw, side = ImageDraw.Draw(canvas), canvas.width
    ends = [project(point) * side for point in (start, end)]
    radii = [FOCAL_OVER_SIZE * radius / max(float(point[2]), _NEAR) * side for point in (start, end)]
    for (x, y), r in zip(ends, radii, strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    along = ends[1] - ends[0]
    length = float(np.linalg.norm(along))
    if length > 1e-6:
        across = np.array([-along[1], along[0]]) / length
        corners = [ends[0] + across * radii[0], ends[1] + across * radii[1]]
        corners += [ends[1] - across * radii[1], ends[0] - across * radii[0]]
        draw.polygon([tuple(c) for c in corners], fill=colour)
