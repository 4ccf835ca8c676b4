"""Human poses: articulated bodies in the SMPL convention (4M-21, Sec. 3.1; spec: modalities §4.3, §5)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.bodies import camera_translation, draw_bodies
from open4m.modalities.checks import require_array, require_finite, require_paired, require_rows
from open4m.modalities.det import Box, iou
from open4m.modalities.grammar import (
    CODES,
    END,
    MAX_VALUE,
    Numbers,
    Terms,
    code_word,
    next_corner,
    number_word,
    parse_code,
    parse_number,
)
from open4m.modalities.merging import ABSENCE, Merged, absence, matched
from open4m.modalities.registry import register
from open4m.modalities.smpl import body_mesh, draw_meshes
from open4m.modalities.smpl_skeleton import JOINT_NAMES, forward_kinematics
from open4m.modalities.view import View

POSE_CODES = 8
"""Ids of the body-pose tokenizer per person."""

_MATCHING_IOU = 0.5
_MIRROR = np.array([-1.0, 1.0, 1.0], dtype=np.float32)
_SWAPPED_SIDES = {"left": "right", "right": "left"}


@dataclass(frozen=True, eq=False)
class Person:
    """One person.

    Attributes:
        box: (4,) float, xmin ymin xmax ymax relative to the image, may reach outside [0, 1].
        global_orient: (3, 3) float32, rotation of the body's root in camera coordinates.
        body_pose: (23, 3, 3) float32, joint rotations relative to the parent, SMPL order.
        betas: (10,) float32, shape coefficients, nominally in [-3, 3].
        camera: (3,) float32, weak-perspective (scale, tx, ty) relative to ``box`` (HMR 2.0 convention).
        pose_tokens: (8,) ids of the body-pose tokenizer, or None when it has not been tokenized.
    """

    box: np.ndarray
    global_orient: np.ndarray
    body_pose: np.ndarray
    betas: np.ndarray
    camera: np.ndarray
    pose_tokens: tuple[int, ...] | None = None

    def joints(self) -> np.ndarray:
        """(24, 3) float64 metres, camera axes (x right, y down, z forward), not moved by ``camera``."""
        return forward_kinematics(self.global_orient, self.body_pose, self.betas)[0]


_SHAPES = {"box": (4,), "global_orient": (3, 3), "body_pose": (23, 3, 3), "betas": (10,), "camera": (3,)}


# -- words of one person --------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Group:
    """Numbers of a person that stand behind a word of their own: value = (word - offset) / scale."""

    count: int
    scale: float
    offset: float
    low: float
    high: float

    def words(self, values: np.ndarray) -> list[str]:
        codes = np.rint(np.clip(values.ravel(), self.low, self.high).astype(np.float64) * self.scale + self.offset)
        return [number_word(0, min(int(code), MAX_VALUE)) for code in codes]

    def values(self, words: list[str]) -> np.ndarray | None:
        numbers = [parse_number(word) for word in words]
        found = [number[1] for number in numbers if number is not None and number[0] == 0]
        if len(found) != self.count:
            return None
        return ((np.array(found) - self.offset) / self.scale).astype(np.float32)


# The published grammar does not limit betas, which then turn into several word pieces; here they are clipped.
_GROUPS = {
    "global": _Group(9, 499.5, 499.5, -1.0, 1.0),
    "camera": _Group(3, 49.95, 49.95, -1.0, 19.0),
    "shape": _Group(10, 166.5, 499.5, -3.0, 3.0),
}
GROUP_NAMES = ("pose", *_GROUPS)
"""The parts of a person's words, in canonical order."""

_WORDS_PER_PERSON = 39


def _group_size(name: str) -> int:
    """Number of words behind the name of a group."""
    return POSE_CODES if name == "pose" else _GROUPS[name].count


def person_words(person: Person, order: Sequence[str] = GROUP_NAMES) -> list[str]:
    """The 39 words of a person, with the groups in ``order``. ``person.pose_tokens`` must be there."""
    assert person.pose_tokens is not None
    corners = np.rint(np.clip(person.box, 0.0, 1.0) * MAX_VALUE).astype(int)
    groups = {
        "pose": [code_word(code) for code in person.pose_tokens],
        "global": _GROUPS["global"].words(person.global_orient),
        "camera": _GROUPS["camera"].words(person.camera),
        "shape": _GROUPS["shape"].words(person.betas),
    }
    box = [number_word(axis, int(corner)) for axis, corner in enumerate(corners)]
    return ["human", *box, *(word for name in order for word in (name, *groups[name]))]


