"""The mesh of SMPL, tried on a body of 24 cubes on our own skeleton: the real one cannot be had here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from open4m.errors import ModalityError
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.modalities.smpl import ENVIRONMENT, body_mesh
from open4m.modalities.smpl_skeleton import REST_JOINTS, forward_kinematics

CORNERS = 0.05 * np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4)]
FACES += [(1, 5, 7), (1, 7, 3)]


def arrays() -> dict[str, np.ndarray]:
    """A cube round every joint, moved by it alone; the first shape coefficient makes everything 10 % larger."""
    template = (REST_JOINTS[:, None] + CORNERS).reshape(-1, 3)
    owner = np.repeat(np.eye(24), 8, axis=0)
    shapes = np.zeros((192, 3, 300))
    shapes[..., 0] = 0.1 * template
    poses = np.zeros((192, 3, 207))
    poses[0, 1, 0] = 0.5  # the first number of the first joint's rotation lifts the first vertex
    faces = np.concatenate([np.array(FACES) + 8 * joint for joint in range(24)])
    return {
        "v_template": template,
        "shapedirs": shapes,
        "posedirs": poses,
        "J_regressor": owner.T / 8,
        "weights": owner,
        "f": faces.astype(np.uint32),
    }


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "body.npz"
    np.savez(path, **arrays())
    monkeypatch.setenv(ENVIRONMENT, str(path))
    return path


def person(seed: int = 0) -> Person:
    turns = Rotation.random(23, random_state=seed).as_matrix().astype(np.float32)
    upright = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # y down in the camera's axes
    return Person(np.array([0.3, 0.1, 0.7, 0.9]), upright, turns, np.zeros(10, np.float32), np.array([0.9, 0.0, 0.0]))


@pytest.mark.usefixtures("model")
def test_joints_go_where_the_skeleton_goes() -> None:
    mesh, someone = body_mesh(), person()
    assert mesh is not None
    vertices = mesh.pose(someone.global_orient, someone.body_pose, someone.betas).reshape(24, 8, 3)
    joints, turns = forward_kinematics(someone.global_orient, someone.body_pose, someone.betas)
    cubes = joints[:, None] + np.einsum("jab,vb->jva", turns, CORNERS)
    np.testing.assert_allclose(vertices[1:], cubes[1:], atol=1e-12)


@pytest.mark.usefixtures("model")
def test_shape_and_corrections() -> None:
    mesh, rest = body_mesh(), np.tile(np.eye(3), (23, 1, 1))
    assert mesh is not None
    shape = np.eye(10)[0]
    np.testing.assert_allclose(mesh.pose(np.eye(3), rest, np.zeros(10)), mesh.v_template, atol=1e-12)
    np.testing.assert_allclose(mesh.pose(np.eye(3), rest, shape), 1.1 * mesh.v_template, atol=1e-12)
    bent = rest.copy()
    bent[0] = np.diag([-1.0, 1.0, -1.0])
    lifted = mesh.pose(np.eye(3), bent, np.zeros(10))[0] - mesh.v_template[0]
    np.testing.assert_allclose(lifted, [0, 0.5 * -2.0, 0], atol=1e-12)


@pytest.mark.usefixtures("model")
def test_people_are_drawn_as_their_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    poses = get_modality("human_poses")
    drawn = np.asarray(poses.draw([person()], 112)).astype(int)
    ground = np.asarray(poses.draw([], 112)).astype(int)
    changed = np.abs(drawn - ground).sum(axis=2) > 30
    assert 50 < changed.sum() < 3000 and not changed[:, :8].any() and not changed[:, -8:].any()
    monkeypatch.delenv(ENVIRONMENT)
    capsules = np.asarray(poses.draw([person()], 112)).astype(int)
    assert (capsules != drawn).any()
    both = changed & (np.abs(capsules - ground).sum(axis=2) > 30)
    assert both.sum() > 0.3 * changed.sum()  # the same person in the same place


@pytest.mark.parametrize("wrong", ["missing", "pickle", "shape", "vertex", "nan"])
def test_other_files_are_refused(wrong: str, model: Path) -> None:
    content: dict[str, np.ndarray] = arrays()
    if wrong == "pickle":
        content["weights"] = np.array([{"a": 1}], dtype=object)
    if wrong == "shape":
        content["posedirs"] = content["posedirs"][..., :200]
    if wrong == "vertex":
        content["f"] = content["f"] + 10_000
    if wrong == "nan":
        content["v_template"][0] = np.nan
    np.savez(model, **content)
    if wrong == "missing":
        model.unlink()
    with pytest.raises(ModalityError, match=rf"body\.npz: no SMPL model .* unset {ENVIRONMENT}"):
        body_mesh()
