"""Human poses and SAM instances: reference words, files, mirror images, scores, pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.bodies import camera_translation, project
from open4m.modalities.human_poses import GROUP_NAMES, HumanPoses, Person, nearest_rotation, person_words
from open4m.modalities.polygons import clip_to_unit_square, contains, outline, rasterise
from open4m.modalities.sam_instance import CROP, Instance, SamInstance, merge_duplicates, point_words
from open4m.modalities.smpl_skeleton import JOINT_NAMES
from open4m.modalities.view import View
from tests.reference import golden

POSES, INSTANCES = HumanPoses(), SamInstance()
seeds = st.integers(0, 2**32 - 1)
FLIPPED = View(0, 0, 100, 100, True, (100, 100), (100, 100))


def examples(kind: str) -> list[dict[str, Any]]:
    return [e for e in json.loads((golden("text") / "text.json").read_text())["examples"] if e["kind"] == kind]


def random_person(rng: np.random.Generator) -> Person:
    rotations = nearest_rotation(rng.normal(size=(24, 3, 3)))
    low, extent = rng.uniform(-0.1, 0.5, 2), rng.uniform(0.1, 0.5, 2)
    return Person(
        np.concatenate([low, low + extent]),
        rotations[0],
        rotations[1:],
        rng.uniform(-3, 3, 10).astype(np.float32),
        np.array([rng.uniform(0.5, 1.5), *rng.uniform(-0.3, 0.3, 2)], np.float32),
        tuple(rng.integers(0, 1024, 8).tolist()),
    )


def disc(x: float, y: float, radius: float, tokens: int | None = 0) -> Instance:
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    polygon = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
    box = np.array([x - radius, y - radius, x + radius, y + radius])
    return Instance(polygon, box, None, None if tokens is None else tuple(range(tokens, tokens + 16)))


# -- poses: words ---------------------------------------------------------------------------------------------------
def test_reference_words_of_a_person() -> None:
    person, nobody = examples("human_poses")
    source = person["source"]

    def group(name: str, count: int) -> list[float]:
        start = source.index(name) + 1
        return source[start : start + count]

    value = Person(
        np.array(group("human", 4)),
        np.array(group("global", 9)).reshape(3, 3),
        np.zeros((23, 3, 3)),
        np.array(group("shape", 10)),
        np.array(group("camera", 3)),
        tuple(int(t) for t in group("pose", 8)),
    )
    # The reference ends with a space, which the text tokenizer ignores.
    assert " ".join(person_words(value, person["part_order"])) == person["text"].rstrip()
    assert POSES.to_words([]) == nobody["text"]
    assert POSES.from_words(nobody["text"]) == []


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(0, 7), st.booleans())
def test_people_survive_their_words(seed: int, count: int, shuffled: bool) -> None:
    rng = np.random.default_rng(seed)
    people = [random_person(rng) for _ in range(count)]
    words = POSES.to_words(people, rng if shuffled else None)
    assert len(words.split()) == max(1, 39 * count) <= POSES.max_tokens
    for person, back in zip(people, POSES.from_words(words), strict=True):
        assert back.pose_tokens == person.pose_tokens
        np.testing.assert_allclose(back.box, np.clip(person.box, 0, 1), atol=0.51 / 999)
        np.testing.assert_allclose(back.global_orient, person.global_orient, atol=0.005)
        np.testing.assert_allclose(back.betas, person.betas, atol=0.51 / 166.5)
        np.testing.assert_allclose(back.camera, person.camera, atol=0.51 / 49.95)
        POSES.validate([back], "words")


def test_out_of_range_shape_is_clipped() -> None:
    person = random_person(np.random.default_rng(0))
    person.betas[:2] = (-7.0, 9.0)
    words = POSES.to_words([person]).split()
    shape = words[words.index("shape") + 1 :]
    assert shape[:2] == ["v0=0", "v0=999"]


words = st.sampled_from(
    [*GROUP_NAMES, "human", "none", "point", "polygon", "v0=1", "v1=2", "v2=90", "v3=999", "v0=1000", "x"]
)


@given(st.lists(words, max_size=60), seeds)
def test_word_salad_is_never_raised_on(salad: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for modality, good in (
        (POSES, POSES.to_words([random_person(rng)])),
        (INSTANCES, INSTANCES.to_words([disc(0.5, 0.5, 0.3)])),
    ):
        modality.from_words(" ".join(salad))
        cut = good.split()
        cut[int(rng.integers(len(cut)))] = "oops"
        modality.from_words(" ".join(cut))
        assert len(modality.from_words(" ".join([*salad, "none", good]))) >= 1  # what is whole is found


def test_missing_tokens_are_named() -> None:
    person = random_person(np.random.default_rng(0))
    bare = replace(person, pose_tokens=None)
    with pytest.raises(ModalityError, match="pose tokens"):
        POSES.to_words([bare])
    with pytest.raises(ModalityError, match="mask tokens"):
        INSTANCES.to_words([disc(0.5, 0.5, 0.2, None)])
    assert POSES.with_tokens([bare], np.array([[1] * 8, [-1] * 8]))[0].pose_tokens == (1,) * 8
    assert INSTANCES.with_tokens([disc(0.5, 0.5, 0.2, None)], np.full((1, 16), 3))[0].mask_tokens == (3,) * 16


# -- poses: files, mirror, camera -----------------------------------------------------------------------------------
@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(0, 3))
def test_pose_files(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    people = [random_person(rng) for _ in range(count)]
    back = POSES.decode(POSES.encode(people), "file")
    assert len(back) == count
    for a, b in zip(people, back, strict=True):
        assert a.pose_tokens == b.pose_tokens
        for key in ("box", "global_orient", "body_pose", "betas", "camera"):
            np.testing.assert_allclose(getattr(a, key), getattr(b, key), atol=1e-5)


def test_pose_file_with_pixel_boxes() -> None:
    person = random_person(np.random.default_rng(0))
    table = json.loads(POSES.encode([person]))
    pixels = [v * s for v, s in zip(table["bbox_xyxy"][0], (640, 480, 640, 480), strict=True)]
    table |= {"bbox_xyxy": [pixels], "image_size": [640, 480]}
    np.testing.assert_allclose(POSES.decode(json.dumps(table).encode(), "f")[0].box, person.box, atol=1e-5)
    del table["image_size"]
    with pytest.raises(ModalityError, match="image_size"):
        POSES.decode(json.dumps(table).encode(), "f")


@pytest.mark.parametrize("data", [b"\xff", b"[1]", b'{"bbox_xyxy": [[0, 0, 1]]}', b'{"bbox_xyxy": "no"}', b"3"])
def test_broken_files_are_named(data: bytes) -> None:
    for modality in (POSES, INSTANCES):
        with pytest.raises(ModalityError, match=r"some\.json"):
            modality.decode(data, "some.json")


def test_distorted_rotations_are_refused() -> None:
    person = random_person(np.random.default_rng(0))
    person.body_pose[3] *= 1.2
    with pytest.raises(ModalityError, match="rotation"):
        POSES.validate([person], "here")


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_flip_mirrors_the_joints_and_twice_is_identity(seed: int) -> None:
    person = random_person(np.random.default_rng(seed))
    (flipped,) = POSES.apply([person], FLIPPED)
    assert flipped.pose_tokens is None
    POSES.validate([flipped], "flipped")
    sides = {"left": "right", "right": "left"}
    swapped = [JOINT_NAMES.index("_".join(sides.get(part, part) for part in n.split("_"))) for n in JOINT_NAMES]
    mirrored = person.joints()[swapped] * [-1, 1, 1]
    np.testing.assert_allclose(flipped.joints(), mirrored, atol=1e-5)
    # The picture is mirrored, too: the same joints at 1 - x.
    here = project(person.joints() + camera_translation(person.box, person.camera))[swapped]
    there = project(flipped.joints() + camera_translation(flipped.box, flipped.camera))
    np.testing.assert_allclose(there, [1, 0] + here * [-1, 1], atol=1e-4)
    (twice,) = POSES.apply([flipped], FLIPPED)
    for key in ("box", "global_orient", "body_pose", "betas", "camera"):
        np.testing.assert_allclose(getattr(twice, key), getattr(person, key), atol=1e-6)


def test_crop_moves_boxes_and_drops_people_outside() -> None:
    person = random_person(np.random.default_rng(0))
    inside = replace(person, box=np.array([0.1, 0.2, 0.3, 0.9]))
    outside = replace(person, box=np.array([0.6, 0.2, 0.8, 0.9]))
    view = View(0, 0, 100, 50, False, (100, 100), (100, 100))
    (seen,) = POSES.apply([inside, outside], view)
    np.testing.assert_allclose(seen.box, [0.2, 0.2, 0.6, 0.9])
    assert seen.pose_tokens == person.pose_tokens


def test_camera_puts_the_root_where_the_box_says() -> None:
    translation = camera_translation(np.array([0.2, 0.1, 0.4, 0.9]), np.array([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(project(translation), [0.3, 0.5], atol=1e-9)
    assert translation[2] == pytest.approx(2 * 5000 / 256 / 0.8)


def test_pose_scores() -> None:
    rng = np.random.default_rng(0)
    people = [[random_person(rng)], []]
    assert POSES.score(people, people) == {"mpjpe": 0.0, "f1": 1.0}
    scores = POSES.score([[], []], people)
    assert np.isnan(scores["mpjpe"]) and scores["f1"] == 0.0
    a = people[0][0]
    bent = replace(a, body_pose=nearest_rotation(rng.normal(size=(23, 3, 3))))
    assert 50 < POSES.score([[bent]], [[a]])["mpjpe"] < 2000
    assert POSES.score([[bent, a]], [[a]])["f1"] == pytest.approx(2 / 3)


# -- instances ------------------------------------------------------------------------------------------------------
def test_reference_words_of_instances() -> None:
    for example in examples("sam_instance"):
        written: list[str] = []
        for query in example["source"]:
            found = []
            for item in query["instances"]:
                ymin, xmin, ymax, xmax = item["bbox_ymin_xmin_ymax_xmax"]
                box = np.array([xmin, ymin, xmax, ymax]) / CROP
                found.append(Instance(np.zeros((3, 2)), box, None, tuple(item["tokens"])))
            written += point_words(tuple(query["point_x_y"]), found)
        assert " ".join(written) == example["text"]
        back = INSTANCES.from_words(example["text"])
        assert [i.mask_tokens for i in back] == [tuple(i["tokens"]) for q in example["source"] for i in q["instances"]]


discs = st.lists(
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.03, 0.19), st.integers(0, 1000)), max_size=5
)


@settings(deadline=None, max_examples=40)
@given(discs, st.none() | seeds)
def test_instances_survive_their_words(items: list[tuple[float, float, float, int]], seed: int | None) -> None:
    value = [disc(*item) for item in items]
    rng = None if seed is None else np.random.default_rng(seed)
    words = INSTANCES.to_words(value, rng)
    back = INSTANCES.from_words(words)
    assert all(a.area >= b.area for a, b in pairwise(back))
    if rng is None:
        assert {i.mask_tokens for i in back} == {i.mask_tokens for i in value}
    for found in back:
        candidates = [i for i in value if i.mask_tokens == found.mask_tokens]
        assert any(np.abs(found.box - i.box).max() <= 0.51 / CROP for i in candidates)
    # Every query point is answered by exactly the instances that contain it.
    for part in words.split("point ")[1:]:
        y, x = (int(w[3:]) / CROP for w in part.split()[:2])
        inside = sum(bool(contains(i.polygon, np.array([[x, y]]))[0]) for i in value)
        assert part.count("polygon") == inside
        assert ("none" in part) == (inside == 0)


@settings(deadline=None, max_examples=30)
@given(discs)
def test_instance_files_and_double_flip(items: list[tuple[float, float, float, int]]) -> None:
    value = [disc(*item) for item in items]
    back = INSTANCES.decode(INSTANCES.encode(value), "file")
    twice = INSTANCES.apply(INSTANCES.apply(value, FLIPPED), FLIPPED)
    for a, b, c in zip(value, back, twice, strict=True):
        assert a.mask_tokens == b.mask_tokens and c.mask_tokens is None
        for other in (b, c):
            np.testing.assert_allclose(a.polygon, other.polygon, atol=1e-5)
            np.testing.assert_allclose(a.box, other.box, atol=2e-3)
    same = INSTANCES.apply(value, View.full((50, 70)))
    assert [i.mask_tokens for i in same] == [i.mask_tokens for i in value]


@settings(deadline=None, max_examples=30)
@given(st.floats(-0.2, 1.2), st.floats(-0.2, 1.2), st.floats(0.1, 0.5), st.booleans())
def test_clipped_instances_cover_the_same_pixels(x: float, y: float, radius: float, flip: bool) -> None:
    size = 64
    full = disc((x + 1) / 3, (y + 1) / 3, radius / 3)  # the same disc in a picture three times as large
    view = View(100, 100, 100, 100, flip, (100, 100), (300, 300))
    seen = INSTANCES.apply([full], view)
    rows, cols = (np.mgrid[:size, :size] + 0.5) / size
    expected = (cols - x) ** 2 + (rows - y) ** 2 <= radius**2
    expected = expected[:, ::-1] if flip else expected
    found = seen[0].image_mask(size) if seen else np.zeros((size, size), bool)
    assert (found != expected).sum() <= 24 + 0.12 * expected.sum()


def test_polygon_helpers() -> None:
    square = np.array([[-1.0, 0.25], [0.5, 0.25], [0.5, 2.0], [-1.0, 2.0]])
    clipped = clip_to_unit_square(square)
    assert sorted(map(tuple, np.unique(clipped, axis=0).tolist())) == [(0, 0.25), (0, 1), (0.5, 0.25), (0.5, 1)]
    assert len(clip_to_unit_square(square + 5)) == 0
    points = np.array([[0.2, 0.5], [0.5, 0.5], [0.5, 0.25], [0.6, 0.5], [0.2, 0.1]])
    assert contains(square, points).tolist() == [True, True, True, False, False]
    assert rasterise(square, 8).sum() == 4 * 6
    notch = np.array([[0, 0], [1, 0], [1, 1], [0.5, 0.5], [0, 1.0]])
    assert contains(notch, np.array([[0.5, 0.9], [0.5, 0.4], [0.1, 0.8]])).tolist() == [False, True, True]


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_outlines_fill_to_the_largest_part(seed: int, rows: int, cols: int) -> None:
    mask = np.random.default_rng(seed).random((rows, cols)) < 0.6
    border = outline(mask)
    if not mask.any():
        assert border.shape == (0, 2)
        return
    centres = np.stack(np.meshgrid((np.arange(cols) + 0.5) / cols, (np.arange(rows) + 0.5) / rows), -1).reshape(-1, 2)
    filled = contains(border, centres).reshape(rows, cols)
    x, y = border.T
    area = abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2
    assert area == pytest.approx(filled.mean())  # no cell is crossed, none is counted twice
    around = np.pad(mask & ~filled, 1)
    beside = around[1:-1, 2:] | around[1:-1, :-2] | around[2:, 1:-1] | around[:-2, 1:-1]
    assert not (beside & filled & mask).any()  # a whole part


def test_predicted_instances_keep_their_shape_in_files() -> None:
    truth = disc(0.5, 0.4, 0.3)
    box = truth.box[[0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2)
    (predicted,) = merge_duplicates([Instance(box, truth.box, 0.95 * truth.box_mask())])
    (again,) = INSTANCES.decode(INSTANCES.encode([predicted]), "x")
    assert INSTANCES.score([[again]], [[truth]])["best_iou"] > 0.97


def test_people_without_extent_are_dropped() -> None:
    words = " ".join(person_words(random_person(np.random.default_rng(0)))).split()
    assert len(POSES.from_words(" ".join(words))) == 1
    words[1:5] = ["v0=5", "v1=5", "v2=5", "v3=9"]
    assert POSES.from_words(" ".join(words)) == []


def test_duplicates_merge_and_faint_masks_go() -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[10:50, 10:50] = 1.0
    shifted = np.roll(mask, 2, axis=0)
    box = np.array([0.1, 0.1, 0.6, 0.6])
    corners = np.zeros((4, 2))
    merged = merge_duplicates(
        [
            Instance(corners, box, mask),
            Instance(corners, box + 0.005, shifted),
            Instance(corners, box, 0.5 * mask),
            Instance(corners, np.array([0.3, 0.3, 0.9, 0.9]), mask),
        ]
    )
    assert len(merged) == 2
    np.testing.assert_allclose(merged[1].box, box + 0.0025)
    assert set(np.unique(merged[1].box_mask())) == {0.0, 0.5, 1.0}


def test_instance_scores() -> None:
    truth = [[disc(0.3, 0.3, 0.2), disc(0.7, 0.7, 0.2)], []]
    assert INSTANCES.score(truth, truth) == {"best_iou": 1.0, "recall": 1.0, "precision": 1.0}
    half = INSTANCES.score([[truth[0][0]], [truth[0][1]]], truth)
    assert half["recall"] == 0.5 and half["precision"] == 0.5 and half["best_iou"] == pytest.approx(0.5)
    nothing = INSTANCES.score([[], []], truth)
    assert nothing["best_iou"] == nothing["recall"] == 0 and np.isnan(nothing["precision"])


@pytest.mark.parametrize(
    "instance",
    [
        Instance(np.zeros((2, 2)), np.array([0, 0, 1, 1.0])),
        Instance(np.zeros((3, 2)), np.array([0.5, 0, 0.2, 1])),
        Instance(np.full((3, 2), 7.0), np.array([0, 0, 1, 1.0])),
        Instance(np.zeros((3, 2)), np.array([0, 0, 1, 1.0]), np.zeros((4, 4), np.float32)),
    ],
)
def test_malformed_instances_are_refused(instance: Instance) -> None:
    with pytest.raises(ModalityError, match="instance 0"):
        INSTANCES.validate([instance], "here")


def test_pictures() -> None:
    ground = Image.new("RGB", (60, 40), (200, 120, 40))
    box = np.array([0.25, 0.1, 0.75, 0.9])
    upright = np.diag([1.0, -1.0, -1.0]).astype(np.float32)
    neutral = np.tile(np.eye(3, dtype=np.float32), (23, 1, 1))
    person = Person(box, upright, neutral, np.zeros(10, np.float32), np.array([0.9, 0.0, 0.2], np.float32))
    for background in (None, ground):
        body = np.asarray(POSES.draw([person], 112, background)).astype(int)
        empty = np.asarray(POSES.draw([], 112, background)).astype(int)
        changed = np.argwhere(np.abs(body - empty).sum(-1) > 30)
        assert body.shape == (112, 112, 3) and 500 < len(changed) < 8000
        assert abs(changed[:, 1].mean() / 112 - 0.5) < 0.03
        masks = np.asarray(INSTANCES.draw([disc(0.5, 0.5, 0.25)], 112, background)).astype(int)
        base = np.asarray(INSTANCES.draw([], 112, background)).astype(int)
        share = (np.abs(masks - base).sum(-1) > 0).mean()
        assert share == pytest.approx(np.pi * 0.25**2, rel=0.15)