def _person_from_words(words: list[str]) -> Person | None:
    """The words behind one ``human``; None if a part is missing or malformed."""
    corners = [parse_number(word) for word in words[:4]]
    if [c[0] for c in corners if c is not None] != [0, 1, 2, 3]:
        return None
    box = np.array([c[1] for c in corners if c is not None]) / MAX_VALUE
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    runs: dict[str, list[str]] = {}
    name = ""
    for word in words[4:]:
        if word in GROUP_NAMES:
            name = word
            runs[name] = []
        elif name:
            runs[name].append(word)
    codes = [parse_code(word) for word in runs.get("pose", [])]
    tokens = tuple(code for code in codes if code is not None)
    numbers = {name: group.values(runs.get(name, [])) for name, group in _GROUPS.items()}
    orient, camera, betas = numbers["global"], numbers["camera"], numbers["shape"]
    if len(tokens) != POSE_CODES or len(codes) != POSE_CODES or orient is None or camera is None or betas is None:
        return None
    neutral = np.tile(np.eye(3, dtype=np.float32), (23, 1, 1))
    return Person(box, nearest_rotation(orient.reshape(3, 3)), neutral, betas, camera, tokens)


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation (…, 3, 3) float32 nearest to a matrix, which coarse words leave slightly distorted."""
    left, _, right = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    sign = np.sign(np.linalg.det(left @ right))
    left[..., -1] *= np.where(sign == 0, 1.0, sign)[..., None]
    return (left @ right).astype(np.float32)


# -- mirror ---------------------------------------------------------------------------------------------------------
def _mirrored_joint(name: str) -> int:
    side, _, part = name.partition("_")
    return JOINT_NAMES.index(f"{_SWAPPED_SIDES[side]}_{part}" if side in _SWAPPED_SIDES else name)


_MIRRORED_JOINTS = np.array([_mirrored_joint(name) - 1 for name in JOINT_NAMES[1:]])


def _mirror(person: Person) -> Person:
    """The mirror image (x → -x in camera and body axes), its box excepted. Tokens no longer fit and are dropped."""
    reflection = _MIRROR[:, None] * _MIRROR
    return replace(
        person,
        global_orient=person.global_orient * reflection,
        body_pose=person.body_pose[_MIRRORED_JOINTS] * reflection,
        camera=person.camera * np.array([1.0, -1.0, 1.0], dtype=np.float32),
        pose_tokens=None,
    )


# -- the modality ---------------------------------------------------------------------------------------------------
class HumanPoses(TextModality[list[Person]]):
    """People with pose, shape and place; grammar of spec modalities §4.3."""

    name = "human_poses"
    card = Card(
        title="Human poses",
        description="List of Person: box relative to the picture, SMPL joint rotations and shape, HMR 2.0 "
        "weak-perspective camera. The drawn body is a simple stand-in with SMPL's joints; the model reads and writes "
        "shape coefficients within [-3, 3].",
        metrics={"f1": Metric("", True), "mpjpe": Metric("mm", False)},
        source="HMR 2.0 (4D-Humans) in the published system (4M-21, Sec. 3.1).",
    )
    extensions = ("json",)
    value_is_list = True
    max_tokens = 275
    max_target_position = 263

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> list[Person]:
        """HMR2 JSON: one entry per person in ``bbox_xyxy``, ``pred_smpl_params``, ``pred_cam``, ``pose_tokenized``.

        Boxes are in pixels of ``image_size`` ([width, height], our addition). Empty = nobody.
        """
        try:
            table = json.loads(data)
            people = _people_from_json(table) if table else []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModalityError(
                self.name,
                source,
                f"not a file of poses ({type(error).__name__}: {error}); expected bbox_xyxy (N, 4), pred_cam (N, 3), "
                "pred_smpl_params {global_orient (N, 3, 3), body_pose (N, 23, 3, 3), betas (N, 10)}, image_size.",
                "Write the output of HMR 2.0 in this form.",
            ) from error
        self.validate(people, source)
        return people

    def encode(self, value: list[Person]) -> bytes:
        if not value:
            return b"{}"
        table: dict[str, Any] = {
            "image_size": [1, 1],
            "bbox_xyxy": [_rounded(p.box) for p in value],
            "pred_cam": [_rounded(p.camera) for p in value],
            "pred_smpl_params": {
                key: [_rounded(getattr(p, key)) for p in value] for key in ("global_orient", "body_pose", "betas")
            },
        }
        if self.has_tokens(value):
            table["pose_tokenized"] = [p.pose_tokens for p in value]
        return json.dumps(table).encode()

    def validate(self, value: list[Person], source: str) -> None:
        for number, person in enumerate(value):
            where = f"{source}, person {number}"
            for key, shape in _SHAPES.items():
                array = require_array(getattr(person, key), self.name, f"{where}, {key}", f"an array of shape {shape}")
                if array.shape != shape:
                    raise ModalityError(
                        self.name, where, f"{key} has shape {array.shape}, expected {shape}.", "Reshape it."
                    )
                require_finite(array, self.name, f"{where}, {key}")
            rotations = np.concatenate([person.global_orient[None], person.body_pose]).astype(np.float64)
            error = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max()
            if error > 0.02 or (np.linalg.det(rotations) < 0).any():
                raise ModalityError(
                    self.name,
                    where,
                    f"joint rotations are no rotation matrices (off by {error:.2g}).",
                    "Convert axis-angle vectors to matrices; keep enough digits.",
                )
            xmin, ymin, xmax, ymax = person.box
            if not (xmin < xmax and ymin < ymax and np.abs(person.box).max() < 10):
                raise ModalityError(
                    self.name,
                    where,
                    f"box {person.box.tolist()} is empty or not relative to the picture.",
                    'Give xmin, ymin, xmax, ymax and, in a file with pixels, "image_size": [width, height].',
                )

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: list[Person], view: View) -> list[Person]:
        """People whose box touches the crop, with boxes relative to it and not clipped (``camera`` refers to them).

        A flip mirrors the body: sides swapped, rotations and camera reflected, tokens dropped. (The published system
        ignored flips.)
        """
        if view.is_whole:
            return value
        seen = []
        for person in value:
            corners = np.sort(view.points(np.asarray(person.box, dtype=np.float64).reshape(2, 2)), axis=0)
            if (corners[1] >= 0).all() and (corners[0] <= 1).all():
                moved = _mirror(person) if view.flip else person
                seen.append(replace(moved, box=corners.ravel()))
        return seen

    def draw(self, value: list[Person], size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """Bodies over the dimmed background: SMPL's mesh where the user has it, else capsules on its joints."""
        mesh = body_mesh()
        if mesh is not None:
            posed = [mesh.pose(p.global_orient, p.body_pose, p.betas) for p in value]
            placed = [v + camera_translation(p.box, p.camera) for v, p in zip(posed, value, strict=True)]
            return draw_meshes(placed, mesh.f, size, background)
        bodies = [(p.joints(), p.betas, p.box, p.camera) for p in value]
        return draw_bodies(bodies, size, background)

    def describe(self, value: list[Person], predicted: bool = False) -> str:
        return "1 person" if len(value) == 1 else f"{len(value) or 'no'} people"

    # -- words --------------------------------------------------------------------------------------------------
    def has_tokens(self, value: list[Person]) -> bool:
        """Whether everybody has ``pose_tokens``, as words need them."""
        return all(person.pose_tokens is not None for person in value)

    def with_tokens(self, value: list[Person], tokens: np.ndarray) -> list[Person]:
        """The people with ``pose_tokens`` from the rows of ``tokens`` (N or more, 8); fewer are an error."""
        require_rows(tokens, len(value), self.name)
        return [replace(p, pose_tokens=tuple(map(int, row))) for p, row in zip(value, tokens, strict=False)]

    def begins_part(self, word: str) -> bool:
        return word == "human"

    def to_words(self, value: list[Person], rng: np.random.Generator | None = None) -> str:
        """``none``, or 39 words per person; ``rng`` draws the order of each person's groups.

        Raises:
            ModalityError: a person has no ``pose_tokens``.
        """
        if not self.has_tokens(value):
            raise ModalityError(
                self.name,
                "words",
                "a person has no pose tokens.",
                "Tokenize the body poses with the pose tokenizer first.",
            )
        words: list[str] = []
        for person in value:
            order = GROUP_NAMES if rng is None else [GROUP_NAMES[i] for i in rng.permutation(len(GROUP_NAMES))]
            words += person_words(person, order)
        return " ".join(words) or "none"

    def from_words(self, words: str) -> list[Person]:
        """Complete people only. Their ``body_pose`` is neutral until ``pose_tokens`` are decoded."""
        runs = [run.split() for run in f" {words} ".split(" human ")[1:]]
        return [person for person in map(_person_from_words, runs) if person is not None]

    def next_terms(self, terms: Sequence[str], room: int) -> Terms:
        """``none``, or people: ``human``, a box, then each group once, in any order."""
        if not terms:
            return Terms(("none", "human") if room >= _WORDS_PER_PERSON else ("none",))
        if terms[-1] == "none":
            return END
        start = len(terms) - 1 - terms[::-1].index("human")
        box, groups = terms[start + 1 : start + 5], terms[start + 5 :]
        if len(box) < 4:
            return next_corner(box)
        left = list(GROUP_NAMES)
        while groups:
            name, size = groups[0], _group_size(groups[0])
            if len(groups) <= size:
                return Terms(CODES if name == "pose" else (Numbers(0),))
            left.remove(name)
            groups = groups[1 + size :]
        if left:
            return Terms(tuple(left))
        return Terms(("human",) if room >= _WORDS_PER_PERSON else (), end=True)

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[list[Person]], truths: Sequence[list[Person]]) -> dict[str, float]:
        """``f1`` of finding people (boxes with IoU ≥ 0.5), and ``mpjpe`` of those found.

        ``mpjpe``: mean distance of the 24 joints in mm, both bodies moved so that their pelvis coincides. The stand-in
        skeleton is used on both sides, so it is not comparable to results with SMPL's own mesh. NaN if nobody is found.
        """
        require_paired(self.name, predictions, truths)
        errors: list[float] = []
        for found, true in zip(predictions, truths, strict=True):
            for prediction, truth in _match(found, true):
                joints, true_joints = prediction.joints(), truth.joints()
                distance = np.linalg.norm((joints - joints[0]) - (true_joints - true_joints[0]), axis=-1)
                errors.append(float(distance.mean()))
        total = sum(map(len, predictions)) + sum(map(len, truths))
        return {
            "mpjpe": 1000 * float(np.mean(errors)) if errors else float("nan"),
            "f1": 2 * len(errors) / total if total else 1.0,
        }

    def merge(self, values: Sequence[list[Person]]) -> Merged[list[Person]]:
        """The people whom at least half of the samples show (boxes with IoU ≥ 0.5): means of all their numbers."""
        groups = matched(values, lambda a, b: iou(_box(a), _box(b)), _MATCHING_IOU)
        usual = [group for group in groups if 2 * len(group) >= len(values)]
        return Merged([mean_person(group) for group in usual], absence(usual, len(values)), ABSENCE)


