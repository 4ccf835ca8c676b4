"""Agreement: whether samples show what was asked for, by the model's own reading – to keep the best of several.

A small model often overlooks a part of what is given, a field of metadata beside a caption above all. Which of several
samples follows it best can be read from them: any-to-any models predict the inputs from the outputs as well. This is
the reranking of text-to-image models (DALL-E, Ramesh et al. 2021, section 2.6, with CLIP as the judge) without another
model, and for every modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from open4m.batch import TokenTargets
from open4m.errors import GenerationError
from open4m.generation.canvas import FIRST_SPAN, Canvas
from open4m.generation.ensemble import require_one_input
from open4m.generation.plan import Plan
from open4m.generation.result import Result
from open4m.model import FourM, ModelConfig
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import SENTINEL_IDS

if TYPE_CHECKING:
    from open4m.generation.pipeline import AnyToAny

_ROWS = 16
"""Samples that are read together."""


def best_of(model: AnyToAny, result: Result) -> Result:
    """Of several samples of one input the one that agrees best with it, as a result of its own.

    >>> drawn = model.generate({"caption": "a beach", "metadata": {"brightness": 90}}, ["rgb"], samples=8)
    >>> best_of(model, drawn)["rgb"].image

    Raises:
        GenerationError: samples of different inputs; nothing given can be read from them; or all of them are alike.
    """
    count = len(result.samples)
    check_best_of(model.bundle.model.config, result.plan, count)
    require_one_input(result)
    return result.only(best_rows(agreement(model.bundle.model, result), count)[0] if count > 1 else 0)


def agreement(model: FourM, result: Result) -> dict[str, np.ndarray]:
    """How likely the model finds each input when it sees nothing but what was generated.

    Args:
        model: ``AnyToAny.bundle.model``.
        result: of it, of a plan that :func:`check_best_of` lets pass. Everything it was asked for is seen, what was
            generated on the way is not.

    Returns:
        stream of an input → (samples,) float64, nats per token (at most 0, larger is better); of a text with gaps its
        beginning, of grids what was given of them. Pictures given as pixels and text embeddings cannot be predicted and
        are left out.

    """
    plan, config = result.plan, model.config
    judged = _judged(config, plan)
    asked = {target.stream for target in plan.targets if target.modality in plan.requested}
    shown = {spec.name for spec in config.inputs if spec.name in asked}
    seen = result.canvas.without([name for name in result.canvas.tracks if name not in shown])
    for spec in judged:
        if spec.kind is StreamKind.SEQUENCE:
            seen = seen.opened(spec.name)
    found: dict[str, list[Tensor]] = {spec.name: [] for spec in judged}
    for start in range(0, seen.batch, _ROWS):
        rows = range(start, min(start + _ROWS, seen.batch))
        targets = _targets(judged, {s.name: config.index(s.name) for s in judged}, result.canvas.take(rows))
        for name, scores in _scores(model, seen.take(rows), targets).items():
            found[name].append(scores)
    return {name: torch.cat(parts).double().numpy() for name, parts in found.items()}


def check_best_of(config: ModelConfig, plan: Plan, count: int) -> None:
    """Raise :class:`GenerationError` unless the best of ``count`` samples of a plan can be told."""
    if count < 1:
        raise GenerationError(f"The best of {count} samples is asked for; expected at least 1.")
    if count == 1:
        return
    made = [target for target in plan.targets if target.modality in plan.requested]
    if not _judged(config, plan) or not any(config.stream(target.stream).is_input for target in made):
        raise GenerationError(
            "The best of several samples is the one from which the model reads what was given: of "
            f"{_list(plan.inputs)} nothing can be read from {_list(plan.requested)}. Give a caption, metadata, boxes, …"
        )
    if all(target.decode == "expected" for target in made) and not plan.chained:
        raise GenerationError(
            f"All samples of {_list(plan.requested)} are alike: the mean of what the model expects. Draw them: "
            f"--set {made[0].modality}.decode=tokens {made[0].modality}.temperature=1, or sampling_plan(plan)."
        )


def _judged(config: ModelConfig, plan: Plan) -> list[StreamSpec]:
    """The inputs of a plan that can be predicted."""
    generated = {target.stream for target in plan.targets}
    specs = [config.stream(name) for name in plan.inputs if name not in generated]
    return [spec for spec in specs if spec.is_target and spec.kind in (StreamKind.TOKENS, StreamKind.SEQUENCE)]


def best_rows(scores: Mapping[str, np.ndarray], count: int) -> list[int]:
    """Of every ``count`` samples in a row the one that agrees best: mean over the inputs; the first of equal ones."""
    means = np.mean(list(scores.values()), axis=0).reshape(-1, count)
    return [number * count + int(best) for number, best in enumerate(means.argmax(axis=1))]


def _targets(judged: Sequence[StreamSpec], index: Mapping[str, int], canvas: Canvas) -> TokenTargets:
    """Everything given, to be predicted: sequences with teacher forcing, from the sentinel that stands for them."""
    parts: list[Tensor] = []  # (6, B, n) each: stream, position, token, label, order, valid
    for spec in judged:
        track = canvas.tracks[spec.name]
        place = torch.arange(track.length).expand_as(track.ids)
        stream, zero = torch.full_like(place, index[spec.name]), torch.zeros_like(place)
        if spec.kind is StreamKind.SEQUENCE:
            gap = torch.isin(track.ids, torch.tensor(SENTINEL_IDS[1:]))
            before = torch.cat([torch.full_like(track.ids[:, :1], FIRST_SPAN), track.ids[:, :-1]], dim=1)
            valid = track.known & (gap.cumsum(dim=1) == 0)
            parts.append(torch.stack([stream, place, before, track.ids, place, valid.long()]))
        else:
            parts.append(torch.stack([stream, place, zero, track.ids, zero, track.known.long()]))
    *columns, valid = torch.cat(parts, dim=2)
    return TokenTargets(*(torch.where(valid > 0, column, 0) for column in columns), valid=valid > 0)


@torch.inference_mode()
def _scores(model: FourM, seen: Canvas, targets: TokenTargets) -> dict[str, Tensor]:
    """Stream → (B,) mean log-probability of its labels, on the CPU; 0 where it has none."""
    device = model.mask_token.device
    on_device = TokenTargets(**{name: value.to(device) for name, value in vars(targets).items()})
    hidden = model.decode(on_device, model.encode(seen.inputs(device)))
    found = {}
    for index in on_device.stream[on_device.valid].unique().tolist():
        chosen = on_device.valid & (on_device.stream == index)
        logits = model.logits(hidden[chosen], index).float().log_softmax(dim=-1)
        likely = torch.zeros(chosen.shape, device=device)
        likely[chosen] = logits.gather(1, on_device.label[chosen][:, None])[:, 0]
        found[model.config.names[index]] = (likely.sum(dim=1) / chosen.sum(dim=1).clamp(min=1)).cpu()
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
