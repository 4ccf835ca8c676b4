"""Metadata: published strings, coding of the 21 fields, both ways, files, scores."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.errors import ModalityError
from open4m.modalities.metadata import FIELDS, Bins, Count, Levels, Metadata
from tests.reference import golden

metadata = Metadata()
values = st.dictionaries(st.sampled_from(list(FIELDS)), st.floats(-10, 2000), max_size=21)


def reference() -> dict:
    return json.loads((golden("text") / "text.json").read_text(encoding="utf-8"))


def source() -> dict:
    return next(e["source"] for e in reference()["examples"] if e["kind"] == "metadata")


def test_published_strings() -> None:
    assert metadata.to_words(source()) == reference()["metadata_chunks"]


def test_published_codes_and_ranges() -> None:
    expected = reference()
    assert {name: f"v1={code}" for code, name in enumerate(FIELDS)} == expected["metadata_ids"]
    bins = {name: [f.low, f.high, f.top + 1] for name, f in FIELDS.items() if isinstance(f, Bins)}
    assert bins == expected["metadata_bins"]["min_max_bins"]
    levels = {name: list(f.edges) for name, f in FIELDS.items() if isinstance(f, Levels)}
    assert levels == expected["metadata_bins"]["manual"]
    sizes = {name for name, f in FIELDS.items() if isinstance(f, Count) and f.unit == 32}
    assert sizes == {"original_width", "original_height"}


@given(values)
def test_words_and_back_keep_every_code(value: dict[str, float]) -> None:
    words = " ".join(metadata.to_words(value))
    again = metadata.from_words(words)
    assert " ".join(metadata.to_words(again)) == words
    assert list(again) == [name for name in FIELDS if name in value]


@given(st.sampled_from([(n, f) for n, f in FIELDS.items() if isinstance(f, Bins)]), st.floats(0, 1))
def test_binned_numbers_are_restored_to_half_a_bin(field: tuple[str, Bins], share: float) -> None:
    name, coding = field
    number = coding.low + share * (coding.high - coding.low)
    again = metadata.from_words(" ".join(metadata.to_words({name: number})))[name]
    assert abs(again - number) <= (coding.high - coding.low) / 49 / 2 * (1 + 1e-9)


def test_counts_are_exact() -> None:
    value = {"n_humans": 3, "semantic_diversity": 12, "original_width": 640}
    assert metadata.from_words(" ".join(metadata.to_words(value))) == value


def test_shuffling_keeps_the_chunks() -> None:
    chunks = metadata.to_words(source(), np.random.default_rng(0))
    assert chunks != metadata.to_words(source())
    assert sorted(chunks) == sorted(metadata.to_words(source()))


salad = st.lists(
    st.one_of(st.builds("v{}={}".format, st.integers(0, 3), st.integers(0, 1100)), st.text(max_size=4)), max_size=40
).map(" ".join)


@given(salad)
def test_any_words_give_valid_metadata(words: str) -> None:
    metadata.validate(metadata.from_words(words), "salad")


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("", []),
        ("v1=5 v0=3", ["n_humans"]),
        ("v1=5 v0=3 v0=4 v1=6 v0=1", ["n_sam_instances"]),  # a chunk has exactly two words
        ("v0=3 v1=5", []),
        ("v1=21 v0=3", []),  # no such field
        ("v1=10 v0=50", []),  # no such bin
        ("v1=20 v0=3 v1=19 v0=1", ["watermark_score"]),
        ("a v1=6 v0=1 v1=5 v0=2", ["n_humans", "n_sam_instances"]),
    ],
)
def test_malformed_chunks_are_dropped(words: str, fields: list[str]) -> None:
    assert list(metadata.from_words(words)) == fields


def test_the_last_of_repeated_fields_counts() -> None:
    assert metadata.from_words("v1=5 v0=3 v1=5 v0=4") == {"n_humans": 4}


def test_files() -> None:
    assert metadata.decode(metadata.encode(source()), "test") == source()
    numpy_numbers = {"brightness": np.float32(0.5), "n_humans": np.int64(2)}
    assert metadata.decode(metadata.encode(numpy_numbers), "test") == {"brightness": 0.5, "n_humans": 2}
    for content, message in [
        (b"nonsense", "not JSON"),
        (b"[1]", "found list"),
        (b'{"brightnes": 3}', "Did you mean 'brightness'"),
        (b'{"brightness": "high"}', "'high'"),
        (b'{"brightness": NaN}', "finite"),
        (b'{"n_humans": true}', "True"),
    ]:
        with pytest.raises(ModalityError, match=message):
            metadata.decode(content, "7.json")


def test_scores() -> None:
    truth = source()
    assert metadata.score([truth], [truth]) == {"within_3_bins": 1.0, "exact": 1.0, "error": 0.0}
    assert metadata.score([{}], [truth]) == {"within_3_bins": 0.0, "exact": 0.0, "error": 1.0}
    scores = metadata.score(
        [{"n_humans": 3, "brightness": 255.0, "aesthetic_score": 6.0}],
        [{"n_humans": 4, "brightness": 0.0, "aesthetic_score": 5.9, "entropy": 7.0}],
    )
    assert scores == {"within_3_bins": 0.5, "exact": 0.25, "error": pytest.approx((0.25 + 1.0 + 0.0 + 1.0) / 4)}
    assert math.isnan(metadata.score([truth], [{}])["exact"])


def test_near_is_three_bins_but_no_other_level() -> None:
    truth = {"brightness": 20.5 * 255 / 49, "caption_n_chars": 40, "original_width": 320, "aesthetic_score": 5.0}
    inside = {"brightness": 23.5 * 255 / 49, "caption_n_chars": 37, "original_width": 320 + 96, "aesthetic_score": 5.4}
    outside = {"brightness": 24.5 * 255 / 49, "caption_n_chars": 44, "original_width": 320 + 128, "aesthetic_score": 6}
    assert metadata.score([inside], [truth])["within_3_bins"] == 1
    assert metadata.score([outside], [truth])["within_3_bins"] == 0


def test_drawing_shows_a_bar_as_long_as_the_value() -> None:
    def blue(value: float) -> int:
        picture = np.asarray(metadata.draw({"walkability": value}, 112)).astype(int)
        return int((picture[..., 2] - picture[..., 0] > 20).sum())

    assert blue(0.02) < blue(0.5) < blue(1.0)
    assert np.asarray(metadata.draw(source(), 224)).shape == (224, 224, 3)
