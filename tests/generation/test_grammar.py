"""Sentences that are written under a grammar: nothing true is forbidden, nothing written is malformed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import bundle, picture, text_tokenizer

from open4m.app.demo import HELDOUT, SPLIT
from open4m.evaluation import read_values
from open4m.generation.grammar import Grammar, grammar_of
from open4m.generation.pipeline import AnyToAny
from open4m.modalities.base import TextModality
from open4m.modalities.coco import THING_CLASSES
from open4m.modalities.registry import get_modality

NAMES = ("det", "metadata", "color_palette", "human_poses", "sam_instance")
CODES = {"human_poses": 8, "sam_instance": 16}
ROOM = {"det": 60, "metadata": 44, "color_palette": 23, "human_poses": 120, "sam_instance": 200}


def truths(name: str) -> list[Any]:
    modality: Any = get_modality(name)
    values = [sample[name] for sample in read_values(HELDOUT, SPLIT, [name])]
    if name in CODES:
        rng = np.random.default_rng(0)
        values = [modality.with_tokens(v, rng.integers(0, 512, (len(v), CODES[name]))) for v in values]
    return values


def split(words: list[str]) -> list[str]:
    """Terms: class names of two words are one."""
    terms: list[str] = []
    for word in words:
        if terms and f"{terms[-1]} {word}" in THING_CLASSES:
            terms[-1] += f" {word}"
        else:
            terms.append(word)
    return terms


@pytest.mark.parametrize("name", NAMES)
def test_every_true_sentence_is_allowed(name: str) -> None:
    modality = get_modality(name)
    assert isinstance(modality, TextModality)
    for number, value in enumerate(truths(name)):
        words = modality.to_words(value, np.random.default_rng(number))
        terms = split((words if isinstance(words, str) else " ".join(words)).split())
        for place, term in enumerate(terms[1:] if name == "color_palette" else terms, int(name == "color_palette")):
            allowed = modality.next_terms(terms[:place], 10_000)
            assert allowed is not None and term in allowed.words(), (terms[:place], term)
        closing = modality.next_terms(terms, 0 if name == "sam_instance" else 10_000)
        assert closing is not None and closing.end


GAP = text_tokenizer().sentinel(1)


def random_sentence(
    grammar: Grammar, room: int, rng: np.random.Generator, given_ids: tuple[int, ...] = (GAP,)
) -> list[int]:
    """Any of the ids that are allowed, until the sentence closes."""
    stop = text_tokenizer().sentinel(2)
    sentence = grammar.begin(given_ids, stop)
    assert sentence is not None
    ids: list[int] = []
    while not ids or ids[-1] != stop:
        allowed = sentence.allowed(room - len(ids))[0].tolist()
        assert allowed, text_tokenizer().decode(ids)
        ids.append(int(rng.choice(allowed)))
        sentence.write(ids[-1])
    return ids


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_every_allowed_sentence_parses_completely(name: str, seed: int) -> None:
    modality: Any = get_modality(name)
    grammar = grammar_of(modality, text_tokenizer())
    assert grammar is not None
    ids = random_sentence(grammar, ROOM[name], np.random.default_rng(seed))
    assert len(ids) <= ROOM[name]
    assert ids[-2:] == [text_tokenizer().eos, text_tokenizer().sentinel(2)]
    words = text_tokenizer().decode(ids[:-2])
    value = modality.from_words(words)
    match name:
        case "det":
            assert len(value) == words.count("v3=")
        case "metadata":
            assert len(value) == words.count("v1=") == 21
        case "color_palette":
            assert f"v1={len(value)} " in words
        case "human_poses":
            assert len(value) == words.count("human")
        case _:
            assert words.count("point") == 7 or len(ids) > ROOM[name] - 8
            assert len(value) == words.count("polygon")


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), followed=st.booleans())
def test_gaps_are_filled_with_whole_boxes(seed: int, followed: bool) -> None:
    modality, text, rng = get_modality("det"), text_tokenizer(), np.random.default_rng(seed)
    grammar = grammar_of(modality, text)
    assert grammar is not None and isinstance(modality, TextModality)
    before = text.encode("v0=1 v1=2 v2=300 v3=400 dog")
    after = [*(text.encode("v0=500 v1=600 v2=700 v3=800 teddy bear") if followed else []), text.eos]
    ids = random_sentence(grammar, 60, rng, (*before, GAP, *after))
    assert text.eos not in ids
    words = text.decode([*before, *ids[:-1], *after[:-1]])
    boxes = modality.from_words(words)
    assert len(boxes) == words.count("v3=") and boxes[0].class_name == "dog"
    assert not followed or boxes[-1].class_name == "teddy bear"


def test_fields_that_are_given_are_not_written_again() -> None:
    grammar, text = grammar_of(get_modality("metadata"), text_tokenizer()), text_tokenizer()
    assert grammar is not None
    before = text.encode("v1=5 v0=2 v1=10 v0=30")
    ids = random_sentence(grammar, 60, np.random.default_rng(0), (*before, GAP))
    words = text.decode([*before, *ids[:-2]])
    assert words.count("v1=") == len(set(words.split()[::2])) == 21


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(
            ("det", "v0=1 v1=2 [S_1] v3=400 dog"),
            ("det", "[S_1] v3=400 dog"),
            ("det", "[S_1] v0=1 [S_2]"),
            ("det", "dog [S_1]"),
        ),
        *(("color_palette", "v1=5 v0=3 [S_1] v0=3"), ("caption", "[S_1]")),
    ],
)
def test_other_gaps_are_filled_freely(name: str, words: str) -> None:
    grammar = grammar_of(get_modality(name), text_tokenizer())
    assert grammar is not None and grammar.begin(text_tokenizer().encode(words), 6) is None


def test_free_text_has_no_grammar() -> None:
    grammar = grammar_of(get_modality("caption"), text_tokenizer())
    assert grammar is not None and grammar.begin([GAP], 6) is None
    assert grammar_of(get_modality("depth"), text_tokenizer()) is None


def test_even_a_random_model_writes_well_formed_sentences() -> None:
    model = AnyToAny(bundle())
    pictures = [picture(i, 32, 32) for i in range(3)]
    plan = model.plan(NAMES, ["rgb"])
    result = model.generate({"rgb": pictures}, plan=plan)
    for i in range(3):
        assert len(result["metadata"][i].value) == 18  # of 39 ids 2 close
        assert len(result["color_palette"][i].value) >= 1
    loose = plan
    for name in NAMES:
        loose = loose.edit(name, grammar=False)
    free = model.generate({"rgb": pictures}, plan=loose)
    assert len(free["metadata"][0].value) < 18


def test_questions_are_not_asked_coldly() -> None:
    model = AnyToAny(bundle())
    result = model.generate({"rgb": picture(0, 32, 32)}, ["sam_instance"], samples=6)
    text = text_tokenizer()
    track = "sam_instance"
    first = set()
    for tokens in (result[track][i].tokens for i in range(6)):
        words = text.decode(torch.as_tensor(tokens).tolist()).split()
        first.add((words[1], words[2]))
    assert len(first) >= 5
