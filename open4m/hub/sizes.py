"""How large models are: counted on the network itself, built without memory (on the meta device)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from open4m.hub.published import to_published
from open4m.model import FourM, ModelConfig
from open4m.precision import activation_dtype
from open4m.tokenizers.config import TokenizerConfig
from open4m.tokenizers.io import build_tokenizer

_EMBEDDINGS = ("modality_", "encoder_tables", "decoder_tables", "encoder_embeddings", "decoder_embeddings", "heads")
"""Parameters whose number depends on the modalities; what is left is the trunk, of which the papers tell the size."""


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        parameters: of all of it.
        trunk: without the embeddings of modalities and the output heads; of a tokenizer: the same as ``parameters``.
        stored: bytes of its file in float32.
        quantized: bytes in memory with int8 weights; None for a tokenizer, which has none.
    """

    parameters: int
    trunk: int
    stored: int
    quantized: int | None = None

    def held(self, dtype: torch.dtype) -> int:
        """Bytes in memory with weights of ``dtype``."""
        if dtype == torch.int8 and self.quantized is not None:
            return self.quantized
        return self.parameters * activation_dtype(dtype).itemsize


@cache
def model_size(config: ModelConfig, published: bool) -> Size:
    """Size of a transformer, ``stored`` with the published names and constants or with ours."""
    with torch.device("meta"):
        model = FourM(config)
        state = to_published(model.state_dict(), config) if published else model.state_dict()
    counts = {name: p.numel() for name, p in model.named_parameters()}
    trunk = sum(count for name, count in counts.items() if not name.startswith(_EMBEDDINGS))
    model.quantize()
    return Size(sum(counts.values()), trunk, bytes_of(state.values()), bytes_of(model.state_dict().values()))


def tokenizer_size(values: Mapping[str, Any], source: str) -> Size:
    """Size of a tokenizer of this configuration."""
    with torch.device("meta"):
        model = build_tokenizer(TokenizerConfig.from_dict(values, source))
    parameters = sum(p.numel() for p in model.parameters())
    return Size(parameters, parameters, bytes_of(model.state_dict().values()))


def bytes_of(tensors: Iterable[Tensor], dtype: torch.dtype | None = None) -> int:
    """Bytes of tensors, floating ones counted as ``dtype`` (None = as they are)."""
    return sum(t.numel() * (dtype if dtype and t.is_floating_point() else t.dtype).itemsize for t in tensors)
