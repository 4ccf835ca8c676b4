"""Results on disk: the plan and the seeds as JSON, everything given and generated as tokens.

They are enough to generate the same again bit by bit, or to go on from a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from open4m.errors import GenerationError
from open4m.files import atomic_path, read_json
from open4m.generation.canvas import Canvas
from open4m.generation.engine import Outcome
from open4m.generation.inputs import Given
from open4m.generation.plan import Plan
from open4m.modalities.view import Fit, View
from open4m.streams import StreamKind, StreamSpec
from open4m.weights import read_weights

PLAN_FILE, TOKENS_FILE = "plan.json", "tokens.safetensors"
_GIVEN, _MADE, _REPEATED, _PICTURES = "given", "made", "repeated", "pictures"


class Recorded(Protocol):
    """What a record is made of: a :class:`~open4m.generation.result.Result`."""

    plan: Plan
    super_resolution: Plan | None
    seeds: tuple[int, ...]
    fit: Fit
    given: Given


@dataclass(frozen=True)
class Record:
    """How results were made: ``plan.json`` in their folder. See :class:`~open4m.generation.result.Result`."""

    plan: Plan
    seeds: tuple[int, ...]
    fit: Fit
    batched: bool
    letterboxes: tuple[View | None, ...]
    super_resolution: Plan | None = None

    @classmethod
    def of(cls, result: Recorded) -> Record:
        """That of a result."""
        given = result.given
        letterboxes = tuple(given.letterboxes)
        return cls(result.plan, result.seeds, result.fit, given.batched, letterboxes, result.super_resolution)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """That in a folder of results; :class:`GenerationError` if there is none, or it is damaged."""
        values, path = _read(folder / PLAN_FILE), folder / PLAN_FILE
        try:
            finer = values.get("super_resolution")
            return cls(
                Plan.from_dict(values["plan"]),
                tuple(int(seed) for seed in values["seeds"]),
                "letterbox" if values["fit"] == "letterbox" else "crop",
                bool(values["batched"]),
                tuple(None if box is None else _view(box) for box in values["letterboxes"]),
                None if finer is None else Plan.from_dict(finer),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise GenerationError(
                f"{path}: not a complete record of results ({error!r}). Generate them again with this version."
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        values = {"plan": self.plan.to_dict(), "seeds": list(self.seeds), "fit": self.fit, "batched": self.batched}
        values["letterboxes"] = [None if box is None else asdict(box) for box in self.letterboxes]
        if self.super_resolution is not None:
            values["super_resolution"] = self.super_resolution.to_dict()
        return values


def read_plan(path: Path) -> Plan:
    """The plan in a ``plan.json`` of results, or in what ``open4m generate --plan --json`` prints.

    Raises:
        GenerationError: there is no such file, or it holds no plan.
    """
    values = _read(path / PLAN_FILE if path.is_dir() else path)
    if "plan" not in values:
        raise GenerationError(f"{path}: there is no plan in it. Make one with open4m generate … --plan --json.")
    return Plan.from_dict(values["plan"])


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise GenerationError(f"{path}: there is no such file. Give a folder that open4m generate has written.")
    try:
        values = read_json(path)
    except ValueError as error:
        raise GenerationError(f"{path}: not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise GenerationError(f"{path}: expected an object, found {type(values).__name__}.")
    return values


def _view(values: Mapping[str, Any]) -> View:
    return View(**{**values, "size": tuple(values["size"]), "original": tuple(values["original"])})


# -- tokens -----------------------------------------------------------------------------------------------------------
def write_tokens(path: Path, given: Given, outcome: Outcome) -> None:
    """Write everything given and generated as safetensors, atomically."""
    tensors = _tensors(_GIVEN, given.canvas)
    made = {name: track for name, track in outcome.canvas.tracks.items() if track is not given.canvas.tracks.get(name)}
    tensors |= _tensors(_MADE, replace(outcome.canvas, tracks=made))
    for name, rows in outcome.repeated.items():
        for row, repeats in enumerate(rows):
            for number, ids in enumerate(repeats):
                tensors[_repeat_key(name, row, number)] = torch.tensor(ids, dtype=torch.int64)
    if all(picture is not None for picture in given.pictures):
        tensors[_PICTURES] = torch.from_numpy(np.stack([np.asarray(picture) for picture in given.pictures]))
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(own, temporary)  # which refuses tensors that share memory


def _repeat_key(stream: str, row: int, number: int) -> str:
    return f"{_REPEATED}/{stream}/{row}/{number}"


def _tensors(prefix: str, canvas: Canvas) -> dict[str, Tensor]:
    found = {}
    for name, track in canvas.tracks.items():
        found |= {f"{prefix}/{name}/ids": track.ids, f"{prefix}/{name}/known": track.known}
        if track.dense is not None:
            found[f"{prefix}/{name}/dense"] = track.dense
    return found


def read_tokens(folder: Path, record: Record, streams: Sequence[StreamSpec]) -> tuple[Given, Outcome]:
    """Inverse of :func:`write_tokens`, but for the probabilities, which are not kept.

    Raises:
        CheckpointError: the file is missing or damaged.
        GenerationError: it belongs to another model, or not to the record.
    """
    path = folder / TOKENS_FILE
    tensors = read_weights(path)
    canvas = Canvas(tuple(streams), len(record.seeds))
    given = _with_tracks(canvas, _GIVEN, tensors, path)
    outcome = Outcome(_with_tracks(given, _MADE, tensors, path))
    for target in record.plan.targets:
        keys = [[_repeat_key(target.stream, row, i) for i in range(target.repeats)] for row in range(canvas.batch)]
        if target.repeats > 1 and tensors.keys() >= {key for row in keys for key in row}:
            outcome.repeated[target.stream] = [[tensors[key].tolist() for key in row] for row in keys]
    pictures = tensors.get(_PICTURES)
    shown: list[Image.Image | None] = [None] * canvas.batch
    if pictures is not None:
        shown = [Image.fromarray(picture.numpy()) for picture in pictures]
    made = {target.stream for target in record.plan.targets} <= outcome.canvas.tracks.keys()
    if tuple(given.tracks) != record.plan.inputs or not made or len(record.letterboxes) != canvas.batch:
        raise GenerationError(f"{path}: the tokens do not belong to {PLAN_FILE} beside it. Generate both again.")
    return Given(given, shown, list(record.letterboxes), record.batched), outcome


def _with_tracks(canvas: Canvas, prefix: str, tensors: Mapping[str, Tensor], path: Path) -> Canvas:
    names = [key.split("/")[1] for key in tensors if key.startswith(f"{prefix}/") and key.endswith("/known")]
    for spec in [s for s in canvas.streams if s.name in names]:
        try:
            canvas = _with_track(canvas, spec, tensors, f"{prefix}/{spec.name}")
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise GenerationError(f"{path}: {spec.name} is damaged ({error!r}). Generate the results again.") from error
    return canvas


def _with_track(canvas: Canvas, spec: StreamSpec, tensors: Mapping[str, Tensor], key: str) -> Canvas:
    known = tensors[f"{key}/known"]
    match spec.kind:
        case StreamKind.TOKENS:
            return canvas.with_tokens(spec.name, tensors[f"{key}/ids"], known)
        case StreamKind.SEQUENCE:
            rows = zip(tensors[f"{key}/ids"], known, strict=True)
            return canvas.with_sequences(spec.name, [ids[seen].tolist() for ids, seen in rows])
        case StreamKind.PIXELS:
            return canvas.with_pixels(spec.name, tensors[f"{key}/dense"]).limited(spec.name, known)
        case StreamKind.EMBEDDING:
            rows = zip(tensors[f"{key}/dense"], known, strict=True)
            return canvas.with_vectors(spec.name, [vectors[seen] for vectors, seen in rows])
