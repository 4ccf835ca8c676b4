"""Starting from a trained model: continued pre-training, also with other streams or a new tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from open4m.errors import TrainingError
from open4m.hub.bundle import Bundle
from open4m.model.transformer import FourM
from open4m.streams import StreamKind
from open4m.tokenizers.io import load_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.training.recipe import TEXT_TABLE


@torch.no_grad()
def warm_start(model: FourM, bundle: Bundle, tokenizers: str | Path, text: TextTokenizer) -> list[str]:
    """Copy the weights of a trained bundle into ``model`` wherever they mean the same.

    The trunk must be that of the bundle. What belongs to streams that the bundle lacks stays as it is initialised, and
    so do vocabulary tables whose ids mean something else here, since the tokenizer in ``tokenizers`` has another
    codebook than the bundle's. Of text tables the words that both vocabularies have are copied.

    Returns:
        The keys of ``model.state_dict()`` that were not copied, or not wholly.

    Raises:
        TrainingError: a weight of the trunk, or of a stream that both have, is missing or has another shape.
    """
    found, source = bundle.model.state_dict(), bundle.info.name
    streams = {spec.name: spec for spec in model.config.streams}
    new_streams = streams.keys() - {spec.name for spec in bundle.model.config.streams}
    words = _common_words(bundle, text)
    codebooks = {spec.table for spec in streams.values() if spec.kind is StreamKind.TOKENS}
    changed = {name for name in codebooks if not _same_codes(bundle, name, Path(tokenizers) / name)}
    fresh: list[str] = []
    for key, value in model.state_dict().items():
        owner = _owner(key)
        if owner in new_streams or owner in changed:
            fresh.append(key)
        elif owner == TEXT_TABLE and key in found and words is not None:
            here, there = words
            value[here] = found[key][there]
            if len(here) < max(len(value), len(found[key])):
                fresh.append(key)
        elif key not in found or found[key].shape != value.shape:
            theirs = tuple(found[key].shape) if key in found else "nothing"
            raise TrainingError(
                f"{source} cannot be the start of this recipe: {key} is {tuple(value.shape)} here, {theirs} there. "
                "Widths, depths, heads and the streams' sizes must be the same."
            )
        else:
            value.copy_(found[key])
    return fresh


def _owner(key: str) -> str | None:
    """The stream or vocabulary table that a weight belongs to; None for the trunk."""
    group, _, rest = key.partition(".")
    if group in ("encoder_embeddings", "decoder_embeddings", "encoder_tables", "decoder_tables", "heads"):
        return rest.partition(".")[0]
    return rest if group == "modality_embeddings" else None


def _common_words(bundle: Bundle, text: TextTokenizer) -> tuple[Tensor, Tensor] | None:
    """Ids here and ids there, (W,) each, of the words that both text vocabularies have."""
    if bundle.text is None:
        return None
    here, there = text.vocabulary, bundle.text.vocabulary
    words = sorted(here.keys() & there.keys())
    return torch.tensor([here[word] for word in words]), torch.tensor([there[word] for word in words])


def _same_codes(bundle: Bundle, name: str, folder: Path) -> bool:
    """Quantizers are stored in float32 everywhere, so equal ones are equal to the bit."""
    if name not in bundle.tokenizers:
        return False
    ours, theirs = load_tokenizer(folder).quantize.state_dict(), bundle.tokenizers[name].quantize.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
