"""The published text vocabulary: found, or fetched once, when the first word is needed (spec: tokenizers §6)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from urllib.request import urlopen

from tokenizers import Tokenizer

from open4m.errors import CheckpointError
from open4m.files import write_bytes
from open4m.tokenizers.text import TextTokenizer

NAME = "text_tokenizer_4m_wordpiece_30k.json"
URL = f"https://raw.githubusercontent.com/apple/ml-4m/main/fourm/utils/tokenizer/trained/{NAME}"
SHA256 = "8e684e9a0673e39f70702a698869f909ba697f871a0c6b2a07b5f61e91b3526e"
BYTES = 1_451_469
VOCABULARY = 30_000
ENVIRONMENT = "OPEN4M_TEXT_TOKENIZER"
"""Environment variable with the path of the file, for machines without internet."""

_SECONDS = 30


class PublishedText(TextTokenizer):
    """The published text tokenizer, read when a word is first turned into ids or back.

    Args:
        path: the file, where it is not to be looked for.
        fetch: URL → content; default: over the internet.
    """

    def __init__(self, path: str | Path | None = None, fetch: Callable[[str], bytes] | None = None) -> None:
        self._path = path
        self._fetch = fetch

    @cached_property
    def _tokenizer(self) -> Tokenizer:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TextTokenizer.load(published_text(self._path, self._fetch))._tokenizer

    @property
    def vocab_size(self) -> int:
        """Number of ids; known without the file, whose digest is checked."""
        return VOCABULARY


def text_at_hand() -> bool:
    """Whether the published text tokenizer can be read without fetching it."""
    return ENVIRONMENT in os.environ or cached_text().is_file()


def cached_text() -> Path:
    """Where the fetched file is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "open4m" / NAME


def published_text(path: str | Path | None = None, fetch: Callable[[str], bytes] | None = None) -> Path:
    """The file of the published text tokenizer.

    It is ``path``, else what ``OPEN4M_TEXT_TOKENIZER`` says, else the cached copy, which is fetched if there is none.

    Raises:
        CheckpointError: it is not there and cannot be fetched, or has another digest; the message says what to do.
    """
    given = path or os.environ.get(ENVIRONMENT)
    if given:
        return _checked(Path(given))
    cached = cached_text()
    if cached.is_file() and _digest(cached.read_bytes()) == SHA256:
        return cached
    try:
        content = (fetch or _download)(URL)
    except OSError as error:
        raise CheckpointError(
            f"Words need the published text tokenizer, which could not be fetched ({type(error).__name__}: {error}). "
            f"{_by_hand()}"
        ) from error
    if _digest(content) != SHA256:
        raise CheckpointError(f"{URL}: SHA-256 is {_digest(content)}, expected {SHA256}. {_by_hand()}")
    write_bytes(cached, content)
    return cached


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such text tokenizer. {_by_hand()}")
    found = _digest(path.read_bytes())
    if found != SHA256:
        raise CheckpointError(
            f"{path}: not the published text tokenizer: SHA-256 is {found}, expected {SHA256}. {_by_hand()}"
        )
    return path


def _by_hand() -> str:
    return (
        f"Download {URL} (SHA-256 {SHA256}) on a machine with internet, then set {ENVIRONMENT} to its path, or put it "
        f"at {cached_text()} or into the folder of the model."
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(url: str) -> bytes:
    with urlopen(url, timeout=_SECONDS) as response:
        return response.read(BYTES + 1)  # what is longer has another digest