def mean_person(people: Sequence[Person]) -> Person:
    """Box, rotations, shape and camera averaged; pose tokens, which no longer fit, are dropped."""

    def mean(name: str) -> np.ndarray:
        return np.mean([getattr(person, name) for person in people], axis=0).astype(np.float32)

    turned, pose = nearest_rotation(mean("global_orient")), nearest_rotation(mean("body_pose"))
    return Person(mean("box"), turned, pose, mean("betas"), mean("camera"))


def _match(found: Sequence[Person], true: Sequence[Person]) -> list[tuple[Person, Person]]:
    """One-to-one pairs of boxes with enough overlap, the best first."""
    overlaps = [(iou(_box(a), _box(b)), i, j) for i, a in enumerate(found) for j, b in enumerate(true)]
    matched: list[tuple[int, int]] = []
    for overlap, i, j in sorted(overlaps, key=lambda item: -item[0]):
        if overlap >= _MATCHING_IOU and all(i != a and j != b for a, b in matched):
            matched.append((i, j))
    return [(found[i], true[j]) for i, j in matched]


def _box(person: Person) -> Box:
    return Box(*np.clip(person.box, 0.0, 1.0).tolist(), class_name="person")


def _rounded(array: np.ndarray) -> list[Any]:
    return np.round(np.asarray(array, dtype=np.float64), 6).tolist()


def _people_from_json(table: dict[str, Any]) -> list[Person]:
    width, height = table.get("image_size", (1, 1))
    boxes = np.asarray(table["bbox_xyxy"], dtype=np.float64).reshape(-1, 4) / [width, height, width, height]
    count, smpl = len(boxes), table["pred_smpl_params"]

    def column(values: Any, *shape: int) -> np.ndarray:
        return np.asarray(values, dtype=np.float32).reshape(count, *shape)

    orients, poses = column(smpl["global_orient"], 3, 3), column(smpl["body_pose"], 23, 3, 3)
    betas, cameras = column(smpl["betas"], 10), column(table["pred_cam"], 3)
    tokens: list[tuple[int, ...] | None] = [None] * count
    if "pose_tokenized" in table:
        rows = np.asarray(table["pose_tokenized"], dtype=np.int64).reshape(count, POSE_CODES)
        tokens = [tuple(row) for row in rows.tolist()]
    return [Person(*parts) for parts in zip(boxes, orients, poses, betas, cameras, tokens, strict=True)]


register(HumanPoses())
