"""Captions: plain text about a picture."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.checks import require_paired
from open4m.modalities.drawing import text_card
from open4m.modalities.registry import register
from open4m.modalities.view import View

_GZIP = b"\x1f\x8b"
_WORD = re.compile(r"\w+")
_LONGEST = 4


class Caption(TextModality[str]):
    """A sentence or a few; the tokenizer lower-cases them and strips accents."""

    name = "caption"
    card = Card(
        title="Caption",
        description="A string. Files may hold several captions of one picture, of which training draws one.",
        metrics={"word_F1": Metric("", True), "BLEU-4": Metric("", True)},
        source="alt texts of CC12M and COYO-700M; text of C4 (4M-21, Sec. 3.1)",
    )
    extensions = ("txt", "json", "json.gz")
    max_tokens = 256

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> str:
        """The first caption of a file; see :meth:`decode_all`."""
        return self.decode_all(data, source)[0]

    def decode_all(self, data: bytes, source: str) -> list[str]:
        """All captions of a text file (one) or a JSON file, gzipped or not.

        JSON: a string, or a list of strings or of objects with the key ``caption``. Where ``source`` does not end
        in ``.txt`` or ``.json(.gz)``, JSON is recognised by its first character.
        """
        try:
            text = (gzip.decompress(data) if data.startswith(_GZIP) else data).decode("utf-8-sig").strip()
            is_json = source.endswith((".json", ".json.gz"))
            if is_json or (not source.endswith(".txt") and text[:1] in ('"', "[", "{")):
                captions = _captions_of(json.loads(text))
            else:
                captions = [text]
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
            raise ModalityError(
                self.name,
                source,
                f"not a file of captions ({type(error).__name__}: {error}); expected UTF-8 text, or JSON with a "
                'string, a list of strings or a list of {"caption": …}.',
                "Save the caption as a .txt file.",
            ) from error
        if not captions:
            raise ModalityError(self.name, source, "the list of captions is empty.", "Write at least one caption.")
        return captions

    def encode(self, value: str) -> bytes:
        return value.encode()

    def encode_all(self, captions: Sequence[str]) -> bytes:
        """Bytes of a JSON file with several captions."""
        return json.dumps(list(captions), ensure_ascii=False).encode()

    def validate(self, value: str, source: str) -> None:
        if not isinstance(value, str):
            raise ModalityError(
                self.name, source, f"found {type(value).__name__}, expected a string.", "Give the caption as text."
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ModalityError(self.name, source, f"not valid Unicode ({error}).", "Correct the text.") from error

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: str, view: View) -> str:
        """A caption is about the whole picture, whatever the crop."""
        return value

    def draw(self, value: str, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """The text on a card."""
        return text_card(value, size)

    def describe(self, value: str, predicted: bool = False) -> str:
        return " ".join(value.split()) or "no words"

    # -- words --------------------------------------------------------------------------------------------------
    def to_words(self, value: str, rng: np.random.Generator | None = None) -> str:
        """The caption with single spaces."""
        return " ".join(value.split())

    def from_words(self, words: str) -> str:
        return " ".join(words.split())

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[str], truths: Sequence[str]) -> dict[str, float]:
        """Word overlap over the list of captions, in [0, 1]; case and punctuation do not count.

        ``BLEU-4``: corpus BLEU with one reference (Papineni et al., 2002). ``word_F1``: mean over the captions of
        the F1 score of their words, without order.
        """
        require_paired(self.name, predictions, truths)
        pairs = [(_words(p), _words(t)) for p, t in zip(predictions, truths, strict=True)]
        return {"BLEU-4": _bleu(pairs), "word_F1": float(np.mean([_f1(p, t) for p, t in pairs]))}


def _captions_of(content: Any) -> list[str]:
    """Captions of a published JSON value; raises KeyError or TypeError on anything else."""
    items = content if isinstance(content, list) else [content]
    captions = [item["caption"] if isinstance(item, dict) else item for item in items]
    for caption in captions:
        if not isinstance(caption, str):
            raise TypeError(f"a caption is {type(caption).__name__}, not text")
    return captions


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _overlap(a: Iterable[object], b: Iterable[object]) -> int:
    return (Counter(a) & Counter(b)).total()


def _f1(predicted: list[str], true: list[str]) -> float:
    total = len(predicted) + len(true)
    return 2 * _overlap(predicted, true) / total if total else 1.0


def _bleu(pairs: Sequence[tuple[list[str], list[str]]]) -> float:
    logarithms = 0.0
    for n in range(1, _LONGEST + 1):
        runs = [tuple([words[i : i + n] for i in range(len(words) - n + 1)] for words in pair) for pair in pairs]
        matches = sum(_overlap(map(tuple, p), map(tuple, t)) for p, t in runs)
        if matches == 0:
            return 0.0
        logarithms += math.log(matches / sum(len(p) for p, _ in runs)) / _LONGEST
    ratio = sum(len(t) for _, t in pairs) / sum(len(p) for p, _ in pairs)
    return math.exp(logarithms + min(0.0, 1.0 - ratio))


register(Caption())
