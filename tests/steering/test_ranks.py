"""Rank correlation against its definition, and the permutation test against cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from open4m.steering.ranks import mean_rank_correlation, rank_correlation, ranks

numbers = st.lists(st.integers(-5, 5), min_size=3, max_size=12)


@given(st.data(), numbers)
def test_it_is_spearmans_correlation(data: st.DataObject, a: list[int]) -> None:
    b = data.draw(st.lists(st.integers(-5, 5), min_size=len(a), max_size=len(a)))
    found = rank_correlation(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(float(spearmanr(a, b).statistic))


def test_equal_values_share_their_rank_and_unknown_places_are_left_out() -> None:
    assert ranks(np.array([5.0, 1.0, 5.0, 7.0])).tolist() == [1.5, 0, 1.5, 3]
    assert rank_correlation([1, 2, np.nan, 4], [1, 2, 0, 9]) == pytest.approx(1)
    assert np.isnan(rank_correlation([np.nan, np.nan], [1, 2]))


def test_places_without_a_measurement_say_nothing() -> None:
    asked = np.arange(5)
    assert mean_rank_correlation(asked, np.array([[1, 1, 1, np.nan, np.nan]])) == (0, 1)
    assert mean_rank_correlation(asked, np.full((2, 5), np.nan)) == (0, 1)
    falling = np.array([[3, 2, 1, np.nan, np.nan], [np.nan, 5, np.nan, 4, 3]])
    mean, chance = mean_rank_correlation(asked, falling)
    assert mean == pytest.approx(-1) and chance == 1
    mean, chance = mean_rank_correlation(asked, -falling)
    assert mean == pytest.approx(1) and chance == pytest.approx(1 / 36, rel=0.4)  # two orders of three, exactly right


def test_what_follows_is_told_from_chance() -> None:
    asked, generator = np.arange(5), np.random.default_rng(0)
    offsets = 100 * np.arange(6)[:, None]  # contexts may differ as much as they like
    mean, chance = mean_rank_correlation(asked, np.exp(asked)[None] + offsets)
    assert mean == pytest.approx(1) and chance < 0.001
    mean, chance = mean_rank_correlation(asked, -asked + offsets)
    assert mean == pytest.approx(-1) and chance > 0.99
    assert mean_rank_correlation(asked, np.zeros((4, 5))) == (0, 1)
    cancelled, _ = mean_rank_correlation(asked, np.array([[0, 2, 1, 3, 3], [3, 1, 2, 0, 0]]))
    assert f"{cancelled:.3g}" == "0"
    # of no effect, one in twenty seems to follow
    chances = [mean_rank_correlation(asked, generator.normal(size=(4, 5)), seed)[1] for seed in range(60)]
    assert np.mean(np.array(chances) < 0.05) < 0.15 and 0.35 < np.mean(chances) < 0.65
