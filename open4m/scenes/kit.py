"""A small kit to write models with: solids at a place, in metres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from open4m.scenes.materials import Material
from open4m.scenes.model import Part

Vector = Sequence[float] | np.ndarray


def shifted(point: Vector, dx: float, dy: float, dz: float) -> np.ndarray:
    """(3,) the point moved."""
    return np.asarray(point, float) + np.array((dx, dy, dz))


def solid(mesh: str, size: Vector, base: Vector, material: Material, yaw: float = 0.0) -> Part:
    """A unit mesh scaled to ``size``, its foot's middle at ``base``, turned about z."""
    matrix = np.eye(4)
    cosine, sine = np.cos(yaw), np.sin(yaw)
    matrix[:3, :3] = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) * np.asarray(size, float)
    matrix[:3, 3] = (base[0], base[1], base[2] + size[2] / 2)
    return Part(mesh, matrix, material)


def box(size: Vector, base: Vector, material: Material, yaw: float = 0.0) -> Part:
    """A block standing on ``base``."""
    return solid("box", size, base, material, yaw)


def cylinder(radius: float, height: float, base: Vector, material: Material) -> Part:
    """An upright cylinder standing on ``base``."""
    return solid("cylinder", (2 * radius, 2 * radius, height), base, material)


def ball(radius: float | Vector, centre: Vector, material: Material, mesh: str = "ball") -> Part:
    """A ball or ellipsoid about ``centre``."""
    radii = np.broadcast_to(np.asarray(radius, float), (3,))
    matrix = np.diag([*(2 * radii), 1.0])
    matrix[:3, 3] = centre
    return Part(mesh, matrix, material)


def along(mesh: str, start: Vector, end: Vector, radius: float, material: Material, overhang: float = 0.0) -> Part:
    """A unit mesh whose axis runs from ``start`` to ``end``, longer by ``overhang`` at both ends."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = b - a
    length = max(float(np.linalg.norm(axis)), 1e-6)
    axis = axis / length
    side = np.cross(axis, (1.0, 0.0, 0.0) if abs(axis[0]) < 0.9 else (0.0, 1.0, 0.0))
    side /= np.linalg.norm(side)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([side * 2 * radius, np.cross(axis, side) * 2 * radius, axis * (length + 2 * overhang)], 1)
    matrix[:3, 3] = (a + b) / 2
    return Part(mesh, matrix, material)


def rod(start: Vector, end: Vector, radius: float, material: Material) -> Part:
    """A thin cylinder between two points."""
    return along("tube", start, end, radius, material)


def limb(start: Vector, end: Vector, radius: float, material: Material) -> Part:
    """A capsule between two points, rounded beyond them by ``radius``."""
    part = along("capsule", start, end, radius, material, overhang=radius)
    part.matrix[:3, 2] /= 2  # the unit capsule is 2 high
    return part


def ring(radius: float, centre: Vector, axis: Vector, material: Material) -> Part:
    """A tyre-like torus about ``axis``."""
    a = np.asarray(axis, float) * radius * 0.5
    return along("torus", np.asarray(centre) - a, np.asarray(centre) + a, radius, material, overhang=radius * 0.5)


def turned(part: Part, axis: Vector, degrees: float, about: Vector) -> Part:
    """The part turned round a line through ``about``."""
    rotation = rotation_about(axis, np.radians(degrees))
    matrix = part.matrix.copy()
    matrix[:3, :3] = rotation @ matrix[:3, :3]
    matrix[:3, 3] = rotation @ (matrix[:3, 3] - np.asarray(about)) + np.asarray(about)
    return Part(part.mesh, matrix, part.material)


def rotation_about(axis: Vector, angle: float) -> np.ndarray:
    """(3, 3) rotation by ``angle`` radians (Rodrigues)."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def four_legs(half_x: float, half_y: float, height: float, radius: float, material: Material) -> list[Part]:
    """Legs in the corners of a rectangle."""
    return [
        box((2 * radius, 2 * radius, height), (sx * (half_x - radius), sy * (half_y - radius), 0), material)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]
