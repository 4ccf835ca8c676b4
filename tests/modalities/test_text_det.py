"""Boxes: published strings, grammar both ways, files, crops, average precision."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.coco import THING_CLASSES
from open4m.modalities.det import Box, Detection, iou
from open4m.modalities.view import View
from tests.reference import golden

det = Detection()
unit = st.floats(0, 1)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    (xmin, xmax), (ymin, ymax) = (sorted((draw(unit), draw(unit))) for _ in range(2))
    return Box(xmin, ymin, xmax, ymax, draw(st.sampled_from(THING_CLASSES)), draw(st.floats(0.6, 1)))


def examples() -> list[dict]:
    content = json.loads((golden("text") / "text.json").read_text(encoding="utf-8"))
    return [example for example in content["examples"] if example["kind"] == "det"]


def test_published_strings() -> None:
    assert len(examples()) == 4
    for example in examples():
        source = example["source"]
        crop = np.array([*source["crop_top_left_h_w"], source["flip"]])
        view = View.from_row(crop, 224, tuple(source["orig_h_w"]), 0)
        seen = det.apply(det.decode(json.dumps(source).encode(), "golden"), view)
        assert det.to_words(seen) == example["text"]
        kept = sorted((b for b in seen if b.score >= 0.6), key=lambda b: b.xmin**2 + b.ymin**2)
        for box, (*corners, name, score) in zip(kept, example["boxes"], strict=True):
            assert box.corners == pytest.approx(corners)
            assert (box.class_name, box.score) == (name, score)


@given(st.lists(boxes(), max_size=8))
def test_words_and_back_up_to_quantisation(value: list[Box]) -> None:
    words = det.to_words(value)
    again = det.from_words(words)
    det.validate(again, "again")
    expected = sorted(value, key=lambda b: b.xmin**2 + b.ymin**2)
    assert [b.class_name for b in again] == [b.class_name for b in expected]
    for a, b in zip(again, expected, strict=True):
        assert a.corners == pytest.approx(b.corners, abs=0.5 / 999 + 1e-9)
    assert sorted(det.to_words(again).split()) == sorted(words.split())  # rounding may change the order, nothing else


def test_numpy_numbers_are_written() -> None:
    box = Box(*np.array([0, 0.25, 0.5, 1], np.float32), class_name="dog", score=np.float32(0.75))  # type: ignore[arg-type]
    assert det.decode(det.encode([box]), "test") == [Box(0, 0.25, 0.5, 1, "dog", 0.75)]


@given(st.lists(boxes(), max_size=8))
def test_files_round_trip(value: list[Box]) -> None:
    assert det.decode(det.encode(value), "test") == value


salad = st.lists(
    st.one_of(
        st.builds("v{}={}".format, st.integers(0, 4), st.integers(-1, 1200)),
        st.sampled_from(["dog", "hot", "[UNK]", "=", "v0=", "v0", "none"]),
        st.text(max_size=4),
    ),
    max_size=40,
).map(" ".join)


@given(salad)
def test_any_words_give_valid_boxes(words: str) -> None:
    det.validate(det.from_words(words), "salad")


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", []),
        ("v0=1 v1=2 v2=3 v3=4 hot dog", ["hot dog"]),
        ("dog v0=1 v1=2 v2=3 v3=4 cat", ["cat"]),  # words before the first box
        ("v0=1 v1=2 v2=3 v3=4", []),  # no class
        ("v0=1 v1=2 v3=4 cat v0=1 v1=2 v2=3 v3=4 dog", ["dog"]),  # a missing corner
        ("v0=1 v2=2 v1=3 v3=4 cat", []),  # out of order
        ("v0=9 v1=2 v2=3 v3=4 cat", []),  # inside out
        ("v0=1 v1=2 v2=3 v3=4 cat v1=7", []),  # a stray corner spoils its box
        ("v0=1 v1=2 v2=3 v3=1000 cat", []),
    ],
)
def test_malformed_parts_are_dropped(words: str, names: list[str]) -> None:
    assert [box.class_name for box in det.from_words(words)] == names


def test_unlikely_boxes_are_not_written() -> None:
    assert det.to_words([Box(0, 0, 1, 1, "cat", 0.59)]) == ""


def test_crop_clips_and_drops() -> None:
    value = [Box(0.0, 0.0, 0.5, 1.0, "cat"), Box(0.6, 0.2, 0.8, 0.4, "dog"), Box(0.9, 0.9, 1.0, 1.0, "cup")]
    view = View(0, 40, 100, 40, True, (64, 64), (100, 100))  # columns 40…80, mirrored
    cat, dog = det.apply(value, view)
    assert cat.corners == pytest.approx((0.75, 0.0, 1.0, 1.0))
    assert dog.corners == pytest.approx((0.0, 0.2, 0.5, 0.4))
    assert det.apply(value, View.full((100, 100))) == value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "KeyError"),
        (b"[1]", "TypeError"),
        (b"nonsense", "JSONDecodeError"),
        (b'{"instances": [{"boxes": [0, 0, 1], "class_name": "dog"}]}', "ValueError"),
        (b'{"instances": [{"boxes": [0, 0, 320, 200], "class_name": "dog"}]}', "Divide pixel coordinates"),
        (b'{"instances": [{"boxes": [0.5, 0, 0.4, 1], "class_name": "dog"}]}', "inside out"),
        (b'{"instances": [{"boxes": [0, 0, 1, 1], "class_name": " "}]}', "class name"),
        (b'{"instances": [{"boxes": [0, 0, NaN, 1], "class_name": "dog"}]}', "corners"),
        (b'{"instances": [{"boxes": [0, 0, 1, 1], "class_name": "dog", "score": 90}]}', "confidence"),
    ],
)
def test_bad_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ModalityError, match=message) as caught:
        det.decode(content, "pictures/7.json")
    assert "pictures/7.json" in str(caught.value)


# -- scores ---------------------------------------------------------------------------------------------------------
def test_iou() -> None:
    assert iou(Box(0, 0, 1, 1, "a"), Box(0.5, 0, 1, 1, "a")) == pytest.approx(0.5)
    assert iou(Box(0, 0, 0.4, 1, "a"), Box(0.5, 0, 1, 1, "a")) == 0


def test_perfect_empty_and_wrong_class() -> None:
    truth = [[Box(0.1, 0.1, 0.5, 0.5, "cat"), Box(0.5, 0.5, 0.9, 0.9, "dog")], [Box(0, 0, 0.3, 0.3, "cat")]]
    assert det.score(truth, truth) == {"AP50": 1.0, "mAP": 1.0}
    assert det.score([[], []], truth) == {"AP50": 0.0, "mAP": 0.0}
    swapped = [[Box(*b.corners, "cat" if b.class_name == "dog" else "dog") for b in boxes] for boxes in truth]
    assert det.score(swapped, truth) == {"AP50": 0.0, "mAP": 0.0}
    assert np.isnan(det.score([truth[0]], [[]])["AP50"])


def test_average_precision_by_hand() -> None:
    truth = [[Box(0, 0, 0.2, 0.2, "cat"), Box(0.5, 0.5, 0.7, 0.7, "cat")]]
    found = [
        Box(0, 0, 0.2, 0.2, "cat", 0.9),
        Box(0.8, 0, 1, 0.2, "cat", 0.8),
        Box(0.5, 0.5, 0.7, 0.7, "cat", 0.7),
        Box(0.5, 0.5, 0.7, 0.7, "cat", 0.6),  # the same object twice
    ]
    # precision 1 up to recall 0.5 (51 levels), then 2/3 (50 levels)
    assert det.score([found], truth)["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert det.score([found[1:]], truth)["AP50"] == pytest.approx((51 * 0.5) / 101)


def test_map_averages_thresholds() -> None:
    truth = [[Box(0, 0, 1, 1, "cat")]]
    found = [[Box(0, 0, 1, 0.72, "cat")]]  # passes 0.5, 0.55, 0.6, 0.65, 0.7
    assert det.score(found, truth) == {"AP50": 1.0, "mAP": pytest.approx(0.5)}


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(ModalityError, match="1 predictions against 2 truths"):
        det.score([[]], [[], []])


# -- pictures ---------------------------------------------------------------------------------------------------------
def test_drawing_frames_the_box() -> None:
    white = Image.new("RGB", (50, 50), "white")
    picture = np.asarray(det.draw([Box(0.25, 0.25, 0.75, 0.75, "dog")], 112, white))
    assert picture.shape == (112, 112, 3)
    assert tuple(picture[83, 60]) == (200, 20, 30)  # lower edge: 0.75 · 111
    assert tuple(picture[60, 60]) == (255, 255, 255) and tuple(picture[110, 110]) == (255, 255, 255)
