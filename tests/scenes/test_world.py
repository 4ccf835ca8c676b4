"""The embedded world: determinism, placement, variety, people."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.modalities.coco import PANOPTIC_CLASSES, THING_CLASSES
from open4m.modalities.smpl_skeleton import (
    JOINT_NAMES,
    LIMBS,
    PARENTS,
    REST_JOINTS,
    forward_kinematics,
    girth,
    shaped_joints,
)
from open4m.scenes import VIEWS_PER_SCENE, sample_scene
from open4m.scenes.kit import rotation_about
from open4m.scenes.meshes import unit_mesh
from open4m.scenes.people import person, seated_person
from open4m.scenes.placement import Footprint
from open4m.scenes.worlds import GROUNDS, ROOMS, TABLE_THINGS


def test_equal_seeds_give_equal_scenes_and_others_do_not() -> None:
    first, again, other = sample_scene((3, 4)), sample_scene((3, 4)), sample_scene((3, 5))
    assert [t.model.class_name for t in first.things] == [t.model.class_name for t in again.things]
    assert all((a.pose == b.pose).all() for a, b in zip(first.things, again.things, strict=True))
    assert len(first.things) != len(other.things) or any(
        (a.pose != b.pose).any() for a, b in zip(first.things, other.things, strict=True)
    )
    assert len(first.cameras) == VIEWS_PER_SCENE


def test_classes_are_known_and_many() -> None:
    scenes = [sample_scene(seed) for seed in range(50)]
    seen = {thing.model.class_name for scene in scenes for thing in scene.things}
    assert seen <= set(PANOPTIC_CLASSES)
    assert len(seen & set(THING_CLASSES)) >= 20
    assert {scene.place for scene in scenes} == {*ROOMS, *GROUNDS}


@pytest.mark.parametrize("seed", range(12))
def test_things_do_not_interpenetrate(seed: int) -> None:
    scene = sample_scene((77, seed))
    solid = [(i, t) for i, t in enumerate(scene.things) if t.model.is_instance and t.model.class_name != "rug-merged"]
    prints = {i: Footprint.of(t.model, t.pose) for i, t in solid}
    for i, thing in solid:
        for j, _ in solid:
            if j >= i or thing.support == j:
                continue
            assert not prints[i].overlaps(prints[j], gap=0.011), (
                thing.model.class_name,
                scene.things[j].model.class_name,
            )


@pytest.mark.parametrize("seed", range(12))
def test_supported_things_touch_their_support_and_others_the_ground(seed: int) -> None:
    scene = sample_scene((78, seed))
    for thing in scene.things:
        if not thing.model.is_instance or thing.model.body is not None:
            continue
        foot = thing.pose[2, 3] + thing.model.bounds[0, 2]
        if thing.support is not None:
            tops = [s.z for s in scene.things[thing.support].model.surfaces]
            assert min(abs(foot - top) for top in tops) < 1e-6
        elif thing.model.class_name not in ("window-other", "clock", "mirror-stuff"):
            assert -0.2 <= foot <= 0.051  # rocks are sunk; below a couch is a gap of 5 cm


def test_no_camera_is_inside_of_a_thing() -> None:
    for seed in range(15):
        scene = sample_scene((79, seed))
        prints = [Footprint.of(t.model, t.pose) for t in scene.things if t.model.is_instance]
        for camera in scene.cameras:
            x, y, z = camera.position
            around = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.05 + np.array((x, y))
            eye = Footprint(around, z - 0.05, z + 0.05)
            assert not any(eye.overlaps(print_) for print_ in prints)
            assert np.allclose(camera.rotation @ camera.rotation.T, np.eye(3))


@pytest.mark.parametrize("name", ["box", "ball", "capsule", "bottle", "torus", "wedge", "quad"])
def test_unit_meshes_point_outwards(name: str) -> None:
    mesh = unit_mesh(name)
    assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1, atol=1e-5)
    edges = mesh.triangles[:, 1:] - mesh.triangles[:, :1]
    flat = np.cross(edges[:, 0], edges[:, 1])
    assert (np.einsum("fc,fkc->fk", flat, mesh.normals) > 0).all()
    if name in ("box", "ball", "capsule"):
        assert (np.einsum("fkc,fkc->fk", mesh.triangles, mesh.normals) > 0).all()


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 6.2), st.floats(0, 6.2))
@settings(max_examples=60, deadline=None)
def test_footprints_overlap_only_with_a_common_point(x: float, y: float, turn_a: float, turn_b: float) -> None:
    def box(cx: float, cy: float, turn: float) -> Footprint:
        rotation = rotation_about((0, 0, 1), turn)[:2, :2]
        corners = np.array([(-1, -0.5), (1, -0.5), (1, 0.5), (-1, 0.5)]) @ rotation.T + (cx, cy)
        return Footprint(corners, 0.0, 1.0)

    a, b = box(0, 0, turn_a), box(x, y, turn_b)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-0.5, 0.5, 21)), -1).reshape(-1, 2)
    inside_a = grid @ rotation_about((0, 0, 1), turn_a)[:2, :2].T
    in_b = (inside_a - (x, y)) @ rotation_about((0, 0, 1), turn_b)[:2, :2]
    shared = (np.abs(in_b) < (1 - 0.06, 0.5 - 0.06)).all(axis=1).any()
    assert a.overlaps(b) == b.overlaps(a)
    if shared:
        assert a.overlaps(b)
    if np.hypot(x, y) > 2.3:
        assert not a.overlaps(b)


# -- skeleton and people ------------------------------------------------------------------------------------------


def test_rest_pose_is_a_t_pose() -> None:
    joints, rotations = forward_kinematics(np.eye(3), np.tile(np.eye(3), (23, 1, 1)), np.zeros(10))
    assert np.allclose(joints, REST_JOINTS) and np.allclose(rotations, np.eye(3))
    for index, name in enumerate(JOINT_NAMES):
        assert PARENTS[index] < index
        if name.startswith("left"):
            mirror = joints[JOINT_NAMES.index(name.replace("left", "right"))]
            assert np.allclose(joints[index], mirror * (-1, 1, 1)) and joints[index, 0] > 0


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_bones_keep_their_length_in_every_pose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pose = np.stack([rotation_about(rng.normal(size=3), rng.uniform(-3, 3)) for _ in range(23)])
    betas = rng.normal(0, 1.5, 10)
    rest = shaped_joints(betas)
    joints, rotations = forward_kinematics(rotation_about(rng.normal(size=3), 1.0), pose, betas)
    parents = np.array(PARENTS[1:])
    assert np.allclose(
        np.linalg.norm(joints[1:] - joints[parents], axis=1), np.linalg.norm(rest[1:] - rest[parents], axis=1)
    )
    assert np.allclose(joints[0], rest[0])
    assert np.allclose(rotations @ rotations.transpose(0, 2, 1), np.eye(3), atol=1e-9)


def test_shape_changes_height_and_girth() -> None:
    unit = np.eye(10)
    height = [np.ptp(shaped_joints(b)[:, 1]) for b in (np.zeros(10), unit[0], -unit[0], unit[2])]
    assert height[2] < height[0] < height[1] and height[0] < height[3]
    assert girth(unit[1]) > girth(np.zeros(10)) == 1.0


def test_people_stand_on_the_ground_or_on_their_seat() -> None:
    for seed in range(20):
        standing = person(np.random.default_rng(seed))
        assert standing.body is not None and abs(standing.bounds[0, 2]) < 0.03
        seated = seated_person(np.random.default_rng(seed))
        assert seated.body is not None
        joints, _ = forward_kinematics(seated.body.global_orient, seated.body.body_pose, seated.body.betas)
        joints += seated.body.pelvis - joints[0]
        radius = {a: r for a, _, r in LIMBS}[1] * girth(seated.body.betas)
        assert joints[[1, 2], 2].min() - radius >= -1e-9  # thighs rest on the seat and do not sink in
        assert joints[15, 2] > joints[0, 2] + 0.3  # upright


def test_every_table_thing_is_small_and_stands_on_its_foot() -> None:
    for maker in TABLE_THINGS:
        for seed in range(5):
            low, high = maker(np.random.default_rng(seed)).bounds
            assert abs(low[2]) < 0.03 and (high - low).max() < 0.75
