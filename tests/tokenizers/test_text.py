"""The text tokenizer against the reference's ids and strings."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from open4m.errors import CheckpointError
from open4m.modalities.coco import THING_CLASSES
from open4m.tokenizers.text import COORDINATES, TextTokenizer, strip_special
from open4m.verify import Options
from tests.reference import golden, verified

TEXTS = [
    "A red chair stands beside a wooden table.",
    "Two people walk on the grass under a blue sky!",
    "A brown dog, three bottles and a small potted plant.",
] * 5


def reference() -> dict:
    return json.loads((golden("text") / "text.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published() -> Path:
    beside = Path(__file__).parents[3] / "shared" / "data" / "text_tokenizer_4m_wordpiece_30k.json"
    path = Path(os.environ.get("OPEN4M_TEXT_TOKENIZER", beside))
    if not path.is_file():
        pytest.skip("the published text tokenizer is not here; set OPEN4M_TEXT_TOKENIZER to its JSON file")
    return path


@cache
def own_tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, vocab_size=4600)


@pytest.fixture
def own() -> TextTokenizer:
    return own_tokenizer()


def test_published_ids_and_strings(published: Path) -> None:
    checks = verified("text", Options(text_tokenizer=published)).checks
    assert checks["ids caption"].parts == 17 and checks["ids metadata"].parts > 20
    text = TextTokenizer.load(published)
    assert text.encode("v0=10 v1=20 v2=999 v3=0 potted plant") == [214, 1224, 3203, 3204, 4255]
    assert len(text.encode("Stop Sign")) == 1
    assert len(text.encode("stop signs")) == 2


def test_own_vocabulary_has_the_published_layout(own: TextTokenizer) -> None:
    for word, index in reference()["special"].items():
        if index is not None and (index < 4284):
            assert own.encode(word) == [index], word
    assert own.encode(" ".join(COORDINATES)) == list(range(204, 4204))
    assert own.encode(" ".join(sorted(THING_CLASSES))) == list(range(4204, 4284))
    assert (own.pad, own.unk, own.eos) == (0, 1, 3)
    assert own.sentinel(1) == 5 and own.is_sentinel(4) and own.is_sentinel(203)
    assert not own.is_sentinel(3) and not own.is_sentinel(204)
    with pytest.raises(ValueError, match="200"):
        own.sentinel(200)


def test_grammar_strings_survive_an_own_vocabulary(own: TextTokenizer) -> None:
    for example in reference()["examples"]:
        if example["kind"] in ("det", "metadata", "color_palette"):
            assert own.encode(example["text"]) == example["ids"]
            assert own.decode(example["ids"]) == example["text"]


def test_own_vocabulary_says_its_corpus(own: TextTokenizer) -> None:
    for text in TEXTS:
        ids = own.encode(text)
        assert own.unk not in ids
        assert own.decode(ids) == text.lower()


def test_small_vocabulary_is_whole(own: TextTokenizer) -> None:
    vocabulary = json.loads(own._tokenizer.to_str())["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(own.vocab_size))
    assert own.vocab_size <= 4600


def test_training_is_deterministic_across_processes(tmp_path: Path) -> None:
    draw = random.Random(0)
    texts = [" ".join("".join(draw.choices("abcdef", k=draw.randint(1, 7))) for _ in range(8)) for _ in range(200)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys; from open4m.tokenizers.text import TextTokenizer; folder = sys.argv[1]; "
        "TextTokenizer.train(json.load(open(folder + '/texts.json')), 4500).save(folder + '/' + sys.argv[2])"
    )
    for name in ("a.json", "b.json"):
        command = [sys.executable, "-c", code, str(tmp_path), name]
        subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_rare_characters_become_unknown() -> None:
    tokenizer = TextTokenizer.train(["aaa bbb aaa bbb", "ccc"], 4400, max_alphabet=2)
    assert tokenizer.encode("ccc") == [tokenizer.unk]
    assert tokenizer.decode(tokenizer.encode("aaa ba")) == "aaa ba"


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        TextTokenizer.train(TEXTS, vocab_size=4284)


def test_save_and_load(own: TextTokenizer, tmp_path: Path) -> None:
    own.save(tmp_path / "text_tokenizer.json")
    again = TextTokenizer.load(tmp_path / "text_tokenizer.json")
    assert again.vocab_size == own.vocab_size
    assert again.encode(" ".join(TEXTS)) == own.encode(" ".join(TEXTS))


def test_files_that_are_no_text_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such"):
        TextTokenizer.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"broken\.json.*not a tokenizer"):
        TextTokenizer.load(tmp_path / "broken.json")
    other = Tokenizer(models.WordPiece({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    other.save(str(tmp_path / "other.json"))
    with pytest.raises(CheckpointError, match="mismatched vocabulary"):
        TextTokenizer.load(tmp_path / "other.json")


def test_merge_spans(own: TextTokenizer) -> None:
    for case in reference()["merge_span_masking"]:
        assert own.merge_spans(case["input"], case["decoder"]) == case["merged"]


@given(st.lists(st.tuples(st.integers(204, 4300), st.booleans()), max_size=30))
def test_masked_spans_merge_to_the_original(units: list[tuple[int, bool]]) -> None:
    tokenizer = own_tokenizer()
    inputs: list[int] = []
    targets: list[int] = []
    spans = 0
    previous_kept = True
    for token, kept in units:
        if kept:
            inputs.append(token)
        else:
            if previous_kept:
                spans += 1
                inputs.append(tokenizer.sentinel(spans))
                targets.append(tokenizer.sentinel(spans))
            targets.append(token)
        previous_kept = kept
    targets.append(tokenizer.sentinel(spans + 1))
    assert tokenizer.merge_spans(inputs, targets) == [token for token, _ in units]


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("[S_1] a dog [EOS] [S_2] [PAD] [PAD]", "a dog"),
        ("v0=1 v1=2 [EOS]", "v0=1 v1=2"),
        ("", ""),
        ("what is [UNK] ?", "what is [UNK] ?"),
    ],
)
def test_strip_special(text: str, stripped: str) -> None:
    assert strip_special(text) == stripped
