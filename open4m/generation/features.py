"""Features: what the encoder makes of inputs, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from open4m.batch import TokenInputs
from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.canvas import Canvas
from open4m.model import FourM
from open4m.model.blocks import layer_number
from open4m.streams import StreamSpec

Pool = Literal["mean", "streams", "grid", "none"]


@dataclass(frozen=True)
class TokenFeatures:
    """Features of every visible token: B samples (no such axis for a single one), N tokens, padded.

    Attributes:
        features: (B, N, D) float32; zero for padding.
        streams: (B, N) str, name of the stream that a token belongs to; ``""`` for padding.
        positions: (B, N) int64 inside its stream: row-major grid index, or place in the sequence.
        valid: (B, N) bool, False for padding.
    """

    features: np.ndarray
    streams: np.ndarray
    positions: np.ndarray
    valid: np.ndarray


def encoder_features(model: FourM, canvas: Canvas, layers: Sequence[int], pool: Pool) -> list[Any]:
    """Features of the layers, in the order asked for.

    Args:
        model: a trained model.
        canvas: what it sees.
        layers: 0 = the embedded inputs, i = after i blocks, -1 = the output, after the final norm.
        pool: ``mean`` over everything visible: (B, D); ``streams``: the mean over each stream, by its name;
            ``grid``: a map (B, D, rows, columns) of each stream that has a grid and is visible entirely, by its name;
            ``none``: :class:`TokenFeatures`. All arrays are float32.

    Raises:
        GenerationError: no such layer, or no stream with a grid.
        UnknownNameError: no such pooling.
    """
    if pool not in _POOLS:
        raise UnknownNameError("pooling", str(pool), _POOLS)
    numbers = [layer_number(layer, model.config.encoder_depth) for layer in layers]
    with torch.inference_mode():
        inputs = canvas.inputs(model.mask_token.device)
        kept = model.encode(inputs, numbers).layers
        found = {number: _POOLS[pool](states.float(), inputs, model.config.streams) for number, states in kept.items()}
    return [found[number] for number in numbers]


def first_sample(features: Any) -> Any:
    """The same without the axis of samples, for a single one."""
    if isinstance(features, TokenFeatures):
        return TokenFeatures(*(part[0] for part in vars(features).values()))
    if isinstance(features, dict):
        return {stream: part[0] for stream, part in features.items()}
    return features[0]


# -- ways of pooling ------------------------------------------------------------------------------------------------
def _mean(states: Tensor, mask: Tensor) -> np.ndarray:
    """Mean (B, D) of states (B, N, D) where ``mask`` (B, N) is True; zero where it never is."""
    weights = mask.unsqueeze(-1).float()
    return ((states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)).cpu().numpy()


def _present(inputs: TokenInputs, streams: Sequence[StreamSpec]) -> list[tuple[StreamSpec, Tensor]]:
    """The streams that are visible in any sample, and where (B, N)."""
    masks = [(spec, inputs.valid & (inputs.stream == index)) for index, spec in enumerate(streams)]
    return [(spec, mask) for spec, mask in masks if bool(mask.any())]


def _everything(states: Tensor, inputs: TokenInputs, streams: Sequence[StreamSpec]) -> np.ndarray:
    del streams
    return _mean(states, inputs.valid)


def _by_stream(states: Tensor, inputs: TokenInputs, streams: Sequence[StreamSpec]) -> dict[str, np.ndarray]:
    return {spec.name: _mean(states, mask) for spec, mask in _present(inputs, streams)}


def _grids(states: Tensor, inputs: TokenInputs, streams: Sequence[StreamSpec]) -> dict[str, np.ndarray]:
    maps = {}
    for spec, mask in _present(inputs, streams):
        if spec.grid is not None and bool((mask.sum(dim=1) == spec.max_tokens).all()):
            rows = states[mask].view(len(states), *spec.grid, -1)  # tokens of a stream are in the order of its grid
            maps[spec.name] = rows.permute(0, 3, 1, 2).cpu().numpy()
    if not maps:
        seen = ", ".join(spec.name for spec, _ in _present(inputs, streams)) or "nothing"
        raise GenerationError(f"pool='grid' needs an input with a complete grid, such as a picture; given is {seen}.")
    return maps


def _tokens(states: Tensor, inputs: TokenInputs, streams: Sequence[StreamSpec]) -> TokenFeatures:
    valid = inputs.valid.cpu().numpy()
    names = np.array([spec.name for spec in streams] + [""])
    index = np.where(valid, inputs.stream.cpu().numpy(), len(streams))
    features = torch.where(inputs.valid.unsqueeze(-1), states, 0.0).cpu().numpy()
    return TokenFeatures(features, names[index], inputs.position.cpu().numpy(), valid)


_POOLS: dict[str, Callable[[Tensor, TokenInputs, Sequence[StreamSpec]], Any]] = {
    "mean": _everything,
    "streams": _by_stream,
    "grid": _grids,
    "none": _tokens,
}
