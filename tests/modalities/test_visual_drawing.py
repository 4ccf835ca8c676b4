"""Drawing helpers: colour maps with the right ends, pictures of the right size, text that stays inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open4m.modalities import drawing
from open4m.modalities.coco import COLOURS, panoptic_value
from open4m.modalities.depth import Depth
from open4m.modalities.features import Clip
from open4m.modalities.semseg import Semseg


def test_colour_maps_meet_their_ends_and_clamp() -> None:
    ends = drawing.turbo(np.array([-1, 0, 1, 2]))
    assert ends.tolist() == [[48, 18, 59], [48, 18, 59], [122, 4, 2], [122, 4, 2]]
    # values of the published 256-colour table between the stops
    table = {37: (70, 120, 240), 68: (33, 196, 225), 127: (161, 252, 61), 186: (253, 143, 40), 232: (190, 33, 2)}
    for index, colour in table.items():
        assert np.abs(drawing.turbo(np.array(index / 255)).astype(int) - colour).max() <= 7
    assert drawing.diverging(np.array([-1.0, 0.0, 1.0])).tolist() == [[33, 102, 172], [247, 247, 247], [178, 24, 43]]


def ramp_features(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(8, 5, 6) features that vary along one direction, and how (5, 6)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(-1, 1, 30).reshape(5, 6)
    return (np.outer(rng.normal(size=8), ramp) * 10 + 0.01 * rng.normal(size=(8, 30))).reshape(8, 5, 6), ramp


def test_principal_colours_show_the_main_direction_and_ignore_its_sign() -> None:
    features, ramp = ramp_features()
    (colours,) = drawing.principal_colours([features])
    assert colours.shape == (5, 6, 3)
    assert abs(np.corrcoef(colours[..., 0].ravel(), ramp.ravel())[0, 1]) > 0.999
    np.testing.assert_array_equal(colours, drawing.principal_colours([features + 100])[0])
    assert (drawing.principal_colours([np.ones((4, 2, 2))])[0] == 128).all()
    assert drawing.principal_colours([np.random.default_rng(0).normal(size=(1, 3, 3))])[0].shape == (3, 3, 3)


def test_maps_drawn_together_share_their_colours() -> None:
    features, _ = ramp_features()
    half = features[:, :2]
    whole, part = drawing.principal_colours([features, half])
    np.testing.assert_array_equal(part, whole[:2])
    assert (drawing.principal_colours([half])[0] != part).any()  # alone, the half fills the whole range
    one, two = Clip().draw_all([features, features], 30)
    assert one.tobytes() == two.tobytes() and one.size == (30, 30)


def test_outliers_do_not_wash_out_feature_maps() -> None:
    features = np.random.default_rng(0).normal(size=(8, 20, 20))
    spoiled = features.copy()
    spoiled[:, 0, 0] = 50 * np.linalg.svd(features.reshape(8, -1))[0][:, 0]  # along the main direction
    plain, seen = (drawing.principal_colours([f])[0].astype(float) for f in (features, spoiled))
    assert seen[1:, :, 0].std() > 0.8 * plain[1:, :, 0].std() > 30


def test_distinct_colours_are_bright_and_apart() -> None:
    colours = np.array(drawing.distinct_colours(100))
    assert colours.max(axis=1).min() >= 190
    assert np.abs(np.diff(colours, axis=0)).sum(axis=1).min() > 200
    twenty = colours[:20]
    assert (np.abs(twenty[:, None] - twenty[None]).sum(axis=-1) + 999 * np.eye(20, dtype=int)).min() > 80


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64), st.booleans())
def test_fit_square_is_square_and_keeps_the_shape(width: int, height: int, size: int, smooth: bool) -> None:
    square = drawing.fit_square(Image.new("L", (width, height), 255), size, smooth)
    assert (square.mode, square.size) == ("RGB", (size, size))
    shown = (np.asarray(square) == 255).all(axis=-1).sum()
    scale = size / max(width, height)
    assert shown == max(1, round(width * scale)) * max(1, round(height * scale))


@given(st.floats(-50, 150), st.floats(-50, 150))
def test_labels_stay_inside(x: float, y: float) -> None:
    picture = Image.new("RGB", (100, 60))
    drawing.label(picture, (x, y), "cat", (255, 0, 0))
    red = np.argwhere((np.asarray(picture) == (255, 0, 0)).all(axis=-1))
    whole = Image.new("RGB", (100, 60))
    drawing.label(whole, (10, 10), "cat", (255, 0, 0))
    expected = np.argwhere((np.asarray(whole) == (255, 0, 0)).all(axis=-1))
    assert np.abs(np.ptp(red, axis=0) - np.ptp(expected, axis=0)).max() <= 1


@pytest.mark.parametrize("ground", COLOURS[::7])
def test_text_is_readable(ground: drawing.Colour) -> None:
    ink = drawing.readable_on(ground)
    assert abs(np.dot(np.subtract(ink, ground), (0.299, 0.587, 0.114))) > 100


@settings(max_examples=25, deadline=None)
@given(st.text(st.sampled_from("ab \nXW.ü"), max_size=300), st.sampled_from([40, 112, 224]))
def test_cards_leave_their_margin_free(text: str, size: int) -> None:
    card = np.asarray(drawing.text_card(text, size, ink=(0, 0, 0), ground=(255, 255, 255)))
    assert card.shape == (size, size, 3)
    margin = max(1, round(size * 0.06) - 2)
    assert (card[:, :1] == 255).all()
    assert (card[:margin] == 255).all()
    assert (card < 128).any() == bool(text.strip())


def test_long_words_are_broken_and_long_texts_cut() -> None:
    assert (np.asarray(drawing.text_card("W" * 500, 80, (0, 0, 0), (255, 255, 255)))[:, -2:] == 255).all()
    text = " ".join(str(i) for i in range(3000))
    assert np.asarray(drawing.text_card(text, 80)).shape == (80, 80, 3)


def test_contact_sheets_hold_every_picture() -> None:
    pictures = [(f"number {i}", Image.new("RGB", (20, 20), (10 * i, 0, 200))) for i in range(7)]
    sheet = np.asarray(drawing.contact_sheet(pictures, columns=3, size=56))
    for _, picture in pictures:
        assert ((sheet == picture.getpixel((0, 0))).all(axis=-1)).sum() == 56 * 56
    assert sheet.shape[1] == 4 + 3 * 60
    assert drawing.contact_sheet(pictures[:1], size=56).width == 64
    with pytest.raises(ValueError, match="at least one"):
        drawing.contact_sheet([])


def test_semseg_colours_and_legend() -> None:
    value = np.full((8, 8), panoptic_value("cat"), np.uint8)
    value[:2] = panoptic_value("rug-merged")
    value[0, 0] = 0
    semseg = Semseg()
    plain = np.asarray(semseg.draw(value, 80))
    assert tuple(plain[79, 0]) == (255, 77, 255)
    assert tuple(plain[19, 79]) == (250, 141, 255)
    assert tuple(plain[0, 0]) == (0, 0, 0)
    assert [name for name, _ in semseg.legend_entries(value)] == ["cat", "rug-merged"]
    assert (np.asarray(semseg.draw(value, 80, legend=True)) != plain).any()
    blended = np.asarray(semseg.draw(value, 80, background=Image.new("RGB", (5, 5), (255, 255, 255))))
    np.testing.assert_allclose(blended[79, 0], 0.6 * np.array([255, 77, 255]) + 0.4 * 255, atol=1)


def test_depth_is_blue_near_and_red_far() -> None:
    value = np.array([[1, 2], [3, np.nan]], np.float32)
    picture = np.asarray(Depth().draw(value, 2))
    assert picture[0, 0].tolist() == [48, 18, 59]
    assert picture[1, 0].tolist() == [122, 4, 2]
    assert tuple(picture[1, 1]) == drawing.GROUND
