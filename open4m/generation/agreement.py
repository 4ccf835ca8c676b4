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
from torch.nn import functional as F

from open4m.batch import TokenTargets
from open4m.errors import GenerationError
from open4m.generation.canvas import FIRST_SPAN, Canvas
from open4m.generation.ensemble import require_one_input
from open4m.generation.plan import Plan, TargetPlan
from open4m.generation.result import Result
from open4m.model import FourM, ModelConfig
from open4m.model.compiled import uncompiled
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import SENTINEL_IDS

if TYPE_CHECKING:
    from open4m.generation.pipeline import AnyToAny

_ROWS = 8
"""Samples that are read together."""

_NEARLY_SURE = 0.01
"""Temperature at and below which the likeliest id is drawn, as good as always."""


def best_of(model: AnyToAny, result: Result) -> Result:
    """Of several samples of one input the one that agrees best with it, as a result of its own.

    >>> drawn = model.generate({"caption": "a beach", "metadata": {"brightness": 90}}, ["rgb"], samples=8)
    >>> best_of(model, drawn)["rgb"].image

    Raises:
        GenerationError: samples of different inputs, or upscaled ones; nothing given can be read from them; or all of
            them are alike.
    """
    if result.super_resolution is not None:
        raise GenerationError("Choose first, then raise the resolution: finer.upscale(best_of(model, drawn)).")
    count = len(result.samples)
    check_best_of(model.bundle.model.config, result.plan, count)
    require_one_input(result)
    return result.only(best_rows(model.bundle.model, result, count)[0])


def best_rows(model: FourM, result: Result, count: int) -> list[int]:
    """Of every ``count`` samples in a row the one that agrees best; the first of equal ones."""
    best = standing(model, result, count).argmax(axis=1)
    return [number * count + int(place) for number, place in enumerate(best)]


