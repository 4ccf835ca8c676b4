"""The text tokenizer: one WordPiece vocabulary for captions, boxes, metadata, palettes, poses and instances.

Layout of the ids (spec: tokenizers §6; 4M-21, Sec. 3.2): ``[PAD] [UNK] [SOS] [EOS]``, 200 sentinels ``[S_k]``,
4 × 1000 coordinate words ``v0=0`` … ``v3=999``, class names in alphabetical order, characters, word pieces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from open4m.errors import CheckpointError
from open4m.files import write_bytes
from open4m.modalities.coco import THING_CLASSES

PAD, UNK, SOS, EOS = "[PAD]", "[UNK]", "[SOS]", "[EOS]"
SENTINELS = tuple(f"[S_{k}]" for k in range(200))
COORDINATES = tuple(f"v{axis}={value}" for axis in range(4) for value in range(1000))
_FIXED = (PAD, UNK, SOS, EOS, *SENTINELS, *COORDINATES)
"""The words whose ids the grammars and the masking rely on; id = index."""

SENTINEL_IDS = range(_FIXED.index(SENTINELS[0]), _FIXED.index(SENTINELS[-1]) + 1)
"""Ids of ``[S_0]``…``[S_199]``."""

_PREFIX = "##"
_MARKS = re.compile(r"\[(?:PAD|SOS|EOS|S_\d+)\]")


class TextTokenizer:
    """Words ↔ ids. Lower-cases, strips accents; each coordinate word, sentinel and class name is one id.

    Args:
        tokenizer: a WordPiece tokenizer of the layout above.
        source: where it comes from, for error messages.

    Raises:
        CheckpointError: the vocabulary has another layout.
    """

    pad, unk, eos = _FIXED.index(PAD), _FIXED.index(UNK), _FIXED.index(EOS)

    def __init__(self, tokenizer: Tokenizer, source: str = "text tokenizer") -> None:
        for expected, word in enumerate(_FIXED):
            found = tokenizer.token_to_id(word)
            if found != expected:
                raise CheckpointError(
                    f"{source}: mismatched vocabulary: {word!r} has id {found}, expected {expected}. "
                    "Use the text tokenizer that the model was trained with."
                )
        self._tokenizer = tokenizer

    # -- files ------------------------------------------------------------------------------------------------
    @classmethod
    def load(cls, path: str | Path) -> TextTokenizer:
        """Read a ``tokenizers`` JSON file, such as the published ``text_tokenizer_4m_wordpiece_30k.json``."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: there is no such text tokenizer. Check the path.")
        try:
            tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception on malformed files
            raise CheckpointError(f"{path}: not a tokenizer JSON file ({error}). Fetch or save it again.") from error
        return cls(tokenizer, str(path))

    def save(self, path: str | Path) -> None:
        """Write the JSON file atomically; inverse of :meth:`load`."""
        write_bytes(path, self._tokenizer.to_str(pretty=True).encode())

    # -- words and ids -------------------------------------------------------------------------------------------
    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self._tokenizer.get_vocab_size()

    @property
    def vocabulary(self) -> dict[str, int]:
        """Word → id."""
        return self._tokenizer.get_vocab()

    def encode(self, text: str) -> list[int]:
        """Text → ids; nothing is added. Sentinels and coordinate words must stand between spaces."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids → text, with all special words kept; see :func:`strip_special`."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def sentinel(self, k: int) -> int:
        """Id of ``[S_k]``, k = 0…199; the first one that masking uses is ``[S_1]``."""
        if not 0 <= k < len(SENTINELS):
            raise ValueError(f"sentinel {k} is not in 0…{len(SENTINELS) - 1}")
        return SENTINEL_IDS[k]

    def is_sentinel(self, token: int) -> bool:
        """Whether an id is one of the sentinels."""
        return token in SENTINEL_IDS

    def merge_spans(self, input_ids: Iterable[int], generated_ids: Iterable[int]) -> list[int]:
        """Put generated spans in the places of the input's sentinels (spec: modalities §5).

        A sentinel of the input is replaced by the ids that follow the same sentinel in ``generated_ids``, up to the
        next one; by nothing if it was not generated. If a sentinel is generated twice, the later span counts.
        """
        spans: dict[int, list[int]] = {}
        span: list[int] = []  # ids before the first sentinel belong nowhere
        for token in map(int, generated_ids):
            if self.is_sentinel(token):
                span = spans[token] = []
            else:
                span.append(token)
        merged: list[int] = []
        for token in map(int, input_ids):
            merged += spans.get(token, []) if self.is_sentinel(token) else [token]
        return merged

    # -- training -------------------------------------------------------------------------------------------------
    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 30_000,
        *,
        class_names: Iterable[str] = THING_CLASSES,
        max_alphabet: int = 1000,
        min_frequency: int = 2,
    ) -> TextTokenizer:
        """Learn word pieces from ``texts``; the same texts give the same vocabulary.

        Args:
            texts: the corpus; held in memory.
            vocab_size: number of ids at most; small corpora fill fewer.
            class_names: words or phrases that become one id each.
            max_alphabet: number of characters kept, the most frequent ones; others become ``[UNK]``.
            min_frequency: how often a pair of pieces must occur to be joined.

        Raises:
            ValueError: ``vocab_size`` has no room for special words and characters.
        """
        names = sorted(set(class_names))
        words = list(_words(texts))
        counts = Counter(c for word in words for c in word)
        kept = sorted(sorted(counts, key=lambda c: (-counts[c], c))[:max_alphabet])
        words = [word for word in words if set(word) <= set(kept)]
        inner = sorted({_PREFIX + c for word in words for c in word[1:]})
        fixed = [*_FIXED, *names]
        if vocab_size < len(fixed) + len(kept) + len(inner):
            needed = len(fixed) + len(kept) + len(inner)
            raise ValueError(f"vocab_size {vocab_size} is too small: special words and characters need {needed}")

        # Given as special words, the continuation characters have fixed ids; the trainer, left alone, numbers them
        # in a random order, on which the choice between equally frequent pairs depends.
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=[*fixed, *inner], show_progress=False
        )
        learned = Tokenizer(models.WordPiece(unk_token=UNK))
        learned.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        learned.train_from_iterator([" ".join(words[i : i + 1000]) for i in range(0, len(words), 1000)], trainer)
        ids = learned.get_vocab()
        order = dict.fromkeys([*fixed, *kept, *inner, *sorted(ids, key=lambda piece: ids[piece])])
        return cls(_wordpiece(list(order), names))


def strip_special(text: str) -> str:
    """Decoded text without padding, start and end marks and sentinels; spaces are made single."""
    return " ".join(_MARKS.sub(" ", text).split())


def _words(texts: Iterable[str]) -> Iterator[str]:
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    for text in texts:
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)):
            yield word


def _wordpiece(vocabulary: list[str], class_names: list[str]) -> Tokenizer:
    """The published components around a vocabulary (id = index)."""
    model = models.WordPiece(
        {piece: index for index, piece in enumerate(vocabulary)},
        unk_token=UNK,
        max_input_chars_per_word=100,
        continuing_subword_prefix=_PREFIX,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX, cleanup=True)
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False) for word in (PAD, UNK, SOS, EOS)]
        + [AddedToken(word, single_word=True, normalized=False) for word in (*SENTINELS, *COORDINATES)]
        + [AddedToken(name, single_word=True, normalized=True) for name in class_names]
    )
    return tokenizer
