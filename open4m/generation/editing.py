"""Going on from a result: what is kept, what is changed, and what is opened to be drawn anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.codecs import Codecs
from open4m.generation.defaults import modalities
from open4m.generation.inputs import Given, InputReader, Tokens
from open4m.generation.masks import Mask, Masked, hidden_cells, read_mask, same_proportions, seen_mask, wrong_size
from open4m.generation.result import Result
from open4m.modalities.base import TextModality
from open4m.modalities.registry import get_modality
from open4m.modalities.view import View
from open4m.streams import StreamKind, StreamSpec

Region = Mask | Sequence[str] | Sequence[int]
"""What of a result is to be drawn anew: a mask of a grid, fields of metadata, or indices of boxes or people."""

_IN_LISTS = ("det", "human_poses")
"""Lists whose words are those of their items, one after the other."""


def carried_over(
    reader: InputReader,
    result: Result,
    changes: Mapping[str, Any],
    targets: Collection[str],
    keep: Sequence[str] | None,
) -> Given:
    """The inputs of an edit: ``changes`` and, of the result, what is kept.

    Args:
        changes: modality → new value; a batch, or one for all samples of the result.
        targets: what will be generated anew.
        keep: modalities of the result; None = those that were given and are neither changed nor generated.

    Raises:
        UnknownNameError: something is kept that the result does not have.
        GenerationError: something is kept and changed, or kept and generated.
    """
    held = _held(result)
    if keep is None:
        given = {result.canvas.spec(name).modality for name in result.plan.inputs}
        keep = [name for name in held if name in given and name not in targets and name not in changes]
    for name in keep:
        if name not in held:
            raise UnknownNameError("part of the result to keep", name, held)
        if name in changes or name in targets:
            also = "changed" if name in changes else "generated anew"
            raise GenerationError(f"{name} is to be kept and to be {also}. Decide for one of the two.")
    before = result.given
    originals = [None if box is None else box.original for box in before.letterboxes]
    size = result.canvas.batch
    read = reader.read(changes, size, fit=result.fit, originals=originals)
    tracks = {**read.canvas.tracks, **{held[name].name: result.canvas.tracks[held[name].name] for name in keep}}
    canvas = replace(result.canvas, tracks={s.name: tracks[s.name] for s in result.canvas.streams if s.name in tracks})
    pictures = before.pictures if "rgb" in keep else read.pictures
    return Given(canvas, pictures, before.letterboxes, before.batched)


def opened(codecs: Codecs, result: Result, regions: Mapping[str, Region]) -> dict[str, list[Any]]:
    """``regions`` of a result as changes: modality → one partly open value per sample.

    Raises:
        UnknownNameError, GenerationError, ModalityError: the result has no such part, or it has no such region.
    """
    held = _held(result)
    found: dict[str, list[Any]] = {}
    for name, region in regions.items():
        if name not in held:
            raise UnknownNameError("part of the result to draw anew", name, held)
        rows = range(result.canvas.batch)
        if held[name].grid is not None:
            found[name] = [_grid(result, held[name], region, row) for row in rows]
        else:
            found[name] = [_parts(codecs, result, held[name], region, row) for row in rows]
    return found


def all_but(result: Result, changed: Collection[str]) -> list[str]:
    """What a result holds beside ``changed``."""
    return [name for name in _held(result) if name not in changed]


def _held(result: Result) -> dict[str, StreamSpec]:
    """Modality → stream of what was given or generated and can be given."""
    specs = [spec for spec in result.canvas.streams if spec.name in result.canvas.tracks and spec.is_input]
    return {name: next(s for s in specs if s.modality == name) for name in modalities(specs)}


def _grid(result: Result, spec: StreamSpec, region: Region, row: int) -> Tokens | Masked:
    """Tokens of a grid, known where ``region`` is not; of a picture that was given as pixels, the picture."""
    if not isinstance(region, Mask):
        raise GenerationError(f"{spec.modality}: draw it anew in a mask of its picture, not in {region!r}.")
    assert spec.grid is not None
    mask, letterbox, side = read_mask(region, spec.modality), result.given.letterboxes[row], spec.resolution or 1
    view = View.full((side, side)) if letterbox is None else letterbox
    if not same_proportions((mask.shape[0], mask.shape[1]), view.original):
        raise wrong_size(spec.modality, mask, view)
    seen = seen_mask(mask, view)
    cells = hidden_cells(seen, spec.grid)
    if not cells.any():
        raise GenerationError(f"{spec.modality}: the mask is empty, so all of it is fixed. White is drawn anew.")
    picture = result.given.pictures[row]
    if spec.kind is StreamKind.PIXELS:
        assert picture is not None
        bars = ~view.filled((side, side)) if letterbox is not None else False
        return Masked(np.asarray(picture), seen | bars)
    track = result.canvas.tracks[spec.name]
    return Tokens(track.ids[row], track.known[row] & ~torch.from_numpy(cells.ravel()))


def _parts(codecs: Codecs, result: Result, spec: StreamSpec, region: Region, row: int) -> Tokens:
    """The word pieces of a value in parts, with sentinels in the places of those that are opened."""
    name, text = spec.modality, codecs.text
    if not isinstance(region, list | tuple) or not region or not (name == "metadata" or name in _IN_LISTS):
        raise GenerationError(
            f"{name}: expected a mask (grids), names of fields (metadata) or indices (det, human_poses). Change a text "
            "by giving it anew with [S_1] in the place of what is missing."
        )
    parts = _whole_parts(codecs, spec, result.canvas.sequence(spec.name, row))
    if name == "metadata":
        known = [field for _, value in parts for field in value]
        for field in region:
            if field not in known:
                raise UnknownNameError("field in the result's metadata", str(field), known)
        kept = [ids for ids, value in parts if not any(field in region for field in value)]
        return Tokens([*(i for ids in kept for i in ids), text.sentinel(1)])
    numbers, count = _numbers(codecs, result, spec, row, [ids for ids, _ in parts])
    for index in region:
        if not isinstance(index, int) or not 0 <= index < count:
            raise GenerationError(f"{name}: sample {row} has no item {index!r}, but {count}, counted from 0.")
        if index not in numbers:
            raise GenerationError(
                f"{name}: the model does not see item {index} of sample {row}: few of the repeats show it, or there is "
                f"no room for it. Those that can be drawn anew are {sorted(n for n in numbers if n is not None)}."
            )
    sequence, gaps = [], 0
    for is_open, run in groupby(zip(numbers, parts, strict=True), key=lambda numbered: numbered[0] in region):
        gaps += is_open
        sequence += [text.sentinel(gaps)] if is_open else [i for _, (ids, _) in run for i in ids]
    return Tokens([*sequence, text.eos])


def _whole_parts(codecs: Codecs, spec: StreamSpec, sequence: Sequence[int]) -> list[tuple[list[int], Any]]:
    """The word pieces of every part of a sequence, in its order, and their value; malformed ones are left out."""
    modality, text = get_modality(spec.modality), codecs.text
    assert isinstance(modality, TextModality)
    runs: list[list[int]] = []
    for token in sequence:
        if modality.begins_part(text.decode([token])):
            runs.append([])
        if runs and token != text.eos and not text.is_sentinel(token):
            runs[-1].append(token)
    values = [codecs.value(spec, torch.tensor(run)) for run in runs]
    return [(run, value) for run, value in zip(runs, values, strict=True) if len(value)]


def _numbers(
    codecs: Codecs, result: Result, spec: StreamSpec, row: int, parts: Sequence[Sequence[int]]
) -> tuple[list[int | None], int]:
    """Where in the list that users hold each part of a sequence is, and the length of this list.

    What was generated is the list of the item's value: without what lies in the bars of a letterbox (None), and where
    repeats were merged, in another order than in words. What was given is numbered as in words.
    """
    if not any(target.modality == spec.modality for target in result.plan.targets):
        return list(range(len(parts))), len(parts)
    item, modality = result.samples[row][spec.modality], get_modality(spec.modality)
    assert isinstance(modality, TextModality)
    numbers: list[int | None] = list(range(len(parts)))
    if item.repeats:
        shown = [number for number, one in enumerate(item.square) if modality.shown([one])]
        spelled = [tuple(codecs.text.encode(codecs.words(spec, [one]))) for one in codecs.said(spec, item.square)]
        left: list[tuple[tuple[int, ...], int | None]] = list(zip(spelled, shown, strict=True))
        numbers = [
            next((left.pop(i)[1] for i, (ids, _) in enumerate(left) if ids == tuple(part)), None) for part in parts
        ]
    inside = [number for number, one in enumerate(item.square) if item.in_picture([one])]
    return [inside.index(number) if number in inside else None for number in numbers], len(inside)