def standing(model: FourM, result: Result, count: int) -> np.ndarray:
    """(groups, count) float64: how well each of ``count`` samples of one input agrees with it, among them.

    Inputs are made comparable – of a long text all samples are about equally likely, of a single field they are not –
    so that each has the same say: their :func:`agreement` in standard deviations, weighted mean. Weights are those of
    guidance where it weighs inputs apart, else 1; of what is to be avoided less agreement is better.
    """
    weights = _weights(result.plan)
    total, said = np.zeros((result.canvas.batch // count, count)), 0.0
    for name, scores in agreement(model, result).items():
        groups = np.nan_to_num(scores).reshape(-1, count)  # where nothing was given, it is so for all of the group
        spread = groups.std(axis=1, keepdims=True)
        total += weights.get(name, 1.0) * (groups - groups.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-9)
        said += abs(weights.get(name, 1.0))
    return total / said


def agreement(model: FourM, result: Result) -> dict[str, np.ndarray]:
    """How likely the model finds each input when it sees nothing but what was generated.

    Args:
        model: ``AnyToAny.bundle.model``.
        result: of it, of a plan that :func:`check_best_of` lets pass. Everything it was asked for is seen, what was
            generated on the way is not.

    Returns:
        stream of an input → (samples,) float64, mean log-probability in nats per token (at most 0, larger is better);
        of a text with gaps its beginning, of grids what was given of them; NaN where that is nothing. Pictures given as
        pixels and text embeddings cannot be predicted and are left out, and so is what guidance ignores (weight 0).

    Raises:
        GenerationError: nothing is given before the first gap of any text, and nothing else either.
    """
    plan, config = result.plan, model.config
    judged = _judged(config, plan)
    asked = {target.stream for target in plan.targets if target.modality in plan.requested}
    shown = {spec.name for spec in config.inputs if spec.name in asked}
    seen = result.canvas.without([name for name in result.canvas.tracks if name not in shown])
    for spec in judged:
        if spec.kind is StreamKind.SEQUENCE:
            seen = seen.opened(spec.name)
    parts = []
    for start in range(0, seen.batch, _ROWS):
        rows = range(start, min(start + _ROWS, seen.batch))
        targets = _targets(judged, [config.index(spec.name) for spec in judged], result.canvas.take(rows))
        parts.append(_scores(model, seen.take(rows), targets, [spec.name for spec in judged]))
    found = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in judged}
    if all(np.isnan(scores).all() for scores in found.values()):
        raise GenerationError(
            f"Of {_list(list(found))} nothing is given before the first gap: no sample agrees better than another."
        )
    return found


def check_best_of(config: ModelConfig, plan: Plan, count: int) -> None:
    """Raise :class:`GenerationError` unless the best of ``count`` samples of a plan can be told."""
    if count < 1:
        raise GenerationError(f"The best of {count} samples is asked for; expected at least 1.")
    if count == 1:
        return
    made = [target for target in plan.targets if target.modality in plan.requested]
    if not _judged(config, plan):
        raise GenerationError(
            "The best of several samples is the one from which the model reads what was given, and of "
            f"{_list(plan.inputs)} it can read nothing. Give a caption, metadata, boxes, a palette, …"
        )
    if not any(config.stream(target.stream).is_input for target in made):
        raise GenerationError(
            f"The best of several samples is the one from which the model reads what was given, and it cannot read "
            f"{_list(plan.requested)}."
        )
    check_samples_differ(plan)


def check_samples_differ(plan: Plan) -> None:
    """Raise :class:`GenerationError` if samples of a plan with different seeds would be alike."""
    if not any(map(_varies, plan.targets)):
        name = next(target.modality for target in plan.targets if target.modality in plan.requested)
        raise GenerationError(
            f"All samples of {_list(plan.requested)} are alike: they are what the model expects. Have them drawn: "
            f"{name}.decode=tokens {name}.temperature=1 (with --set; in Python plan.edit)."
        )


def _varies(target: TargetPlan) -> bool:
    """Whether samples with different seeds differ."""
    random_order = target.scheme == "roar" and target.steps > 1
    return target.decode == "tokens" and (target.temperature > _NEARLY_SURE or target.gumbel > 0 or random_order)


def _weights(plan: Plan) -> dict[str, float]:
    """Stream → weight where the guidance of what was asked for weighs inputs apart, ignores them or avoids them."""
    found: dict[str, float] = {}
    for target in plan.targets:
        if target.modality not in plan.requested:
            continue
        if isinstance(target.guidance, Mapping):
            found |= target.guidance
        elif target.guidance <= 0:  # of all that it contrasts; a positive one says nothing about which
            found |= dict.fromkeys(target.conditions, target.guidance)
    return found


def _judged(config: ModelConfig, plan: Plan) -> list[StreamSpec]:
    """The inputs of a plan that can be predicted, without those that are generated in part or to be ignored."""
    generated, weights = {target.stream for target in plan.targets}, _weights(plan)
    specs = [config.stream(name) for name in plan.inputs if name not in generated and weights.get(name) != 0]
    return [spec for spec in specs if spec.is_target and spec.kind in (StreamKind.TOKENS, StreamKind.SEQUENCE)]


def _targets(judged: Sequence[StreamSpec], index: Sequence[int], canvas: Canvas) -> TokenTargets:
    """Everything given, to be predicted: sequences with teacher forcing, from the sentinel that stands for them."""
    parts: list[Tensor] = []  # (6, B, n) each: stream, position, token, label, order, valid
    for spec, number in zip(judged, index, strict=True):
        track = canvas.tracks[spec.name]
        place = torch.arange(track.length).expand_as(track.ids)
        stream, zero = torch.full_like(place, number), torch.zeros_like(place)
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
def _scores(model: FourM, seen: Canvas, targets: TokenTargets, streams: Sequence[str]) -> dict[str, np.ndarray]:
    """Stream → (B,) mean log-probability of its labels; NaN where it has none."""
    device = model.mask_token.device
    on_device = TokenTargets(**{name: value.to(device) for name, value in vars(targets).items()})
    with uncompiled(model):  # every request has shapes of its own
        hidden = model.decode(on_device, model.encode(seen.inputs(device)))
    found = {}
    for name in streams:
        chosen = on_device.valid & (on_device.stream == model.config.index(name))
        likely = torch.zeros(chosen.shape, device=device)
        if bool(chosen.any()):
            logits = model.logits(hidden[chosen], name).float()
            likely[chosen] = -F.cross_entropy(logits, on_device.label[chosen], reduction="none")
        found[name] = (likely.sum(dim=1) / chosen.sum(dim=1)).double().cpu().numpy()  # 0 / 0 is NaN
    return found


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
