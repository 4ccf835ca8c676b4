"""People: bodies of capsules on the skeleton of ``modalities/smpl_skeleton.py``, clothed and posed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from open4m.modalities.smpl_skeleton import HEAD_LIFT, HEAD_RADIUS, LIMBS, forward_kinematics, girth
from open4m.scenes.kit import ball, limb, rotation_about
from open4m.scenes.materials import Material, any_colour, jitter, named
from open4m.scenes.model import Body, Model, Part

Rng = np.random.Generator
Angles = dict[int, np.ndarray]

BODY_TO_MODEL = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
"""Body axes (x left, y up, z ahead) → model axes (-y to the front, z up); the body's left is the viewer's right."""

_SKIN = ((244, 208, 178), (226, 178, 142), (190, 136, 98), (140, 94, 64), (92, 60, 42))
_HAIR = ((38, 28, 22), (92, 58, 32), (196, 154, 84), (150, 74, 36), (150, 148, 146), (22, 22, 26))
_X, _Y, _Z = np.eye(3)


def _rx(degrees: float) -> np.ndarray:
    return rotation_about(_X, np.radians(degrees))


def _ry(degrees: float) -> np.ndarray:
    return rotation_about(_Y, np.radians(degrees))


def _rz(degrees: float) -> np.ndarray:
    return rotation_about(_Z, np.radians(degrees))


def _arm(side: int, lowered: float, forward: float, bend: float) -> Angles:
    """Shoulder and elbow of the left (side 1) or right (-1) arm; degrees from the T-pose."""
    shoulder, elbow = (16, 18) if side > 0 else (17, 19)
    return {shoulder: _rx(-forward) @ _rz(-side * lowered), elbow: _ry(-side * bend)}


def _leg(side: int, forward: float, bend: float, spread: float = 3.0) -> Angles:
    """Hip and knee; the foot stays level with the shin."""
    hip, knee = (1, 4) if side > 0 else (2, 5)
    return {hip: _rx(-forward) @ _rz(side * spread), knee: _rx(bend)}


def _stand(rng: Rng) -> Angles:
    pose: Angles = {}
    for side in (1, -1):
        pose |= _arm(side, rng.uniform(66, 80), rng.uniform(-8, 20), rng.uniform(5, 45))
        pose |= _leg(side, rng.uniform(-3, 5), rng.uniform(0, 6), rng.uniform(2, 7))
    return pose


def _walk(rng: Rng) -> Angles:
    stride, side = rng.uniform(18, 32), 1 if rng.random() < 0.5 else -1
    swing = stride * rng.uniform(0.8, 1.2)
    pose = _leg(side, stride, rng.uniform(2, 14)) | _leg(-side, -stride * 0.8, rng.uniform(14, 40))
    pose |= _arm(side, rng.uniform(70, 80), -swing, rng.uniform(5, 25))
    return pose | _arm(-side, rng.uniform(70, 80), swing, rng.uniform(15, 60))


def _reach(rng: Rng) -> Angles:
    side = 1 if rng.random() < 0.5 else -1
    return _stand(rng) | _arm(side, rng.uniform(-25, 35), rng.uniform(30, 80), rng.uniform(0, 25)) | {6: _rx(8)}


def _wave(rng: Rng) -> Angles:
    side = 1 if rng.random() < 0.5 else -1
    shoulder, elbow = (16, 18) if side > 0 else (17, 19)
    return _stand(rng) | {shoulder: _rz(side * rng.uniform(0, 25)), elbow: _rz(side * rng.uniform(50, 85))}


def _arms_up(rng: Rng) -> Angles:
    return _stand(rng) | _arm(1, -rng.uniform(30, 65), 10, rng.uniform(0, 30)) | _arm(-1, -rng.uniform(30, 65), 10, 15)


def _squat(rng: Rng) -> Angles:
    fold = rng.uniform(80, 105)
    pose = _leg(1, fold, fold * 1.25, 12) | _leg(-1, fold, fold * 1.25, 12) | {3: _rx(fold * 0.25)}
    for side in (1, -1):
        pose |= _arm(side, rng.uniform(50, 75), rng.uniform(45, 70), rng.uniform(10, 60))
        pose[7 if side > 0 else 8] = _rx(-fold * 0.25)
    return pose


def _sit(rng: Rng) -> Angles:
    pose: Angles = {}
    for side in (1, -1):
        pose |= _leg(side, rng.uniform(82, 92), rng.uniform(78, 95), rng.uniform(3, 9))
        pose |= _arm(side, rng.uniform(66, 78), rng.uniform(15, 45), rng.uniform(20, 70))
    return pose | {3: _rx(rng.uniform(-6, 8))}


_POSES: dict[str, tuple[Callable[[Rng], Angles], float]] = {
    "standing": (_stand, 0.36), "walking": (_walk, 0.28), "reaching": (_reach, 0.12), "waving": (_wave, 0.12),
    "holding both arms up": (_arms_up, 0.05), "squatting": (_squat, 0.07),
}  # fmt: skip


def person(rng: Rng) -> Model:
    """A person on their feet."""
    names = tuple(_POSES)
    name = names[int(rng.choice(len(names), p=[_POSES[n][1] for n in names]))]
    return _build(_POSES[name][0](rng), name, rng, seated=False)


def seated_person(rng: Rng) -> Model:
    """A person to be put on a seat: the origin is the middle of the seat under the pelvis."""
    return _build(_sit(rng), "sitting", rng, seated=True)


def _build(angles: Angles, activity: str, rng: Rng, seated: bool) -> Model:
    betas = np.zeros(10)
    betas[:7] = np.clip(rng.normal(0, 1.0, 7), -2.5, 2.5)
    if rng.random() < 0.15:
        betas[0] = rng.uniform(-2.9, -2.0)  # small enough to be a child
    body_pose = np.tile(np.eye(3), (23, 1, 1))
    for joint, rotation in angles.items():
        body_pose[joint - 1] = rotation
    body_pose[15 - 1] = _ry(rng.uniform(-35, 35)) @ _rx(rng.uniform(-12, 15))
    body_pose[6 - 1] = body_pose[6 - 1] @ _ry(rng.uniform(-8, 8))
    joints, rotations = forward_kinematics(BODY_TO_MODEL, body_pose, betas)
    width = girth(betas)
    if seated:
        origin = np.array([joints[0, 0], joints[0, 1], joints[[1, 2, 4, 5], 2].min() - 0.08 * width])
    else:
        low = min(joints[joint, 2] - radius * width for a, b, radius in LIMBS for joint in (a, b))
        origin = np.array([joints[0, 0], joints[0, 1], low])
    joints = joints - origin
    body = Body(BODY_TO_MODEL, body_pose, betas, joints[0])
    parts, shirt = _dress(joints, rotations, width, rng)
    return Model("person", tuple(parts), shirt.name, body=body, activity=activity)


def _dress(joints: np.ndarray, rotations: np.ndarray, width: float, rng: Rng) -> tuple[list[Part], Material]:
    skin = Material(jitter(_SKIN[int(rng.integers(len(_SKIN)))], rng, 0.06))
    hair = Material(jitter(_HAIR[int(rng.integers(len(_HAIR)))], rng))
    shirt = named(any_colour(rng), rng)
    trousers = named(any_colour(rng, ("blue", "black", "gray", "brown", "beige", "green", "red")), rng)
    shoe = named(any_colour(rng, ("black", "white", "brown", "red")), rng)
    shin = trousers if rng.random() < 0.75 else skin
    forearm = shirt if rng.random() < 0.5 else skin
    wear = {
        1: trousers,
        2: trousers,
        4: shin,
        5: shin,
        7: shoe,
        8: shoe,
        12: skin,
        18: forearm,
        19: forearm,
        20: skin,
        21: skin,
    }
    parts = [limb(joints[a], joints[b], r * width, wear.get(a, shirt)) for a, b, r in LIMBS]
    parts.append(limb(joints[1], joints[2], 0.1 * width, trousers))

    turn, radius = rotations[15], HEAD_RADIUS * width
    centre = joints[15] + turn @ (0, HEAD_LIFT * width, 0)
    parts.append(_on_head(turn, centre, (0.88, 1.12, 0.98), radius, skin))
    parts.append(_on_head(turn, centre + turn @ (0, 0.035, -0.025), (0.98, 1.1, 1.0), radius, hair))
    if rng.random() < 0.4:
        parts.append(_on_head(turn, centre + turn @ (0, -0.08, -0.06), (0.85, 1.2, 0.6), radius, hair))
    dark = Material((0.012, 0.01, 0.01))
    for side in (-1, 1):
        eye = centre + turn @ (np.array((0.36 * side, 0.02, 0.9)) * radius)
        parts.append(ball(0.016, eye, dark, "pebble"))
    parts.append(ball(0.02, centre + turn @ (np.array((0, -0.2, 1.02)) * radius), skin, "pebble"))
    return parts, shirt


def _on_head(
    turn: np.ndarray, centre: np.ndarray, factors: tuple[float, float, float], radius: float, look: Material
) -> Part:
    matrix = np.eye(4)
    matrix[:3, :3] = turn * (2 * radius * np.array(factors))
    matrix[:3, 3] = centre
    return Part("ball", matrix, look)
