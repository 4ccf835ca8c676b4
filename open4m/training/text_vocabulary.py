"""Learning the word pieces of a data set's texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from open4m.data.shards import ShardDataset, finished_shards
from open4m.errors import DataError
from open4m.modalities.base import TextModality
from open4m.modalities.registry import all_modalities
from open4m.tokenizers.text import TextTokenizer

FILE = "text_tokenizer.json"
SAMPLES = 5000
GRAMMAR_WORDS = "none human pose global camera shape point polygon"
"""Words of people and instances, whose texts exist only once they are tokenized."""


def learn_text(data: str | Path, out: str | Path, vocab_size: int = 6000) -> TextTokenizer:
    """Learn word pieces from the texts of the split ``train`` and write ``out/text_tokenizer.json``.

    A file that is there already is read instead: a model depends on its ids.

    Args:
        vocab_size: most ids, 4 284 of which are special words; a small corpus fills fewer.
    """
    path = Path(out) / FILE
    if path.exists():
        return TextTokenizer.load(path)
    text = TextTokenizer.train(texts(data), vocab_size)
    text.save(path)
    return text


def texts(data: str | Path) -> Iterator[str]:
    """All texts of (at most 5 000, evenly spread) training samples: captions, boxes, metadata, palettes."""
    modalities = {
        name: modality
        for name, modality in all_modalities().items()
        if isinstance(modality, TextModality) and finished_shards(data, "train", [name])
    }
    plain = [name for name in modalities if name not in ("human_poses", "sam_instance")]
    if not plain:
        raise DataError(f"{data}: the split 'train' has no texts. Render captions first.")
    dataset = ShardDataset(data, "train", plain)
    for row in np.linspace(0, len(dataset), min(SAMPLES, len(dataset)), endpoint=False).astype(int):
        for name in plain:
            extension, content = dataset.read(int(row), name)
            for value in modalities[name].decode_all(content, f"{dataset.key(int(row))}.{extension}"):
                words = modalities[name].to_words(value)
                yield words if isinstance(words, str) else " ".join(words)
        yield GRAMMAR_WORDS  # as often as other texts, so that each becomes one piece
