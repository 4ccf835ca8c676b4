"""Graded pictures."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from open4m.labeling.edges import luminance
from open4m.scenes.grading import Grade, develop, draw_grade
from open4m.scenes.shading import film

RAMP = np.stack(np.meshgrid(np.arange(0, 256, 15), np.arange(0, 256, 15), indexing="ij"), axis=-1)
PICTURE = np.concatenate([RAMP, RAMP[..., :1][::-1]], axis=-1).astype(np.uint8)
"""(18, 18, 3): many colours."""


@given(st.floats(0.25, 4))
def test_another_exposure_is_what_the_film_makes_of_more_light(gain: float) -> None:
    light = np.linspace(0, 1.2, 60, dtype=np.float32).reshape(4, 5, 3)
    again = develop(film(light, 1.0), Grade((gain, gain, gain), 1.0))
    # A step of 8 bits before is several steps after in the shadows that are lifted and the lights that are darkened.
    difference = np.abs(again.astype(int) - film(light, gain))
    assert difference.max() <= 2 + 3 * max(gain, 1 / gain)


def test_an_even_grade_leaves_the_picture() -> None:
    assert np.abs(develop(PICTURE, Grade((1.0, 1.0, 1.0), 1.0)).astype(int) - PICTURE).max() <= 1


@given(st.floats(0.3, 1), st.floats(1, 3))
def test_more_exposure_is_brighter_everywhere(less: float, more: float) -> None:
    dark, bright = (develop(PICTURE, Grade((gain, gain, gain), 1.0)).astype(int) for gain in (less, more))
    assert (dark <= bright).all()


def test_vividness_goes_from_grey_to_gaudy_at_the_same_luminance() -> None:
    pale = PICTURE // 2 + 64
    spread = []
    for vividness in (0.0, 0.5, 1.0, 1.5):
        graded = develop(pale, Grade((1.0, 1.0, 1.0), vividness)).astype(int)
        spread.append((graded.max(axis=-1) - graded.min(axis=-1)).mean())
        if vividness <= 1:
            assert np.abs(luminance(graded) - luminance(pale)).max() < 2
    assert spread[0] == 0 and spread == sorted(spread) and len(set(spread)) == 4


def test_drawn_grades_darken_brighten_pale_and_deepen() -> None:
    grades = [draw_grade(np.random.default_rng(seed)) for seed in range(200)]
    middle = np.array([np.mean(grade.gains) for grade in grades])
    vividness = np.array([grade.vividness for grade in grades])
    assert 0.2 < middle.min() < 0.5 and 1.8 < middle.max() < 4
    assert 0.1 <= vividness.min() < 0.4 and 1.5 < vividness.max() <= 1.9
    assert len({grade.gains for grade in grades}) == 200
