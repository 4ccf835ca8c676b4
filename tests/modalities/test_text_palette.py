"""Colour palettes: published strings, both ways, files, distances; CIE Lab."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from open4m.errors import ModalityError
from open4m.labeling.palette import extract_palettes
from open4m.modalities.cielab import colour_distance, lab_to_rgb, rgb_to_lab
from open4m.modalities.color_palette import ColorPalette, palette_distance
from tests.reference import golden

palette = ColorPalette()
palettes = st.integers(1, 7).flatmap(lambda k: arrays(np.uint8, (k, 3)))


def test_published_strings() -> None:
    content = json.loads((golden("text") / "text.json").read_text(encoding="utf-8"))
    examples = [example for example in content["examples"] if example["kind"] == "color_palette"]
    assert len(examples) == 3
    for example in examples:
        value = np.array(example["source"], np.uint8).reshape(-1, 3)
        assert palette.to_words(value) == example["text"]
        assert np.array_equal(palette.from_words(example["text"]), value)


@given(palettes)
def test_words_and_back(value: np.ndarray) -> None:
    again = palette.from_words(palette.to_words(value))
    assert again.dtype == np.uint8 and np.array_equal(again, value)
    assert np.array_equal(palette.decode(palette.encode(value), "test"), value)


salad = st.lists(
    st.one_of(st.builds("v{}={}".format, st.integers(0, 3), st.integers(0, 1100)), st.text(max_size=4)), max_size=60
).map(" ".join)


@given(salad)
def test_any_words_give_colours(words: str) -> None:
    value = palette.from_words(words)
    assert value.dtype == np.uint8 and value.ndim == 2 and value.shape[1] == 3 and len(value) <= 7
    if len(value):
        palette.validate(value, "salad")


def test_a_picture_gives_a_file_of_seven_palettes() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    data = palette.encode_all(extract_palettes(rgb))
    assert sorted(json.loads(data)[0]) == list("1234567")
    assert [len(p) for p in palette.decode_all(data, "test")] == [1, 2, 3, 4, 5, 6, 7]
    assert np.array_equal(palette.decode(data, "test"), extract_palettes(rgb)[4])


@pytest.mark.parametrize(
    "content",
    [b"nonsense", b"[]", b"[{}]", b'{"1": [[1, 2, 3]]}', b'[{"1": [[1, 2]]}]', b'[{"1": [[0.5, 0.2, 0.1]]}]',
     b'[{"1": [[1, 2, 256]]}]', b'[{"2": [[1, 2, 3], [1, 2]]}]', b'[{"x": [[1, 2, 3]]}]'],
)  # fmt: skip
def test_bad_files_are_refused(content: bytes) -> None:
    with pytest.raises(ModalityError, match=r"^color_palette: 7\.json: "):
        palette.decode(content, "7.json")


def test_values_are_checked() -> None:
    for value in (np.zeros((8, 3), np.uint8), np.zeros((0, 3), np.uint8), np.zeros((2, 3)), [[1, 2, 3]]):
        with pytest.raises(ModalityError):
            palette.validate(value, "test")  # type: ignore[arg-type]


# -- colours --------------------------------------------------------------------------------------------------------
def test_lab_of_known_colours() -> None:
    colours = np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20), (87.73, -86.18, 83.18), (32.30, 79.19, -107.86)]
    assert np.abs(rgb_to_lab(colours) - expected).max() < 0.05


@given(arrays(np.uint8, (5, 3)))
def test_lab_and_back(colours: np.ndarray) -> None:
    assert np.array_equal(lab_to_rgb(rgb_to_lab(colours)), colours)
    assert np.all(colour_distance(colours, colours) == 0)


@given(palettes, st.randoms())
def test_the_order_of_colours_does_not_matter(value: np.ndarray, random: Random) -> None:
    shuffled = value[random.sample(range(len(value)), len(value))]
    assert palette_distance(value, shuffled) == 0


@given(palettes, palettes)
def test_distance_is_symmetric(a: np.ndarray, b: np.ndarray) -> None:
    assert palette_distance(a, b) == pytest.approx(palette_distance(b, a))


def test_scores() -> None:
    black, white = np.zeros((1, 3), np.uint8), np.full((1, 3), 255, np.uint8)
    both = np.vstack([black, white])
    assert palette.score([black], [white])["delta_E"] == pytest.approx(100, abs=1e-3)
    assert palette.score([both], [white])["delta_E"] == pytest.approx(50, abs=1e-3)  # black is nowhere in the truth
    assert palette.score([white], [both])["delta_E"] == pytest.approx(50, abs=1e-3)  # nor does leaving it out pay
    assert palette.score([np.vstack([white, white])], [white])["delta_E"] == 0  # another size alone is no error
    assert palette.score([black, black[:0]], [black, white])["delta_E"] == pytest.approx(50)


def test_levels_near_the_truth_are_counted() -> None:
    truth = np.array([[100, 100, 100], [200, 30, 30]], np.uint8)
    found = np.array([[200, 45, 46], [115, 85, 100]], np.uint8)  # the other way round; one level is 16 away
    assert palette.score([found], [truth])["within_3_bins"] == pytest.approx(5 / 6)
    assert palette.score([found[1:]], [truth])["within_3_bins"] == pytest.approx(3 / 6)  # a missing colour is wrong
    assert palette.score([np.vstack([found, truth])], [truth])["within_3_bins"] == 1
    assert palette.score([found[:0]], [truth])["within_3_bins"] == 0


def test_drawing_is_stripes() -> None:
    value = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    picture = np.asarray(palette.draw(value, 100))
    assert [tuple(picture[50, x]) for x in (0, 32, 33, 66, 67, 99)] == [
        (255, 0, 0), (255, 0, 0), (0, 255, 0), (0, 255, 0), (0, 0, 255), (0, 0, 255),
    ]  # fmt: skip
    assert palette.draw(value[:0], 100).size == (100, 100)
