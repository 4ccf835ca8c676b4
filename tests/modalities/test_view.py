"""A view shows every modality the same part of the picture."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from open4m.modalities.view import Resample, View

sides = st.integers(1, 24)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def crops(draw: st.DrawFn, inside: bool = True) -> View:
    """A view at the size of its own crop: whole pixels in, whole pixels out."""
    rows, cols = draw(sides), draw(sides)
    reach = 0 if inside else 8
    top, left = draw(st.integers(-reach, rows - 1)), draw(st.integers(-reach, cols - 1))
    height, width = draw(st.integers(1, rows - top + reach)), draw(st.integers(1, cols - left + reach))
    return View(top, left, height, width, draw(st.booleans()), (height, width), (rows, cols))


def numbered(shape: tuple[int, int]) -> np.ndarray:
    return np.arange(1, shape[0] * shape[1] + 1, dtype=np.float32).reshape(shape)


@given(sides, sides, st.sampled_from([Resample.NEAREST, Resample.BILINEAR, Resample.BICUBIC]))
def test_the_full_view_is_the_identity(rows: int, cols: int, resample: Resample) -> None:
    values = numbered((rows, cols))
    np.testing.assert_array_equal(View.full((rows, cols)).array(values, resample), values)
    picture = Image.fromarray(values.astype(np.uint8))
    np.testing.assert_array_equal(View.full((rows, cols)).image(picture, resample), values.astype(np.uint8))


@given(crops(inside=False), st.sampled_from([Resample.NEAREST, Resample.BILINEAR, Resample.BICUBIC]))
def test_a_crop_equals_slicing_and_is_zero_outside(view: View, resample: Resample) -> None:
    values = numbered(view.original)
    padded = np.pad(values, 32)
    expected = padded[view.top + 32 : view.top + 32 + view.height, view.left + 32 : view.left + 32 + view.width]
    if view.flip:
        expected = expected[:, ::-1]
    np.testing.assert_array_equal(view.array(values, resample), expected)


@given(crops(), seeds, st.integers(1, 3))
def test_pixels_land_where_their_centres_are_mapped(view: View, seed: int, enlarged: int) -> None:
    """Crop, flip and enlargement move a pixel to the place that ``points`` tells."""
    view = View(
        view.top,
        view.left,
        view.height,
        view.width,
        view.flip,
        (view.height * enlarged, view.width * enlarged),
        view.original,
    )
    rng = np.random.default_rng(seed)
    row, col = view.top + int(rng.integers(view.height)), view.left + int(rng.integers(view.width))
    values = np.zeros(view.original, dtype=np.float32)
    values[row, col] = 7
    centre = np.array([(col + 0.5) / view.original[1], (row + 0.5) / view.original[0]])
    x, y = view.points(centre)
    seen = view.array(values, Resample.NEAREST)
    assert seen.sum() == 7 * enlarged**2
    assert seen[int(y * view.size[0]), int(x * view.size[1])] == 7


@given(crops(inside=False), st.integers(0, 9))
def test_rows_of_crop_settings_round_trip(view: View, index: int) -> None:
    square = View(view.top, view.left, view.height, view.width, view.flip, (16, 16), view.original, index)
    row = square.to_row()
    assert row.dtype == np.int64
    assert View.from_row(row, 16, view.original, index) == square


@given(st.integers(1, 400), st.integers(1, 400), seeds)
def test_random_crops_lie_inside(rows: int, cols: int, seed: int) -> None:
    view = View.random_crop((rows, cols), 16, np.random.default_rng(seed))
    assert view.top >= 0 and view.left >= 0
    assert view.top + view.height <= rows
    assert view.left + view.width <= cols
    assert view == View.random_crop((rows, cols), 16, np.random.default_rng(seed))


def test_random_crops_have_the_asked_area_and_flip_half_of_the_time() -> None:
    rng = np.random.default_rng(0)
    views = [View.random_crop((200, 200), 16, rng) for _ in range(2000)]
    areas = np.array([v.height * v.width / 200**2 for v in views])
    assert 0.19 < areas.min() < 0.25
    assert areas.max() <= 1
    assert abs(np.mean([v.flip for v in views]) - 0.5) < 0.05


@given(st.integers(1, 40), st.integers(1, 40))
def test_the_centre_square_is_the_largest(rows: int, cols: int) -> None:
    view = View.centre_square((rows, cols), 8)
    assert view.height == view.width == min(rows, cols)
    assert abs(2 * view.top + view.height - rows) <= 1
    assert abs(2 * view.left + view.width - cols) <= 1


def test_another_resolution_is_cropped_at_the_same_place() -> None:
    view = View(2, 4, 4, 8, False, (2, 4), (8, 16))
    half = numbered((4, 8))
    np.testing.assert_array_equal(view.array(half, Resample.NEAREST), half[1:3, 2:6])


def test_nothing_leaks_in_from_outside_of_the_crop() -> None:
    values = np.zeros((12, 12), dtype=np.float32)
    values[:, 6:] = 1000
    seen = View(0, 0, 12, 6, False, (7, 7), (12, 12)).array(values, Resample.BICUBIC)
    assert np.abs(seen).max() == 0


def test_a_crop_finer_than_a_pixel_shows_that_pixel() -> None:
    values = numbered((2, 2))
    for top in (-1, 0, 60, 119):
        seen = View(top, 100, 1, 1, False, (2, 2), (120, 120)).array(values, Resample.NEAREST)
        assert seen.shape == (2, 2)
        assert seen[1, 1] == (0 if top < 0 else 2 if top < 60 else 4)


def test_channels_of_an_array_are_resized_alike() -> None:
    values = np.random.default_rng(0).normal(size=(9, 7, 3)).astype(np.float32)
    view = View(1, 2, 6, 4, True, (5, 5), (9, 7))
    seen = view.array(values, Resample.BILINEAR)
    for channel in range(3):
        np.testing.assert_array_equal(seen[..., channel], view.array(values[..., channel], Resample.BILINEAR))


def test_empty_views_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        View(0, 0, 0, 4, False, (4, 4), (8, 8))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40))
def test_a_letterbox_shows_everything_and_its_inverse_cuts_the_bars_off(rows: int, cols: int, size: int) -> None:
    view = View.letterbox((rows, cols), size)
    back = view.inverse()
    side = max(rows, cols)
    assert back.size == (back.height, back.width) and max(back.size) == size
    assert abs(back.height - size * rows / side) <= 1 and abs(back.width - size * cols / side) <= 1
    assert min(back.top, back.left) >= 0 and max(back.top + back.height, back.left + back.width) <= size
    corners = np.array([[0.0, 0.0], [1.0, 1.0]])
    slack = np.array([1.0 / back.width, 1.0 / back.height])  # bars end at whole pixels
    np.testing.assert_array_less(np.abs(back.points(view.points(corners)) - corners).max(axis=0), slack + 1e-9)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 3))
def test_a_letterbox_and_its_inverse_return_the_picture(rows: int, cols: int, enlarged: int) -> None:
    values = numbered((rows, cols))
    view = View.letterbox((rows, cols), max(rows, cols) * enlarged)
    square = view.array(values, Resample.NEAREST)
    expected = np.kron(values, np.ones((enlarged, enlarged)))
    np.testing.assert_array_equal(view.inverse().array(square, Resample.NEAREST), expected)
    assert (square > 0).sum() == expected.size  # the bars are 0


@given(crops())
def test_the_inverse_of_a_crop_puts_it_back_in_its_place(view: View) -> None:
    values = numbered(view.original)
    found = view.inverse().array(view.array(values, Resample.NEAREST), Resample.NEAREST)
    assert found.shape == view.original
    inside = np.s_[view.top : view.top + view.height, view.left : view.left + view.width]
    np.testing.assert_array_equal(found[inside], values[inside])
    assert (found > 0).sum() == view.height * view.width


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 8))
def test_filled_cells_are_those_that_show_the_picture(rows: int, cols: int, cells: int) -> None:
    view = View.letterbox((rows, cols), cells * max(rows, cols))  # whole pixels per cell and per picture pixel
    seen = view.array(np.ones((rows, cols), np.float32), Resample.NEAREST)
    blocks = seen.reshape(cells, max(rows, cols), cells, max(rows, cols)).max(axis=(1, 3)) > 0
    np.testing.assert_array_equal(view.filled((cells, cells)), blocks)
    assert View.centre_square((rows, cols), 8).filled((3, 3)).all()
