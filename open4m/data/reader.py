"""Reading samples: files of a sharded data set → what the model's streams hold."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import numpy as np

from open4m.data.masking import Content, Units, to_units
from open4m.data.shards import ShardDataset
from open4m.errors import DataError
from open4m.modalities.pictures import upright_shape
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import Rgb
from open4m.modalities.view import View
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.text import TextTokenizer

CROPS = "crop_settings"
_CACHED_TEXTS = 1 << 14  # plenty for chunks of metadata; most other texts never come again


def folder_of(stream: StreamSpec) -> str:
    """The folder that a stream is read from: ``tok_depth`` for ``tok_depth@224``, ``rgb`` for ``rgb@224``."""
    return stream.name.partition("@")[0]


class SampleReader:
    """Reads samples as the model's streams see them.

    Pixels come from pictures, ids of image-like streams from ``tok_*`` folders (npy int16, one row per crop),
    sequences from the files of their modality. If the data set has ``crop_settings``, a row of it is drawn for each
    sample, and everything is seen through that crop; otherwise through the centre square. Ids of body poses and
    masks are taken from ``tok_human_poses`` and ``tok_sam_instance`` (npy int16, one row per item of the file) where
    these folders exist; they describe uncropped items, so these two modalities are absent in a crop that changes
    an item.

    Args:
        dataset: all folders that the streams need.
        streams: the streams to be read.
        text: tokenizer of the sequences.

    Raises:
        DataError: a folder is missing.
    """

    def __init__(self, dataset: ShardDataset, streams: Sequence[StreamSpec], text: TextTokenizer) -> None:
        missing = sorted({folder_of(s) for s in streams} - set(dataset.names))
        if missing:
            raise DataError(
                f"{dataset.root / dataset.split}: no folder {', '.join(missing)}, which the mixture uses. "
                "Render, label or tokenize the data first, or use a mixture without it."
            )
        self._dataset, self._text = dataset, text
        self._encode = lru_cache(_CACHED_TEXTS)(text.encode)
        pixels = [s for s in streams if s.kind is StreamKind.PIXELS and s.grid]
        self._image_size = pixels[0].patch_size * pixels[0].grid[0] if pixels and pixels[0].grid else 224

    def content(self, index: int, rng: np.random.Generator) -> Callable[[StreamSpec], Content | None]:
        """A function that reads one stream of sample ``index``; ``rng`` draws crop, caption, palette and orders."""
        return _Content(self._dataset, index, self._view(index, rng), rng, self._text, self._encode)

    def _view(self, index: int, rng: np.random.Generator) -> View:
        size = self._image_size
        original = (size, size)
        if "rgb" in self._dataset.names:
            original = upright_shape(self._dataset.read(index, "rgb")[1], _source(self._dataset, index, "rgb"), "rgb")
        if CROPS not in self._dataset.names:
            return View.centre_square(original, size)
        rows = _read_array(self._dataset, index, CROPS)
        if rows.ndim != 2 or rows.shape[1] != 5 or not len(rows):
            raise DataError(
                f"{_source(self._dataset, index, CROPS)}: shape {rows.shape}, expected one row "
                "(top, left, height, width, flip) per crop. Tokenize the data again."
            )
        crop = int(rng.integers(len(rows)))
        return View.from_row(rows[crop], size, original, crop)


@dataclass(frozen=True)
class _Content:
    """Reads the streams of one sample, seen through ``view``."""

    dataset: ShardDataset
    index: int
    view: View
    rng: np.random.Generator
    text: TextTokenizer
    encode: Callable[[str], list[int]]

    def __call__(self, spec: StreamSpec) -> Content | None:
        match spec.kind:
            case StreamKind.PIXELS:
                return self._pixels(spec)
            case StreamKind.TOKENS:
                return self._tokens(spec)
            case StreamKind.SEQUENCE:
                return self._sequence(spec)
            case StreamKind.EMBEDDING:
                return self._states(spec)

    def _pixels(self, spec: StreamSpec) -> np.ndarray:
        modality = cast(Rgb, get_modality(spec.modality))
        return modality.pixels_for_model(modality.apply(self._value(spec.modality), self.view))

    def _tokens(self, spec: StreamSpec) -> np.ndarray:
        folder = folder_of(spec)
        rows = _read_array(self.dataset, self.index, folder)
        if rows.ndim != 2 or len(rows) <= self.view.index or rows.shape[1] != spec.max_tokens:
            raise DataError(
                f"{self._source(folder)}: ids of shape {rows.shape}, expected more than {self.view.index} rows of "
                f"{spec.max_tokens}. Tokenize the data for this model."
            )
        ids = rows[self.view.index].astype(np.int64)
        if ids.min() < 0 or ids.max() >= spec.vocab_size:
            raise DataError(
                f"{self._source(folder)}: ids {ids.min()}…{ids.max()} leave 0…{spec.vocab_size - 1}. "
                "The data were tokenized with another tokenizer."
            )
        return ids

    def _sequence(self, spec: StreamSpec) -> Units | None:
        modality: Any = get_modality(spec.modality)
        value = self._value(spec.modality)
        folder = f"tok_{spec.modality}"
        if folder in self.dataset.names:
            value = modality.with_tokens(value, _read_array(self.dataset, self.index, folder))
        seen = modality.apply(value, self.view)
        if folder in self.dataset.names and not modality.has_tokens(seen):
            return None
        words = modality.to_words(seen, self.rng)
        ids = self.encode(words) if isinstance(words, str) else [self.encode(chunk) for chunk in words]
        return to_units(ids, self.text, spec.max_tokens)

    def _states(self, spec: StreamSpec) -> np.ndarray:
        states = self._value(spec.modality)
        if states.shape[1] != spec.channels:
            raise DataError(
                f"{self._source(spec.modality)}: vectors of width {states.shape[1]}, the model has {spec.channels}. "
                "Label the data with the text encoder of the model."
            )
        return states

    # -- files -------------------------------------------------------------------------------------------------
    def _value(self, folder: str) -> Any:
        """A value; one of them if the file holds several (captions, palettes)."""
        modality: Any = get_modality(folder)
        extension, data = self.dataset.read(self.index, folder)
        values = modality.decode_all(data, f"{self._source(folder)}.{extension}")
        return values[int(self.rng.integers(len(values)))]

    def _source(self, folder: str) -> str:
        return _source(self.dataset, self.index, folder)


def _source(dataset: ShardDataset, index: int, folder: str) -> str:
    """Where a file comes from, for messages."""
    return f"{dataset.root}/{dataset.split}/{folder}, sample {dataset.key(index)}"


def _read_array(dataset: ShardDataset, index: int, folder: str) -> np.ndarray:
    try:
        return decode_npy(dataset.read(index, folder)[1])
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise DataError(f"{_source(dataset, index, folder)}: not a npy file of numbers ({error}).") from error


def decode_npy(data: bytes) -> np.ndarray:
    """Bytes of a npy file of plain numbers → read-only array. Files of one folder share their header, read once."""
    end = 10 + int.from_bytes(data[8:10], "little")
    dtype, shape = _npy_header(data[:end])
    return np.frombuffer(data, dtype, offset=end).reshape(shape)


@lru_cache(1024)
def _npy_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    if header[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError("it does not begin as a npy file, version 1")
    shape, in_column_order, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header[8:]))
    if dtype.hasobject or in_column_order:
        raise ValueError("it holds objects or is in column order")
    return dtype, shape
