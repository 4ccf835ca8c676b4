"""Passes of the network over canvases: guidance, and never the same pass twice (spec: generation §4)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open4m.generation.canvas import Canvas, grid_targets, stack
from open4m.model import Encoded, FourM

Weights = float | Mapping[str, float]
"""Guidance: one weight for all conditions together, or one for each of several conditions."""

_REMEMBERED = 4
"""Encoded canvases that are kept: the views of a step, and those that later targets see again."""

_DECODED_AT_ONCE = {"cpu": 1024}
"""Decoder positions of one pass: on a CPU enough to keep it busy, and few enough for small activations."""
_DECODED_ELSEWHERE = 16_384


@dataclass(frozen=True)
class Views:
    """What the passes of guidance see of one canvas, and how their logits are mixed.

    Attributes:
        canvases: the canvas alone; or first the unconditional one, then one for each weight.
        weights: () or w_i of ``l = l_u + Σ w_i (l_i − l_u)``.
    """

    canvases: tuple[Canvas, ...]
    weights: tuple[float, ...] = ()

    @classmethod
    def of(cls, canvas: Canvas, guidance: Weights, conditions: Collection[str]) -> Views:
        """Views of ``canvas``.

        A single weight contrasts it with the canvas without ``conditions``; weight 1, or no condition present, needs
        no second pass. A mapping stream → weight contrasts each of its streams alone with none of them; streams it
        does not name are visible to all. Either way what is not seen is hidden by :meth:`Canvas.unconditional`, so
        that one weight is the same as a mapping of one stream.

        The logits of several streams are added as if the streams were independent, given the rest: also with weights
        of 1 they are not those of the canvas with all of them, since what two streams both tell counts twice.
        """
        if isinstance(guidance, Mapping):
            present = [name for name in guidance if name in canvas.tracks]
            alone = [canvas.unconditional([n for n in present if n != name]) for name in present]
            if not present:
                return cls((canvas,))
            return cls((canvas.unconditional(present), *alone), tuple(float(guidance[n]) for n in present))
        if guidance == 1.0 or not any(name in canvas.tracks for name in conditions):
            return cls((canvas,))
        return cls((canvas.unconditional(conditions), canvas), (float(guidance),))

    def mix(self, logits: Sequence[Tensor] | Tensor) -> Tensor:
        """Logits (…) of each view, or (views, …) of all → (…)."""
        base = logits[0]
        mixed = base
        for weight, guided in zip(self.weights, logits[1:], strict=True):
            mixed = mixed + weight * (guided - base)
        return mixed


class Passes:
    """Encoder passes and unconditional predictions of one model, none of them made twice.

    The last few encoded canvases are remembered until :meth:`forget`: what did not change is not encoded again. What
    the decoder says of a whole grid with nothing visible depends on no input at all; it is kept for good. Both are
    forgotten when a weight of the model changes.
    """

    def __init__(self, model: FourM) -> None:
        self.model = model
        self._encoded: dict[tuple[object, ...], tuple[Canvas, Encoded]] = {}
        self._blind: dict[str, Tensor] = {}
        self._weights: tuple[object, ...] = ()

    @property
    def device(self) -> torch.device:
        """Of the model."""
        return self.model.mask_token.device

    def encode(self, canvases: Sequence[Canvas]) -> Encoded:
        """The samples of all canvases, one after the other: context (Σ B, N, D) and ``valid`` (Σ B, N).

        Those that are not remembered share a pass.
        """
        self._notice_changes()
        missing = {_content(canvas): canvas for canvas in canvases if _content(canvas) not in self._encoded}
        if missing:
            encoded = self.model.encode(stack(list(missing.values())).inputs(self.device))
            sizes = [canvas.batch for canvas in missing.values()]
            parts = zip(encoded.context.split(sizes), encoded.valid.split(sizes), strict=True)
            for (key, canvas), (context, valid) in zip(missing.items(), parts, strict=True):
                context, valid = context[:, : canvas.visible], valid[:, : canvas.visible]
                self._encoded[key] = canvas, Encoded(context, valid, context)
        found = [self._encoded[_content(canvas)][1] for canvas in canvases]
        for key in list(self._encoded)[: -max(_REMEMBERED, len(missing))]:
            del self._encoded[key]
        return _joined(found)

    def blind(self, stream: str) -> Tensor:
        """Hidden states (L, D) of all positions of a grid, decoded together with nothing visible."""
        self._notice_changes()
        if stream not in self._blind:
            positions = torch.arange(self.model.config.stream(stream).max_tokens)[None]
            nothing = Canvas(self.model.config.streams, 1)
            targets = grid_targets([(self.model.config.index(stream), positions)], self.device)
            self._blind[stream] = self.model.decode(targets, self.encode([nothing]))[0]
        return self._blind[stream]

    def forget(self) -> None:
        """Free the memory of encoded canvases, which will not be seen again."""
        self._encoded = {}

    def _notice_changes(self) -> None:
        weights = tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in self.model.parameters())
        if weights != self._weights:
            self._encoded, self._blind, self._weights = {}, {}, weights


def _content(canvas: Canvas) -> tuple[object, ...]:
    """Equal for canvases that show the same: tracks never change, and those in use here are kept alive."""
    return (canvas.batch, *(item for name, track in sorted(canvas.tracks.items()) for item in (name, id(track))))


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """The samples of all, shorter ones padded."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.valid.shape[1] for part in parts)
    pad = torch.nn.functional.pad
    context = torch.cat([pad(part.context, (0, 0, 0, width - part.valid.shape[1])) for part in parts])
    return Encoded(context, torch.cat([pad(part.valid, (0, width - part.valid.shape[1])) for part in parts]), context)


# -- grids ----------------------------------------------------------------------------------------------------------
@torch.inference_mode()
def predict(passes: Passes, views: Views, requests: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """For each grid stream its mixed logits (B, K, V) float32 at positions (B, K), in the order of ``requests``.

    One encoder pass for all, and as few decoder passes as fit in memory: exact for any number of streams, since decoder
    positions of different streams do not see each other. Logits are made when they are asked for.
    """
    for company in _companies(views, requests, passes.device):
        yield from _predict_together(passes, views, company)


def _companies(views: Views, requests: Mapping[str, Tensor], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Requests that are decoded together."""
    most, company, size = _DECODED_AT_ONCE.get(device.type, _DECODED_ELSEWHERE), {}, 0
    for name, positions in requests.items():
        added = positions.numel() * sum(canvas.visible > 0 for canvas in views.canvases)
        if company and size + added > most:
            yield company
            company, size = {}, 0
        company[name] = positions
        size += added
    if company:
        yield company


def _predict_together(passes: Passes, views: Views, requests: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    model, streams = passes.model, passes.model.config
    whole = all(positions.shape[1] == streams.stream(name).max_tokens for name, positions in requests.items())
    known = [whole and not canvas.visible for canvas in views.canvases]
    decoded = [canvas for canvas, is_known in zip(views.canvases, known, strict=True) if not is_known]
    parts: dict[str, Tensor] = {}
    if decoded:
        indexed = [(streams.index(name), positions.repeat(len(decoded), 1)) for name, positions in requests.items()]
        hidden = model.decode(grid_targets(indexed, passes.device), passes.encode(decoded))
        parts = dict(zip(requests, hidden.split([p.shape[1] for _, p in indexed], dim=1), strict=True))
    for name, positions in requests.items():
        seen = iter(parts[name].unflatten(0, (len(decoded), -1)) if decoded else ())
        states = torch.stack([passes.blind(name)[positions] if is_known else next(seen) for is_known in known])
        yield name, views.mix(model.logits(states, name).float())
