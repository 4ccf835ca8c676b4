"""Controls: what they ask for, and that their measures find it in values that have it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from open4m.errors import Open4MError
from open4m.modalities.coco import panoptic_value
from open4m.modalities.det import SHOWN_SCORE, Box
from open4m.modalities.registry import get_modality
from open4m.steering.controls import parse_control


def grey(level: int) -> np.ndarray:
    return np.full((16, 16, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("text", "modality", "labels"),
    [
        ("metadata.brightness=40,120.5", "metadata", ["40", "120.5"]),
        ("color_palette=#ff0000,00ff0a", "color_palette", ["#ff0000", "#00ff0a"]),
        ("det.dining table=0,2", "det", ["0", "2"]),
        ("metadata.caption_n_words=5, 9", "metadata", ["5", "9"]),
    ],
)
def test_a_control_with_its_values_is_one_word(text: str, modality: str, labels: list[str]) -> None:
    control, values = parse_control(text)
    assert control.modality == modality and [control.label(v) for v in values] == labels
    assert control.name == text.partition("=")[0]
    for value in values:
        get_modality(modality).validate(control.value(value, None), "control")
        assert len(control.expected(value)) == len(control.measures)
        assert control.parse(control.label(value)) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("brightness=1,2", "no control.*metadata.FIELD"),
        ("metadata=1,2", "no control"),
        ("metadata.brightnes=1,2", "Did you mean 'brightness'"),
        ("metadata.watermark_score=0,1", "nothing here measures watermark_score.*brightness"),
        ("metadata.brightness=1", "several values"),
        ("metadata.brightness=1,1", "several values"),
        ("metadata.brightness=100,101,140", "not several values that the model can tell apart"),
        ("metadata.brightness=100,300", r"300 is out of range; expected 0…255\."),
        ("metadata.n_humans=-1,0", "-1 is out of range"),
        ("metadata.brightness=1,x", "'x' is no number"),
        ("metadata.brightness=1,nan", "'nan' is no number"),
        ("color_palette=red,blue", "'red' is no colour.*#rrggbb"),
        ("det.persn=0,1", "Did you mean 'person'"),
        ("det.person=0,1.5", "1.5 is no number of boxes"),
        ("det.person=0,-1", "-1 is no number of boxes"),
    ],
)
def test_what_is_no_control_is_refused(text: str, message: str) -> None:
    with pytest.raises(Open4MError, match=message):
        parse_control(text)


def test_fields_are_measured_as_they_are_labelled() -> None:
    brightness, _ = parse_control("metadata.brightness")
    assert brightness.measure({"rgb": grey(90)}) == pytest.approx((90,), abs=0.5)
    assert brightness.value(50.0, {"n_humans": 2, "brightness": 1}) == {"n_humans": 2, "brightness": 50}
    words, _ = parse_control("metadata.caption_n_words")
    assert words.output == "caption" and words.measure({"caption": "two red balls"}) == (3,)
    walk, _ = parse_control("metadata.walkability")
    floor = np.zeros((4, 4), np.uint8)
    floor[:2] = panoptic_value("floor-wood")
    assert walk.reads == ("semseg",) and walk.measure({"rgb": grey(9), "semseg": floor}) == (0.5,)
    kinds, _ = parse_control("metadata.semantic_diversity")
    classes = np.ones((40, 40), np.uint8)
    classes[:2], classes[2, :3] = 2, 3  # three stray pixels of 1600 are no class
    assert kinds.measure({"rgb": grey(9), "semseg": classes}) == (2,)
    people, _ = parse_control("metadata.n_humans")
    found = [Box(0, 0, 1, 1, "person"), Box(0, 0, 1, 1, "dog")]
    assert people.reads == ("det",) and people.measure({"rgb": grey(9), "det": found}) == (1,)
    guesses = [Box(0, 0, 1, 1, "person", score) for score in (0.9, SHOWN_SCORE, 0.25, 0.125)]
    assert people.measure({"rgb": grey(9), "det": guesses}) == (2,)
    for field, count in {"n_coco_instances": 3, "coco_instance_diversity": 2}.items():
        control, _ = parse_control(f"metadata.{field}")
        assert control.measure({"rgb": grey(9), "det": [*guesses, found[1], Box(0, 0, 1, 1, "cat", 0.1)]}) == (count,)


def test_usual_values_span_what_there_is() -> None:
    control, _ = parse_control("metadata.brightness")
    samples = [{"metadata": {"brightness": float(v)}} for v in range(0, 201)]
    assert control.usual(samples) == [10, 55, 100, 145, 190]
    people, _ = parse_control("metadata.n_humans")
    assert people.usual([{"metadata": {"n_humans": v}} for v in (0, 0, 1, 2, 2)]) == [0, 1, 2]  # no half people
    with pytest.raises(Open4MError, match=r"Give values: metadata\.brightness=1,2,3"):
        control.usual([{}])
    for name in ("color_palette", "det.person"):
        assert len(parse_control(name)[0].usual([])) == 5


def test_usual_colours_are_those_of_the_pictures_and_differ() -> None:
    control, _ = parse_control("color_palette")
    levels = [*[100, 101, 102, 103, 104], 20, 60, 150, 220]  # of nine pictures five are nearly alike
    pictures = [{"rgb": np.full((8, 8, 3), level, np.uint8)} for level in levels]
    chosen = [colour[0] for colour in control.usual(pictures)]
    assert chosen == sorted(chosen) and {20, 60, 150, 220} < set(chosen)


def test_a_colour_replaces_the_first_of_the_palette_and_is_measured_in_lab() -> None:
    control, (red,) = parse_control("color_palette")[0], [(200, 30, 20)]
    base = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert control.value(red, base).tolist() == [[200, 30, 20], [4, 5, 6]] and base[0, 0] == 1
    picture = np.broadcast_to(np.array(red, np.uint8), (8, 8, 3))
    assert control.measure({"rgb": picture}) == pytest.approx(control.expected(red), abs=0.5)


def test_boxes_stand_side_by_side() -> None:
    control, _ = parse_control("det.dog")
    cat = Box(0, 0, 0.1, 0.1, "cat")
    boxes = control.value(3, [cat])
    assert boxes[0] == cat and [b.class_name for b in boxes[1:]] == ["dog"] * 3
    assert all(a.xmax <= b.xmin for a, b in pairwise(boxes[1:]))
    classes = np.zeros((2, 2), np.uint8)
    classes[0, 0] = panoptic_value("dog")
    assert control.measure({"det": boxes, "semseg": classes}) == (3, 0.25)
    guesses = [*boxes, Box(0, 0, 1, 1, "dog", 0.25)]  # of one sample in four
    assert control.measure({"det": guesses, "semseg": classes}) == (3, 0.25)
