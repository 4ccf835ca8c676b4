"""What a scene is: things, light, cameras."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from open4m.scenes.geometry import Geometry, build_geometry
from open4m.scenes.model import Thing

FAR_METRES = 20.0
"""Depth is clipped here; the sky lies here."""


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera with square pixels.

    Attributes:
        position: (3,) in the world.
        rotation: (3, 3) world axes → camera axes (x right, y down, z forward).
        tangent: half the picture's side at distance 1.
    """

    position: np.ndarray
    rotation: np.ndarray
    tangent: float

    @classmethod
    def looking(cls, position: np.ndarray, target: np.ndarray, tangent: float) -> Camera:
        """A level camera at ``position`` whose axis goes through ``target``."""
        forward = target - position
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return cls(position, np.stack([right, np.cross(forward, right), forward]), tangent)

    def project(self, points: np.ndarray, size: int) -> np.ndarray:
        """(N, 3) world points → (N, 3): x, y in pixels from the top left corner, depth in metres."""
        local = (points - self.position) @ self.rotation.T
        scale = size / 2 / self.tangent / local[:, 2:]
        return np.concatenate([local[:, :2] * scale + size / 2, local[:, 2:]], axis=1)


@dataclass(frozen=True, eq=False)
class Light:
    """Lamps or sun, and the light from everywhere.

    Attributes:
        name: how a caption says it.
        points: (L, 3) samples of the lamp in metres, or directions to the sun (unit length).
        is_sun: directions instead of points.
        colour: (3,) linear strength of all samples together.
        sky: (3,) ambient light from above; ground: (3,) from below.
        zenith, horizon: (3,) linear colours of the sky.
        clouds: share of cloud in the sky, 0…1.
        exposure: factor before the film curve.
    """

    name: str
    points: np.ndarray
    is_sun: bool
    colour: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float
    exposure: float


@dataclass(frozen=True, eq=False)
class Scene:
    """A world at one moment.

    Attributes:
        seed: what the scene was drawn from.
        place: "living room", "street", …
        ground: what one stands on, in words.
        things: everything with a surface, walls and ground included.
        light: see :class:`Light`.
        cameras: the views of this scene; they share its geometry.
    """

    seed: tuple[int, ...]
    place: str
    ground: str
    things: tuple[Thing, ...]
    light: Light
    cameras: tuple[Camera, ...]

    @cached_property
    def geometry(self) -> Geometry:
        """Triangles and ray index, built when first needed."""
        return build_geometry(self.things)
