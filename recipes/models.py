"""Model sizes by their published names (4M, table of model sizes; 4M-21, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from open4m.model.config import ModelConfig
from open4m.model.sizes import MODEL_SIZES, named_size
from open4m.streams import StreamSpec

__all__ = ["MODEL_SIZES", "model_config"]


def model_config(size: str, streams: Iterable[StreamSpec], **changes: Any) -> ModelConfig:
    """The config called ``size`` over ``streams``; ``changes`` replace single entries. Unknown names are refused."""
    return ModelConfig(streams=tuple(streams), **(named_size(size) | changes))
