"""Capsules before the camera: where they are seen, what hides what, and that nonsense stays harmless."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m.modalities import bodies
from open4m.modalities.bodies import Body, draw_bodies, project
from open4m.modalities.smpl_skeleton import forward_kinematics

UPRIGHT = np.diag([1.0, -1.0, -1.0])
NEUTRAL = np.tile(np.eye(3), (23, 1, 1))


def body(x: float = 0.5, half: float = 0.3, scale: float = 0.9, betas: np.ndarray | None = None) -> Body:
    betas = np.zeros(10) if betas is None else betas
    joints, _ = forward_kinematics(UPRIGHT, NEUTRAL, betas)
    return joints, betas, np.array([x - half, 0.5 - half, x + half, 0.5 + half]), np.array([scale, 0.0, 0.2])


def changed(image: Image.Image) -> np.ndarray:
    """(S, S) bool: where the picture is not the dimmed ground."""
    array = np.asarray(image).astype(int)
    return np.abs(array - array[0, 0]).sum(axis=-1) > 30


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_rays_meet_capsules_where_stepping_along_them_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = np.array([0.0, 0.0, 6.0]) + rng.normal(size=3)
    end, radius = start + rng.normal(size=3), float(rng.uniform(0.1, 0.6))
    towards = start + rng.uniform(-0.3, 1.3, (200, 1)) * (end - start) + rng.normal(scale=radius, size=(200, 3))
    rays = towards / towards[:, 2:]
    distance, normal = bodies._hit(rays, (start, end, radius))

    def outside(z: np.ndarray) -> np.ndarray:
        """Distance of points on the rays to the capsule's surface."""
        points = z[..., None] * rays[:, None]
        share = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        return np.linalg.norm(points - start - share[..., None] * (end - start), axis=-1) - radius

    steps = np.linspace(2.0, 12.0, 2001)[None].repeat(200, axis=0)
    inside = outside(steps) < -0.01
    first = np.where(inside.any(axis=1), steps[np.arange(200), inside.argmax(axis=1)], np.inf)
    assert (distance[np.isfinite(first)] <= first[np.isfinite(first)] + 0.01).all()
    met = np.isfinite(distance)
    np.testing.assert_allclose(outside(np.where(met, distance, 1.0)[:, None])[met], 0, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(normal[met], axis=1), 1, atol=1e-9)
    assert ((normal[met] * rays[met]).sum(axis=1) <= 1e-9).all()  # the side that is seen


def test_bodies_are_seen_where_their_joints_are() -> None:
    for x in (0.3, 0.5, 0.7):
        joints, betas, box, camera = body(x)
        seen = changed(draw_bodies([(joints, betas, box, camera)], 112, None))
        places = project(joints + bodies.camera_translation(box, camera)) * 112
        inner = places[((places > 2) & (places < 110)).all(axis=1)].astype(int)
        assert len(inner) > 15 and seen[inner[:, 1], inner[:, 0]].all()
        far = np.ones((112, 112), bool)
        for px, py in places.astype(int):
            far[max(py - 16, 0) : py + 16, max(px - 16, 0) : px + 16] = False
        assert not (seen & far).any()


def test_the_nearer_person_hides_the_other_whatever_the_order() -> None:
    near, far = body(half=0.45), body(half=0.2)
    both = [np.asarray(draw_bodies(people, 112, None)).astype(int) for people in ([near, far], [far, near])]
    alone = changed(draw_bodies([near], 112, None))
    assert (both[0][alone].argmax(axis=-1) == 2).mean() > 0.9  # the first colour is blue
    assert (both[1][alone].argmax(axis=-1) == 0).mean() > 0.9  # the second orange


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=17, max_size=17))
def test_nonsense_is_drawn_without_complaint(numbers: list[float]) -> None:
    betas, box, camera = np.array(numbers[:10]), np.sort(np.array(numbers[10:14]) / 20), np.array(numbers[14:])
    picture = draw_bodies([(*body(betas=betas)[:2], box, camera)], 40, Image.new("RGB", (9, 9)))
    assert picture.size == (40, 40)
