"""A tiny super-resolution system: reads what ``tiny_bundle`` makes at 32 px, predicts it at 64 px; random weights."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from tiny_bundle import PATCH, SIZE, bundle

from open4m.generation import AnyToAny
from open4m.hub.bundle import Bundle, BundleInfo
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamKind, StreamSpec

COARSE = ["rgb", "depth", "normal", "semseg", "clip"]


def fine(spec: StreamSpec) -> StreamSpec:
    rows, columns = (2 * n for n in spec.grid or (0, 0))
    name = spec.name.replace(f"@{SIZE}", f"@{2 * SIZE}")
    return replace(spec, name=name, table="", grid=(rows, columns), max_tokens=rows * columns)


@cache
def finer() -> AnyToAny:
    """Random weights that read seven modalities at 32 px and predict five at 64 px, as the published 4M-7-SR."""
    known = {s.name: s for s in bundle().model.config.streams}
    names = [f"rgb@{SIZE}", *(f"tok_{n}@{SIZE}" for n in COARSE), "caption", "det"]
    coarse = [replace(known[name], is_target=False) for name in names]
    streams = (*coarse, *(fine(known[f"tok_{n}@{SIZE}"]) for n in COARSE))
    model = FourM(ModelConfig(streams, dim=32, encoder_depth=1, decoder_depth=1, num_heads=2), seed=3)
    model.trained = True
    own = bundle().info.stream_tokenizers
    tokens = [s.name for s in streams if s.kind is StreamKind.TOKENS]
    tokenizers = {name: own[name.replace(f"@{2 * SIZE}", f"@{SIZE}")] for name in tokens}
    info = BundleInfo("finer", "random weights", SIZE, PATCH, tokenizers, "MIT", "https://example.org/mit")
    return AnyToAny(Bundle(info, model, bundle().tokenizers, bundle().text))
