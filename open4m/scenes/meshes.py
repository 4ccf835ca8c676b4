"""Unit meshes: made once per process, then only multiplied by 4×4 matrices.

A mesh is a bag of triangles with a normal per corner, so that smooth and flat parts need no shared vertices.
Basic solids fill the cube [-0.5, 0.5]³; z is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import trimesh

SECTIONS = 14
"""Segments round the axis of a solid of revolution."""

_SMOOTH_BELOW_DEGREES = 40.0


@dataclass(frozen=True, eq=False)
class Mesh:
    """Triangles of a part.

    Attributes:
        triangles: (F, 3, 3) float32 corners.
        normals: (F, 3, 3) float32 unit normals at the corners.
    """

    triangles: np.ndarray
    normals: np.ndarray

    @property
    def bounds(self) -> np.ndarray:
        """(2, 3) lowest and highest corner."""
        points = self.triangles.reshape(-1, 3)
        return np.stack([points.min(axis=0), points.max(axis=0)])


def from_trimesh(mesh: trimesh.Trimesh, smooth_below: float = _SMOOTH_BELOW_DEGREES) -> Mesh:
    """Corner normals average the faces round a vertex that differ by less than ``smooth_below`` degrees."""
    faces, face_normals = np.asarray(mesh.faces), np.asarray(mesh.face_normals)
    limit = np.cos(np.radians(smooth_below))
    corner_vertex = faces.ravel()
    order = np.argsort(corner_vertex, kind="stable")
    starts = np.searchsorted(corner_vertex[order], np.arange(len(mesh.vertices) + 1))
    normals = np.empty((len(faces) * 3, 3))
    weights = np.asarray(mesh.area_faces)[:, None] * face_normals
    for vertex in range(len(mesh.vertices)):
        corners = order[starts[vertex] : starts[vertex + 1]]
        around = corners // 3
        close = face_normals[around] @ face_normals[around].T >= limit
        normals[corners] = close @ weights[around]
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Mesh(np.asarray(mesh.triangles, np.float32), normals.reshape(-1, 3, 3).astype(np.float32))


def _revolve(profile: list[tuple[float, float]], sections: int = SECTIONS) -> Mesh:
    """Solid of revolution about z from (radius, z) points, bottom to top."""
    return from_trimesh(trimesh.creation.revolve(np.array(profile, dtype=float), sections=sections))


def _capsule() -> Mesh:
    """Radius 0.5 and height 2 about the origin: two half balls on a cylinder."""
    angles = np.radians([-90, -55, -20])
    lower = [(0.5 * np.cos(a), 0.5 * np.sin(a) - 0.5) for a in angles]
    profile = [*lower, *[(r, -z) for r, z in reversed(lower)]]
    return from_trimesh(trimesh.creation.revolve(np.array(profile), sections=9), smooth_below=85)


def _quad() -> Mesh:
    """Square in the plane z = 0, seen from above."""
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    return from_trimesh(trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False))


def _wedge() -> Mesh:
    """A gable roof: ridge along x."""
    corners = [[x, y, z] for x in (-0.5, 0.5) for y, z in ((-0.5, -0.5), (0.5, -0.5), (0.0, 0.5))]
    return from_trimesh(trimesh.convex.convex_hull(np.array(corners)))


_MAKERS: Mapping[str, Callable[[], Mesh]] = {
    "box": lambda: from_trimesh(trimesh.creation.box(extents=(1, 1, 1))),
    "quad": _quad,
    "wedge": _wedge,
    "ball": lambda: from_trimesh(trimesh.creation.icosphere(subdivisions=2, radius=0.5)),
    "pebble": lambda: from_trimesh(trimesh.creation.icosphere(subdivisions=1, radius=0.5), smooth_below=85),
    "cylinder": lambda: _revolve([(0, -0.5), (0.5, -0.5), (0.5, 0.5), (0, 0.5)]),
    "tube": lambda: _revolve([(0, -0.5), (0.5, -0.5), (0.5, 0.5), (0, 0.5)], sections=8),
    "cone": lambda: _revolve([(0, -0.5), (0.5, -0.5), (0, 0.5)]),
    "frustum": lambda: _revolve([(0, -0.5), (0.36, -0.5), (0.5, 0.5), (0, 0.5)]),
    "capsule": _capsule,
    "torus": lambda: from_trimesh(
        trimesh.creation.torus(0.45, 0.05, major_sections=20, minor_sections=6), smooth_below=85
    ),
    "dome": lambda: _revolve([(0.5, -0.5), (0.48, -0.2), (0.4, 0.15), (0.24, 0.4), (0, 0.5)]),
    "bowl": lambda: _revolve(
        [(0, -0.5), (0.22, -0.5), (0.38, -0.25), (0.48, 0.1), (0.5, 0.5), (0.46, 0.5), (0.42, 0.1),
         (0.3, -0.25), (0, -0.4)]
    ),
    "cup": lambda: _revolve([(0, -0.5), (0.4, -0.5), (0.5, 0.5), (0.44, 0.5), (0.36, -0.4), (0, -0.4)]),
    "bottle": lambda: _revolve(
        [(0, -0.5), (0.5, -0.5), (0.5, 0.1), (0.42, 0.2), (0.2, 0.3), (0.17, 0.42), (0.21, 0.43), (0.21, 0.5), (0, 0.5)]
    ),
    "glass": lambda: _revolve(
        [(0, -0.5), (0.4, -0.5), (0.06, -0.44), (0.06, -0.1), (0.4, 0.1), (0.5, 0.3), (0.42, 0.5), (0.38, 0.5),
         (0.4, 0.25), (0, 0.0)]
    ),
    "vase_round": lambda: _revolve(
        [(0, -0.5), (0.25, -0.5), (0.45, -0.25), (0.5, -0.05), (0.36, 0.2), (0.2, 0.32), (0.2, 0.4), (0.28, 0.5),
         (0, 0.42)]
    ),
    "vase_tall": lambda: _revolve(
        [(0, -0.5), (0.3, -0.5), (0.34, -0.3), (0.3, 0.0), (0.36, 0.2), (0.5, 0.5), (0.44, 0.5), (0.26, 0.1), (0, 0.0)]
    ),
    "vase_amphora": lambda: _revolve(
        [(0, -0.5), (0.2, -0.5), (0.22, -0.4), (0.4, -0.1), (0.5, 0.15), (0.4, 0.32), (0.18, 0.38), (0.3, 0.5),
         (0, 0.44)]
    ),
}  # fmt: skip


@cache
def unit_mesh(name: str) -> Mesh:
    """The unit mesh called ``name``; unknown names raise ``KeyError``."""
    return _MAKERS[name]()


@cache
def unit_bounds(name: str) -> np.ndarray:
    """(2, 3) box of a unit mesh."""
    return unit_mesh(name).bounds
