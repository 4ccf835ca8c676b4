"""The published text vocabulary: fetched once, checked, cached; the error says what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from published_folder import CONFIGURATION, published_weights, write_published
from tiny_bundle import text_tokenizer

from open4m.errors import CheckpointError
from open4m.hub import load_bundle, text
from open4m.hub.text import PublishedText, cached_text, published_text
from tests.reference import golden

BESIDE = Path(__file__).parents[3] / "shared" / "data" / text.NAME


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(text.ENVIRONMENT, raising=False)
    return tmp_path / "cache" / "open4m" / text.NAME


@pytest.fixture
def vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small vocabulary of the right layout that takes the place of the published one."""
    text_tokenizer().save(tmp_path / "small.json")
    content = (tmp_path / "small.json").read_bytes()
    monkeypatch.setattr(text, "SHA256", hashlib.sha256(content).hexdigest())
    return content


def refuse(url: str) -> bytes:
    raise AssertionError(f"{url} must not be fetched")


def offline(url: str) -> bytes:
    raise OSError(f"no route to host of {url}")


def test_it_is_fetched_once_and_works_offline_afterwards(cache: Path, vocabulary: bytes) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return vocabulary

    tokenizer = PublishedText(fetch=fetch)
    assert not asked and tokenizer.sentinel(1) == 5 and tokenizer.vocab_size == 30_000  # known without the file
    assert tokenizer.encode("a red ball") == text_tokenizer().encode("a red ball")
    assert asked == [text.URL] and cache.read_bytes() == vocabulary and cached_text() == cache
    assert PublishedText(fetch=refuse).encode("v0=10 [S_1]") == [214, 5]


def test_a_wrong_download_is_neither_used_nor_kept(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"SHA-256 is [0-9a-f]{64}, expected 8e684e9a.*OPEN4M_TEXT_TOKENIZER"):
        PublishedText(fetch=lambda _: b"{}").encode("a")
    assert not cache.exists()


def test_a_damaged_cache_is_fetched_again(cache: Path, vocabulary: bytes) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(vocabulary[:-1])
    assert published_text(fetch=lambda _: vocabulary) == cache and cache.read_bytes() == vocabulary


def test_without_internet_the_error_says_what_to_do(cache: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        PublishedText(fetch=offline).decode([5])
    for part in ("no route to host", text.URL, text.SHA256, text.ENVIRONMENT, str(cache), "folder of the model"):
        assert part in str(error.value)


def test_the_users_file_comes_first(tmp_path: Path, vocabulary: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own.json"
    own.write_bytes(vocabulary)
    assert published_text(own, refuse) == own
    monkeypatch.setenv(text.ENVIRONMENT, str(own))
    assert published_text(fetch=refuse) == own and text.text_at_hand()
    own.write_bytes(vocabulary + b" ")
    with pytest.raises(CheckpointError, match=r"own\.json: not the published text tokenizer: SHA-256 is"):
        published_text(fetch=refuse)
    monkeypatch.setenv(text.ENVIRONMENT, str(tmp_path / "none.json"))
    with pytest.raises(CheckpointError, match=r"none\.json: there is no such text tokenizer"):
        published_text(fetch=refuse)


def test_published_models_need_it_only_for_words(tmp_path: Path) -> None:
    bundle = load_bundle(write_published(tmp_path / "4M-tiny"))  # nothing is fetched for this
    assert isinstance(bundle.text, PublishedText)
    wordless = CONFIGURATION | {"domains_in": ["rgb@224"], "domains_out": ["tok_depth@224"]}
    folder = write_published(tmp_path / "wordless", published_weights(wordless), wordless)
    assert load_bundle(folder).text is None


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = write_published(tmp_path / "4M-tiny")
    text_tokenizer().save(folder / "text_tokenizer.json")
    with pytest.raises(CheckpointError, match=r"caption has 30000 ids, the text tokenizer \d+"):
        load_bundle(folder)


def test_ids_of_the_published_file() -> None:
    if not BESIDE.is_file():
        pytest.skip("the published text tokenizer is not here")
    content = BESIDE.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (text.BYTES, text.SHA256)
    tokenizer = PublishedText(fetch=lambda _: content)
    examples = json.loads((golden("text") / "text.json").read_text(encoding="utf-8"))["examples"]
    assert [tokenizer.encode(e["text"]) for e in examples] == [e["ids"] for e in examples]
    assert tokenizer._tokenizer.get_vocab_size() == tokenizer.vocab_size
