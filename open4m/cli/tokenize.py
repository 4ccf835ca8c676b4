"""``open4m tokenize``: data sets into tokens, once, before pre-training."""

from __future__ import annotations

from pathlib import Path


def tokenize(
    data: Path,
    tokenizers: Path,
    splits: tuple[str, ...] = ("train", "val"),
    crops: int = 1,
    workers: int = 1,
    seed: int = 0,
) -> None:
    """Add tok_<modality> folders to a data set, in the published layout. Finished shards are kept.

    Args:
        data: root of the data set.
        tokenizers: folder of trained tokenizers.
        splits: which splits.
        crops: views per sample: the centre square, then random crops with flips.
        workers: processes over disjoint shards.
        seed: of the crops.
    """
    from open4m.training.tokenize import tokenize_dataset
    from recipes.tokenizers import TOKENIZER_OF

    for split in splits:
        tokenize_dataset(data, split, tokenizers, TOKENIZER_OF, n_crops=crops, seed=seed, workers=workers)
