"""Objects of the world: parts, models (an object in its own axes) and things (a model at a place).

Axes of a model: x to the right, -y to the front, z up; metres; it stands on z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from open4m.scenes.materials import Material
from open4m.scenes.meshes import Mesh, unit_bounds, unit_mesh


@dataclass(frozen=True, eq=False)
class Part:
    """A mesh (a unit mesh by name, or an own one) with its place in the model and its material."""

    mesh: str | Mesh
    matrix: np.ndarray
    material: Material

    @property
    def geometry(self) -> Mesh:
        """The triangles before :attr:`matrix`."""
        return unit_mesh(self.mesh) if isinstance(self.mesh, str) else self.mesh


@dataclass(frozen=True)
class Surface:
    """A level rectangle of a model that small objects may stand on: centre, half sizes, height (metres)."""

    x: float
    y: float
    half_x: float
    half_y: float
    z: float
    clearance: float = 1.0


@dataclass(frozen=True, eq=False)
class Body:
    """What the pose labels need to know of a person.

    Attributes:
        global_orient: (3, 3) rotation, body axes → model axes.
        body_pose: (23, 3, 3); betas: (10,).
        pelvis: (3,) place of the pelvis joint in model axes.
    """

    global_orient: np.ndarray
    body_pose: np.ndarray
    betas: np.ndarray
    pelvis: np.ndarray


@dataclass(frozen=True, eq=False)
class Model:
    """An object in its own axes.

    Attributes:
        class_name: COCO-panoptic name.
        parts: what it is made of.
        colour: colour name for captions, or "" when none fits.
        surfaces: where smaller things may stand.
        seat: (y, z) of a seat's middle, metres, or None; people may sit there.
        seats: x positions of the seats.
        body: joints and shape, of people.
        is_instance: counted as an object of its own (not so walls, floors, sky, …).
        activity: what captions say that it does ("sitting").
    """

    class_name: str
    parts: tuple[Part, ...]
    colour: str = ""
    surfaces: tuple[Surface, ...] = ()
    seat: tuple[float, float] | None = None
    seats: tuple[float, ...] = ()
    body: Body | None = None
    is_instance: bool = True
    activity: str = ""
    bounds: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bounds", _bounds(self.parts))


def _bounds(parts: tuple[Part, ...]) -> np.ndarray:
    """(2, 3) box round all parts: exact for unit meshes under axis-aligned matrices, else a little loose."""
    lows, highs = [], []
    for part in parts:
        low, high = unit_bounds(part.mesh) if isinstance(part.mesh, str) else part.mesh.bounds
        centre = part.matrix[:3, :3] @ ((low + high) / 2) + part.matrix[:3, 3]
        half = np.abs(part.matrix[:3, :3]) @ ((high - low) / 2)
        lows.append(centre - half)
        highs.append(centre + half)
    return np.stack([np.min(lows, axis=0), np.max(highs, axis=0)])


@dataclass(frozen=True, eq=False)
class Thing:
    """A model at a place in the world.

    Attributes:
        model: the object.
        pose: (4, 4) rigid matrix, model axes → world axes (z up, metres).
        support: index of the thing that it stands or sits on, or None.
    """

    model: Model
    pose: np.ndarray
    support: int | None = None


def placed(x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    """(4, 4) matrix: turn by ``yaw`` radians about z, then move."""
    cosine, sine = np.cos(yaw), np.sin(yaw)
    return np.array([[cosine, -sine, 0, x], [sine, cosine, 0, y], [0, 0, 1, z], [0, 0, 0, 1]], dtype=np.float64)
