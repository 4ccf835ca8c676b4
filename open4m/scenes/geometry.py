"""All triangles of a scene in one array, and rays through them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from open4m.scenes.materials import Material
from open4m.scenes.meshes import Mesh, unit_mesh
from open4m.scenes.model import Thing

_MISS = 1e30


@dataclass(frozen=True, eq=False)
class Hits:
    """Where N rays ended. Rows of rays that left the scene have ``thing`` -1 and ``distance`` infinite.

    Attributes:
        distance: (N,) float32 metres along the ray.
        thing: (N,) int32 index of the thing; part: (N,) int32 index of the part.
        normal: (N, 3) float32 interpolated unit normal, turned towards the ray's origin.
        face: (N, 3) float32 unit normal of the triangle, turned likewise.
        point: (N, 3) float32 in the world.
    """

    distance: np.ndarray
    thing: np.ndarray
    part: np.ndarray
    normal: np.ndarray
    face: np.ndarray
    point: np.ndarray


@dataclass(frozen=True, eq=False)
class Looks:
    """The materials of all P parts as arrays: colour, second (P, 3); pattern (P,) int; scale, gloss, glow (P,)."""

    colour: np.ndarray
    second: np.ndarray
    pattern: np.ndarray
    scale: np.ndarray
    gloss: np.ndarray
    glow: np.ndarray

    @classmethod
    def of(cls, materials: Sequence[Material]) -> Looks:
        """Gather the fields of ``materials``."""
        return cls(
            np.array([m.colour for m in materials], np.float32),
            np.array([m.second for m in materials], np.float32),
            np.array([m.pattern for m in materials], np.int32),
            np.array([m.scale for m in materials], np.float32),
            np.array([m.gloss for m in materials], np.float32),
            np.array([m.glow for m in materials], np.float32),
        )


@dataclass(frozen=True, eq=False)
class Geometry:
    """Triangles of a scene.

    Attributes:
        index: the ray index.
        normals: (F, 3, 3) float32 unit normals at the corners.
        part_of_face: (F,) int32; thing_of_part: (P,) int32.
        looks: materials of the parts.
        poses: (T, 4, 4) float32 of the things, for patterns that stick to them.
    """

    index: EmbreeScene
    normals: np.ndarray
    part_of_face: np.ndarray
    thing_of_part: np.ndarray
    looks: Looks
    poses: np.ndarray

    def trace(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """Nearest hits of rays (N, 3) float32 with unit directions."""
        raw = self.index.run(origins, directions, output=True)
        face_id, distance = raw["primID"], raw["tfar"]
        missed = (face_id < 0) | (distance > _MISS)
        face_id = np.where(missed, 0, face_id)
        part = self.part_of_face[face_id]
        u, v = raw["u"][:, None], raw["v"][:, None]
        corners = self.normals[face_id]
        normal = corners[:, 0] * (1 - u - v) + corners[:, 1] * u + corners[:, 2] * v
        face = _unit(raw["Ng"])
        face *= -np.sign(np.einsum("nc,nc->n", face, directions))[:, None]
        normal = _unit(normal)
        normal *= np.where(np.einsum("nc,nc->n", normal, face) < 0, -1, 1)[:, None].astype(np.float32)
        # Near a silhouette an interpolated normal may point away from the ray's origin: bend it to the silhouette.
        away = np.einsum("nc,nc->n", normal, directions)
        normal = _unit(normal - np.maximum(away, 0)[:, None] * directions)
        distance = np.where(missed, np.inf, distance).astype(np.float32)
        with np.errstate(invalid="ignore"):
            point = np.where(missed[:, None], 0, origins + directions * distance[:, None]).astype(np.float32)
        thing = np.where(missed, -1, self.thing_of_part[part]).astype(np.int32)
        return Hits(distance, thing, part, normal, face, point)

    def blocked(self, origins: np.ndarray, directions: np.ndarray, reach: np.ndarray) -> np.ndarray:
        """(N,) bool: whether something lies within ``reach`` metres along the rays."""
        return self.index.run(origins, directions, dists=reach, query="OCCLUDED") >= 0


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.einsum("nc,nc->n", vectors, vectors))
    return vectors / np.maximum(length, 1e-20)[:, None]


def build_geometry(things: Sequence[Thing]) -> Geometry:
    """Multiply all meshes out (those of one kind at once) and index them for rays."""
    groups: dict[str | Mesh, list[int]] = defaultdict(list)
    matrices, thing_of_part, materials = [], [], []
    for thing_index, thing in enumerate(things):
        for part in thing.model.parts:
            groups[part.mesh].append(len(matrices))
            matrices.append(thing.pose @ part.matrix)
            thing_of_part.append(thing_index)
            materials.append(part.material)
    world = np.array(matrices)
    # Normals go by the inverse transpose, which the cofactors give without dividing (flat parts stay finite).
    cofactors = np.stack([np.cross(world[:, :3, (i + 1) % 3], world[:, :3, (i + 2) % 3]) for i in range(3)], axis=2)
    cofactors *= np.sign(np.einsum("pc,pc->p", cofactors[:, :, 0], world[:, :3, 0]))[:, None, None]
    triangles, normals, part_of_face = [], [], []
    for key, members in groups.items():
        mesh = unit_mesh(key) if isinstance(key, str) else key
        linear = world[members, :3, :3].astype(np.float32)
        corners = mesh.triangles.reshape(-1, 3)
        moved = np.matmul(corners, linear.transpose(0, 2, 1)) + world[members, None, :3, 3].astype(np.float32)
        turned = np.matmul(mesh.normals.reshape(-1, 3), cofactors[members].astype(np.float32).transpose(0, 2, 1))
        triangles.append(moved.reshape(-1, 3, 3))
        normals.append(_unit(turned.reshape(-1, 3)).reshape(-1, 3, 3))
        part_of_face.append(np.repeat(np.array(members, np.int32), len(mesh.triangles)))
    index = EmbreeScene()
    TriangleMesh(index, np.concatenate(triangles))
    return Geometry(
        index,
        np.concatenate(normals),
        np.concatenate(part_of_face),
        np.array(thing_of_part, np.int32),
        Looks.of(materials),
        np.stack([thing.pose for thing in things]).astype(np.float32),
    )
