"""Captions as text and as language-model states; the text streams."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4m.errors import ModalityError
from open4m.modalities.caption import Caption
from open4m.modalities.grammar import number_word, parse_number
from open4m.modalities.registry import get_modality
from open4m.modalities.t5_caption import T5Caption
from open4m.streams import StreamKind

caption, t5 = Caption(), T5Caption()


# -- captions ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "source", "expected"),
    [
        (b"A dog.\n", "1.txt", ["A dog."]),
        (b'["not", "json"]', "1.txt", ['["not", "json"]']),
        (b'"A dog."', "1.json", ["A dog."]),
        (b'["A dog.", "A cat."]', "1.json", ["A dog.", "A cat."]),
        (b'[{"caption": "A dog."}, {"caption": "A cat."}]', "1.json", ["A dog.", "A cat."]),
        (gzip.compress(b'["A dog."]', mtime=0), "1.json.gz", ["A dog."]),
        (b'["A dog."]', "shard.tar, member 1", ["A dog."]),
        (b"A dog.", "shard.tar, member 1", ["A dog."]),
        ("\ufeffCafé".encode(), "1.txt", ["Café"]),
    ],
)
def test_files(content: bytes, source: str, expected: list[str]) -> None:
    assert caption.decode_all(content, source) == expected
    assert caption.decode(content, source) == expected[0]


def test_damaged_gzip_files_are_refused() -> None:
    packed = gzip.compress(b'["A dog on a couch."]')
    damaged = packed[:10] + bytes([packed[10] ^ 0xFF]) + packed[11:]
    with pytest.raises(ModalityError, match=r"^caption: 1\.json\.gz: "):
        caption.decode(damaged, "1.json.gz")


@pytest.mark.parametrize("content", [b"A dog.", b"[]", b"[1]", b'{"text": "A dog."}', b"\xff\xfe\x00", b"\x1f\x8bxx"])
def test_bad_files_are_refused(content: bytes) -> None:
    with pytest.raises(ModalityError, match=r"^caption: 1\.json: "):
        caption.decode(content, "1.json")


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_several_captions_round_trip(captions: list[str]) -> None:
    assert caption.decode_all(caption.encode_all(captions), "1.json") == captions


@given(st.text())
def test_words_and_back(text: str) -> None:
    words = caption.to_words(text)
    assert caption.from_words(words) == words
    assert words.split() == text.split()
    assert caption.decode(caption.encode(words), "1.txt") == words


def test_only_text_is_a_caption() -> None:
    with pytest.raises(ModalityError, match="found int"):
        caption.validate(3, "argument")  # type: ignore[arg-type]
    with pytest.raises(ModalityError, match="surrogates"):
        caption.validate(caption.decode(b'"\\ud800"', "1.json"), "1.json")


def test_scores() -> None:
    truth = ["A brown dog sits on the green grass.", "Two cups."]
    assert caption.score(truth, [t.upper() for t in truth]) == {"BLEU-4": pytest.approx(1.0), "word_F1": 1.0}
    assert caption.score(["", ""], truth) == {"BLEU-4": 0.0, "word_F1": 0.0}
    scores = caption.score(["a b c d e"], ["a b c d f"])
    assert scores["word_F1"] == pytest.approx(0.8)
    assert scores["BLEU-4"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    shorter = caption.score(["a b c d"], ["a b c d e f"])
    assert shorter["BLEU-4"] == pytest.approx(np.exp(1 - 6 / 4))


def test_drawing_has_ink() -> None:
    blank, written = (np.asarray(caption.draw(text, 112)) for text in ("", "A dog on a couch."))
    assert (blank == blank[0, 0]).all() and (written < 100).sum() > 100


# -- states of a language model ---------------------------------------------------------------------------------------
def archive(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **arrays)
    return buffer.getvalue()


def test_only_valid_rows_are_kept() -> None:
    states = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    valid = np.array([[1, 1, 0], [1, 0, 0]])
    first, second = t5.decode_all(archive(emb=states, mask_valid=valid), "1.npz")
    assert first.dtype == np.float32 and np.array_equal(first, states[0, :2])
    assert np.array_equal(second, states[1, :1])
    assert np.array_equal(t5.decode(t5.encode(first), "1.npz"), first)


def test_bad_state_files_are_refused() -> None:
    good, mask = np.zeros((1, 3, 4)), np.ones((1, 3))
    contents = [
        b"", b"nonsense", archive(emb=good), archive(emb=good, mask_valid=np.ones((1, 2))),
        archive(emb=good[0], mask_valid=mask), archive(emb=np.array([{}]), mask_valid=mask),
        archive(emb=good, mask_valid=mask)[:60],
    ]  # fmt: skip
    for content in contents:
        with pytest.raises(ModalityError, match=r"^t5_caption: 1\.npz: "):
            t5.decode(content, "1.npz")


def test_states_are_checked_scored_and_drawn() -> None:
    value = np.random.default_rng(0).normal(size=(5, 96)).astype(np.float32)
    t5.validate(value, "test")
    for bad in (value.astype(np.float64), value[0], value[:0], np.full_like(value, np.nan)):
        with pytest.raises(ModalityError):
            t5.validate(bad, "test")
    assert t5.score([value], [2 * value])["cosine"] == pytest.approx(1.0)
    assert t5.score([value], [-value])["cosine"] == pytest.approx(-1.0)
    assert np.asarray(t5.draw(value, 112)).shape == (112, 112, 3)


# -- shared --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "length"), [("caption", 256), ("det", 256), ("metadata", 40), ("color_palette", 23)])
def test_published_text_streams(name: str, length: int) -> None:
    (stream,) = get_modality(name).streams(224, 16)
    assert (stream.name, stream.modality, stream.kind) == (name, name, StreamKind.SEQUENCE)
    assert (stream.max_tokens, stream.vocab_size, stream.max_target_position) == (length, 30_000, None)
    assert stream.is_input and stream.is_target


def test_published_embedding_stream() -> None:
    (stream,) = t5.streams(224, 16)
    assert (stream.kind, stream.max_tokens, stream.channels) == (StreamKind.EMBEDDING, 77, 4096)
    assert stream.is_input and not stream.is_target


@given(st.integers(0, 3), st.integers(0, 999))
def test_number_words(axis: int, value: int) -> None:
    assert parse_number(number_word(axis, value)) == (axis, value)


@pytest.mark.parametrize("word", ["v4=1", "v0=1000", "v0=-1", "v0=", "v0=1x", "dog", "", "v0=1\n", "v0=²"])
def test_other_words_are_no_numbers(word: str) -> None:
    assert parse_number(word) is None


def test_numbers_out_of_range_have_no_word() -> None:
    for axis, value in ((4, 0), (-1, 0), (0, 1000), (0, -1)):
        with pytest.raises(ValueError, match="no word"):
            number_word(axis, value)


def test_a_json_file_of_one_caption_from_another_tool() -> None:
    assert caption.decode(json.dumps({"caption": "A dog."}).encode(), "1.json") == "A dog."
