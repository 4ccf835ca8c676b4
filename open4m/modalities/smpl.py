"""The SMPL body model, where the user has it (Loper et al. 2015, Sec. 3): people are then drawn as its mesh.

SMPL may not be redistributed, and its official files are pickles, which are never loaded here. Who has a licence saves
the arrays of the neutral model, under their official names, as a plain ``.npz`` file and names it in ``OPEN4M_SMPL``.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from open4m.errors import ModalityError
from open4m.modalities.bodies import AMBIENT, COLOURS, LIGHT, NEAREST, OVERSAMPLING, dimmed, project
from open4m.modalities.smpl_skeleton import PARENTS

ENVIRONMENT = "OPEN4M_SMPL"
_JOINTS, _BETAS, _POSE = 24, 10, 23 * 9


@dataclass(frozen=True, eq=False)
class BodyMesh:
    """SMPL's arrays for V vertices and F triangles, float64, in metres; names as in the official files.

    Attributes:
        v_template: (V, 3) vertices of the mean body in its rest pose.
        shapedirs: (V, 3, 10) change per unit of shape.
        posedirs: (V, 3, 207) change per unit of (rotation − identity) of the joints 1…23, row by row.
        J_regressor: (24, V) vertices → rest joints.
        weights: (V, 24) how much each joint moves a vertex.
        f: (F, 3) int64 triangles, outside seen counter-clockwise.
    """

    v_template: np.ndarray
    shapedirs: np.ndarray
    posedirs: np.ndarray
    J_regressor: np.ndarray
    weights: np.ndarray
    f: np.ndarray

    def pose(self, global_orient: np.ndarray, body_pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Vertices (V, 3) of a body; see :func:`~open4m.modalities.smpl_skeleton.forward_kinematics` for the arguments.

        The pelvis stays at its rest place (linear blend skinning with pose-dependent corrections; equations 2-10).
        """
        shaped = self.v_template + self.shapedirs @ betas
        rest = self.J_regressor @ shaped
        shaped = shaped + self.posedirs @ (body_pose - np.eye(3)).reshape(_POSE)
        turn, shift = np.empty((_JOINTS, 3, 3)), np.empty((_JOINTS, 3))
        turn[0], shift[0] = global_orient, rest[0]
        for joint, parent in enumerate(PARENTS[1:], start=1):
            turn[joint] = turn[parent] @ body_pose[joint - 1]
            shift[joint] = shift[parent] + turn[parent] @ (rest[joint] - rest[parent])
        shift = shift - np.einsum("jab,jb->ja", turn, rest)  # so that a rest vertex is turned about its joint
        return np.einsum("vj,jab,vb->va", self.weights, turn, shaped) + self.weights @ shift


def body_mesh() -> BodyMesh | None:
    """The body model that ``OPEN4M_SMPL`` names; None where it names none.

    Raises:
        ModalityError: the file is missing or does not hold what it must.
    """
    path = os.environ.get(ENVIRONMENT)
    return _read(path, Path(path).stat().st_mtime_ns if Path(path).exists() else 0) if path else None


@lru_cache(1)
def _read(path: str, changed: int) -> BodyMesh:
    del changed  # part of the key: another file is read anew
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in BodyMesh.__dataclass_fields__}
            vertices = len(arrays["v_template"])
            arrays["shapedirs"] = arrays["shapedirs"][..., :_BETAS]
            expected = {
                "v_template": (vertices, 3),
                "shapedirs": (vertices, 3, _BETAS),
                "posedirs": (vertices, 3, _POSE),
                "J_regressor": (_JOINTS, vertices),
                "weights": (vertices, _JOINTS),
                "f": (len(arrays["f"]), 3),
            }
            wrong = [name for name, shape in expected.items() if arrays[name].shape != shape]
            if wrong:
                raise ValueError(f"shape of {', '.join(wrong)}; expected {', '.join(str(expected[w]) for w in wrong)}")
            faces = arrays.pop("f").astype(np.int64)
            if faces.min(initial=0) < 0 or faces.max(initial=0) >= vertices:
                raise ValueError("f names vertices that do not exist")
            numbers = {name: array.astype(np.float64) for name, array in arrays.items()}
            if not all(np.isfinite(array).all() for array in numbers.values()):
                raise ValueError("numbers that are not finite")
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ModalityError(
            "human_poses",
            path,
            f"no SMPL model can be read from it ({type(error).__name__}: {error}).",
            f"Save {', '.join(BodyMesh.__dataclass_fields__)} of the neutral model as plain arrays with numpy.savez, "
            f"or unset {ENVIRONMENT} to draw simple bodies.",
        ) from error
    return BodyMesh(f=faces, **numbers)


def draw_meshes(
    placed: Sequence[np.ndarray], faces: np.ndarray, size: int, background: Image.Image | None
) -> Image.Image:
    """Bodies (V, 3) in metres before the camera over the half-dimmed background, the farthest triangles first."""
    side = size * OVERSAMPLING
    picture = dimmed(size, background).resize((side, side), Image.Resampling.NEAREST)
    if not placed:
        return picture.resize((size, size), Image.Resampling.LANCZOS)
    corners = np.concatenate([vertices[faces] for vertices in placed])  # (F', 3, 3)
    colours = np.repeat(COLOURS[np.arange(len(placed)) % len(COLOURS)], len(faces), axis=0)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    shades = np.rint(colours * (AMBIENT + (1 - AMBIENT) * np.clip(normals @ LIGHT, 0, 1))[:, None]).astype(int)
    shown = (corners[..., 2].min(axis=1) > NEAREST) & ((normals * corners[:, 0]).sum(axis=1) < 0)  # towards the camera
    order = np.flatnonzero(shown)[np.argsort(-corners[shown].mean(axis=1)[:, 2])]
    places, pen = project(corners) * side, ImageDraw.Draw(picture)
    for triangle in order:
        pen.polygon([tuple(point) for point in places[triangle].tolist()], fill=tuple(shades[triangle].tolist()))
    return picture.resize((size, size), Image.Resampling.LANCZOS)
