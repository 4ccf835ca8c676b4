"""Inputs: from whatever users give – files, pictures, values, ids – to a canvas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.errors import GenerationError, ModalityError
from open4m.generation.canvas import Canvas
from open4m.generation.codecs import Codecs
from open4m.generation.defaults import input_stream, names
from open4m.generation.masks import Masked, cover, hidden_cells, read_mask, same_proportions, seen_mask, wrong_size
from open4m.hub.bundle import Bundle
from open4m.modalities.base import Modality
from open4m.modalities.features import FeatureMap
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import Rgb
from open4m.modalities.view import Fit, View
from open4m.streams import StreamKind, StreamSpec


@dataclass(frozen=True, eq=False)
class Tokens:
    """Ids given instead of a value, such as ``result["depth"].tokens`` of an earlier run.

    Attributes:
        ids: (L,) integers.
        known: (L,) bool; positions that are False are generated if the modality is asked for. None = all known.
            For grids; in a sequence a sentinel id stands where something is missing.
    """

    ids: Tensor | np.ndarray | Sequence[int]
    known: Tensor | np.ndarray | Sequence[bool] | None = None


@dataclass(frozen=True)
class Given:
    """Inputs on a canvas.

    Attributes:
        canvas: their content, as the encoder takes it.
        pictures: per sample the given RGB picture as the model sees it, to draw over, or None.
        letterboxes: per sample the view that brought its inputs between bars; None where they were cropped.
        batched: whether a batch (or several variations) was asked for, rather than one sample.
    """

    canvas: Canvas
    pictures: list[Image.Image | None]
    letterboxes: list[View | None]
    batched: bool

    def only(self, row: int) -> Given:
        """The inputs of one sample."""
        return Given(self.canvas.take([row]), [self.pictures[row]], [self.letterboxes[row]], batched=False)


class InputReader:
    """Reads inputs for one bundle: one view (a square at the model's size) for all modalities of a sample."""

    def __init__(self, bundle: Bundle, codecs: Codecs) -> None:
        self.bundle = bundle
        self.codecs = codecs

    def read(
        self,
        inputs: Mapping[str, Any],
        samples: int | None = None,
        kinds: Mapping[str, StreamKind] | None = None,
        fit: Fit = "crop",
        originals: Sequence[tuple[int, int] | None] = (None,),
    ) -> Given:
        """Read, check, crop and tokenize inputs.

        Args:
            inputs: see :class:`~open4m.generation.pipeline.AnyToAny`.
            samples: how often a single sample is repeated.
            kinds: modality → kind of stream it is to be given through, where there is a choice.
            fit: how pictures of any shape become squares.
            originals: per sample, or for all of them, the size of the picture that values without a size of their own
                belong to; None = it is square.

        Raises:
            UnknownNameError, GenerationError, ModalityError: see there.
        """
        config = self.bundle.model.config
        named = {name: self._stream(name, value, (kinds or {}).get(name)) for name, value in inputs.items()}
        streams = list(named.values())
        if len(set(streams)) < len(streams):
            raise GenerationError(f"One stream is given twice: {', '.join(named)}. Leave out one of them.")
        lists = {named[n]: _as_list(named[n].modality, v) for n, v in inputs.items()}
        batched = samples is not None or any(_is_batch(named[n].modality, v) for n, v in inputs.items())
        size = _batch_size({spec.name: len(v) for spec, v in lists.items()}, samples)
        columns = {spec: v * size if len(v) == 1 else v for spec, v in lists.items()}
        pictured = list(originals) * size if len(originals) == 1 else originals
        seen = [
            self._sample({spec: column[i] for spec, column in columns.items()}, i if batched else None, fit, picture)
            for i, picture in enumerate(pictured)
        ]
        rows = [values for values, _ in seen]
        canvas = Canvas(config.streams, size)
        for spec in sorted(columns, key=lambda s: config.index(s.name)):
            canvas = self._put(canvas, spec, [row[spec] for row in rows])
            if fit == "letterbox" and spec.grid:  # bars are hidden, not black: models know hidden patches, but no bars
                shown = np.stack([_shown(spec, values[spec], view) for values, view in seen])
                canvas = canvas.limited(spec.name, torch.from_numpy(shown))
        pictures = [next((Image.fromarray(v) for s, v in row.items() if _is_picture(s, v)), None) for row in rows]
        letterboxes = [view if fit == "letterbox" else None for _, view in seen]
        return Given(canvas, pictures, letterboxes, batched)

    def view(self, values: Mapping[str, Any], fit: Fit) -> dict[str, Any]:
        """See :meth:`~open4m.generation.pipeline.AnyToAny.view`."""
        config = self.bundle.model.config
        found = {name: next((s for s in config.streams if name in names(s)), None) for name in values}
        specs = {name: spec or input_stream(config, name) for name, spec in found.items()}  # which raises for unknown
        seen, _ = self._sample({specs[name]: value for name, value in values.items()}, None, fit, None)
        return {spec.modality: _uncovered(value) for spec, value in seen.items()}

    def _stream(self, name: str, value: Any, kind: StreamKind | None) -> StreamSpec:
        first = value[0] if isinstance(value, list) and value else value
        wanted = StreamKind.TOKENS if isinstance(first, Tokens | Masked) and kind is None else kind
        config = self.bundle.model.config
        spec = input_stream(config, name)
        return input_stream(config, name, wanted) if spec.kind is StreamKind.PIXELS and wanted else spec

    def _sample(
        self, values: Mapping[StreamSpec, Any], row: int | None, fit: Fit, original: tuple[int, int] | None
    ) -> tuple[dict[StreamSpec, Any], View]:
        """Values of one sample: read, checked, brought by one view to a square at the model's size; and that view.

        Of what is :class:`Masked` the hidden part is covered, its mask (size, size) bool.
        """
        if fit not in get_args(Fit):
            raise GenerationError(f"fit is {fit!r}; known are {', '.join(get_args(Fit))}.")
        size = self.bundle.info.image_size
        index = "" if row is None else f"[{row}]"
        read = {
            spec: _load(get_modality(spec.modality), _uncovered(value), f"{spec.modality}{index}")
            for spec, value in values.items()
        }
        view = View.fitted(_original_size(read) or original or (size, size), size, fit)
        seen = {
            spec: value if _is_cropped(spec, value) else get_modality(spec.modality).apply(value, view)
            for spec, value in read.items()
        }
        masked = {spec: _covered(spec, seen[spec], v, view) for spec, v in values.items() if isinstance(v, Masked)}
        return {**seen, **masked}, view

    def _put(self, canvas: Canvas, spec: StreamSpec, values: list[Any]) -> Canvas:
        tokens = [value for value in values if isinstance(value, Tokens)]
        if not tokens:
            canvas = self.codecs.put(canvas, spec, [_uncovered(value) for value in values])
            if not any(isinstance(value, Masked) for value in values):
                return canvas
            return canvas.limited(spec.name, torch.from_numpy(np.stack([_visible(spec, value) for value in values])))
        if len(tokens) < len(values):
            raise GenerationError(f"{spec.modality}: give tokens for all samples of a batch, or for none.")
        if spec.kind is StreamKind.SEQUENCE:
            return canvas.with_sequences(spec.name, [_sequence(spec, t) for t in tokens])
        ids = _stack(spec, [_integers(t.ids) for t in tokens])
        known = _stack(spec, [_known(t) for t in tokens])
        return canvas.with_tokens(spec.name, ids, known)


def _is_batch(modality: str, value: Any) -> bool:
    """Whether a value is a list of values; for modalities that are lists themselves: a list of lists or paths."""
    if not isinstance(value, list):
        return False
    if not get_modality(modality).value_is_list:
        return True
    return bool(value) and all(isinstance(v, list | str | Path | Tokens) for v in value)


def _uncovered(value: Any) -> Any:
    return value.value if isinstance(value, Masked) else value


def _covered(spec: StreamSpec, value: Any, given: Masked, view: View) -> Masked:
    """A value as the model sees it, without what its mask hides."""
    name, mask = spec.modality, read_mask(given.hidden, spec.modality)
    if spec.grid is None or isinstance(value, Tokens):
        raise GenerationError(
            f"{name}: masks are for pictures and grids. In a text write [S_1] in the place of what is missing, leave "
            "out boxes or fields; of tokens say which are 'known'."
        )
    shape = (mask.shape[0], mask.shape[1])
    if not same_proportions(shape, view.original):
        raise wrong_size(name, mask, view)
    hidden = seen_mask(mask, view)
    if hidden_cells(hidden, spec.grid).all():
        raise GenerationError(f"{name}: the mask hides all of it. Leave {name} out of what is given.")
    last = _is_feature_map(spec)  # its channels come first
    rows = np.moveaxis(value, 0, -1) if last else value
    rows = cover(rows, hidden_cells(hidden, rows.shape[:2]))
    return Masked(np.moveaxis(rows, -1, 0) if last else rows, hidden)


def _visible(spec: StreamSpec, value: Any) -> np.ndarray:
    """(L,) bool: positions of a grid that no mask touches."""
    assert spec.grid is not None
    if isinstance(value, Masked):
        return ~hidden_cells(np.asarray(value.hidden), spec.grid).ravel()
    return np.ones(spec.max_tokens, dtype=bool)


def _as_list(modality: str, value: Any) -> list[Any]:
    return value if _is_batch(modality, value) else [value]


def _batch_size(lengths: Mapping[str, int], samples: int | None) -> int:
    """Number of samples; single values serve all of them."""
    several = {name: n for name, n in lengths.items() if n != 1}
    if len(set(several.values())) > 1 or 0 in several.values():
        counts = ", ".join(f"{name} {n}" for name, n in several.items())
        raise GenerationError(f"Batches of unequal or no length are given: {counts}. Give one value per sample.")
    size = next(iter(several.values()), 1)
    if samples is not None and (samples < 1 or size not in (1, samples)):
        raise GenerationError(f"samples={samples} does not fit inputs for {size} samples.")
    return samples or size


def _load(modality: Modality[Any], value: Any, source: str) -> Any:
    """A value from whatever the user gave, validated; :class:`Tokens` pass."""
    if isinstance(value, Tokens):
        return value
    if isinstance(value, Path) or (isinstance(value, str) and modality.name != "caption"):
        return modality.read(value)
    if isinstance(modality, Rgb):
        return modality.coerce(value)
    if isinstance(value, Image.Image):
        raise ModalityError(
            modality.name, source, "found a PIL picture.", "Give its file, or the value that the card describes."
        )
    modality.validate(value, source)
    return value


def _is_picture(spec: StreamSpec, value: Any) -> bool:
    return spec.modality == "rgb" and isinstance(value, np.ndarray)


def _original_size(values: Mapping[StreamSpec, Any]) -> tuple[int, int] | None:
    """(rows, columns) of the picture that all values belong to: that of rgb, else of the first picture-like value.

    Raises :class:`GenerationError` if picture-like values have different proportions.
    """
    sizes = {
        spec.modality: value.shape[:2]
        for spec, value in values.items()
        if isinstance(value, np.ndarray) and spec.grid is not None and not _is_feature_map(spec)
    }
    if not sizes:
        return None
    first = "rgb" if "rgb" in sizes else next(iter(sizes))
    rows, columns = sizes[first]
    for name, (r, c) in sizes.items():
        if not same_proportions((r, c), (rows, columns)):
            raise GenerationError(
                f"{name} has {r} × {c} pixels and {first} {rows} × {columns}: they do not show the same picture. "
                "Give both uncropped, or crop both alike."
            )
    return rows, columns


def _is_feature_map(spec: StreamSpec) -> bool:
    return isinstance(get_modality(spec.modality), FeatureMap)


def _is_cropped(spec: StreamSpec, value: Any) -> bool:
    """Whether a value shows the model's view already: ids, and feature maps on the model's own grid."""
    return isinstance(value, Tokens) or (_is_feature_map(spec) and _uncovered(value).shape[1:] == spec.grid)


def _shown(spec: StreamSpec, value: Any, view: View) -> np.ndarray:
    """(L,) bool: the positions of a grid that show something of the picture."""
    assert spec.grid is not None
    if _is_cropped(spec, value):
        return np.ones(spec.max_tokens, dtype=bool)
    return view.filled(spec.grid).ravel()


def _integers(ids: Any) -> Tensor:
    return torch.tensor(np.asarray(ids), dtype=torch.int64).flatten()


def _known(tokens: Tokens) -> Tensor:
    ids = _integers(tokens.ids)
    if tokens.known is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return torch.tensor(np.asarray(tokens.known), dtype=torch.bool).flatten()


def _sequence(spec: StreamSpec, tokens: Tokens) -> list[int]:
    ids = _integers(tokens.ids).tolist()
    if not bool(_known(tokens).all()):
        raise GenerationError(
            f"{spec.modality}: 'known' is for grids. In a sequence put the id of [S_1] in the place of what is unknown."
        )
    if len(ids) > spec.max_tokens:
        raise GenerationError(f"{spec.modality}: {len(ids)} tokens given, {spec.name} has {spec.max_tokens}.")
    return ids


def _stack(spec: StreamSpec, rows: list[Tensor]) -> Tensor:
    for row in rows:
        if len(row) != spec.max_tokens:
            raise GenerationError(f"{spec.modality}: {len(row)} tokens given, {spec.name} has {spec.max_tokens}.")
    return torch.stack(rows)
