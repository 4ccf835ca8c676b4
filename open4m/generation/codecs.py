"""Values ↔ streams of one bundle: files and pictures in, values out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from open4m.errors import GenerationError, GenerationWarning, UnknownNameError
from open4m.generation.canvas import Canvas
from open4m.hub.bundle import Bundle
from open4m.modalities.base import DenseModality, TextModality
from open4m.modalities.metadata import FIELDS
from open4m.modalities.registry import get_modality
from open4m.modalities.rgb import Rgb
from open4m.modalities.sam_instance import Instance, merge_duplicates
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.instance_codecs import decode_instances, decode_people, encode_instances, encode_people
from open4m.tokenizers.text import TextTokenizer, strip_special


def _merged_instances(instances: Sequence[Instance], tokenizer: Tokenizer) -> list[Instance]:
    return merge_duplicates(decode_instances(instances, tokenizer))


_INSIDE_TEXT = {"human_poses": (encode_people, decode_people), "sam_instance": (encode_instances, _merged_instances)}
"""Modalities whose words carry ids of a tokenizer of their own: how the ids are made and read."""


_DECODED_TOGETHER = 8
"""Values that go through a tokenizer at once: diffusion decoders take much memory for each."""


@dataclass(frozen=True)
class Coded:
    """What is to become a value.

    Attributes:
        spec: the stream.
        ids: (L,) int64.
        probabilities: (L, K) for the value of the mean code of every position, instead of that of ``ids``.
        sampling: how a diffusion decoder draws the value, with one seed; others have nothing to draw.
    """

    spec: StreamSpec
    ids: Tensor
    probabilities: Tensor | None = None
    sampling: Sampling = field(default_factory=Sampling)


class Codecs:
    """Turns values into canvas content and generated ids into values, with the tokenizers of a bundle."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    # -- values → canvas --------------------------------------------------------------------------------------------
    def put(self, canvas: Canvas, spec: StreamSpec, values: Sequence[Any]) -> Canvas:
        """Give one value per sample, already cropped to the model's view."""
        modality = get_modality(spec.modality)
        match spec.kind:
            case StreamKind.PIXELS:
                pixels = [cast(Rgb, modality).pixels_for_model(value) for value in values]
                return canvas.with_pixels(spec.name, torch.from_numpy(np.stack(pixels)))
            case StreamKind.EMBEDDING:
                return canvas.with_vectors(spec.name, [torch.tensor(value) for value in values])
            case StreamKind.TOKENS:
                arrays = [cast(DenseModality[Any], modality).to_array(value) for value in values]
                if len({array.shape for array in arrays}) > 1:
                    shapes = ", ".join(str(array.shape) for array in arrays)
                    raise GenerationError(f"{spec.modality}: a batch needs values of one shape; given are {shapes}.")
                return canvas.with_tokens(spec.name, self._tokenize(spec, torch.from_numpy(np.stack(arrays))))
            case StreamKind.SEQUENCE:
                return canvas.with_sequences(spec.name, [self._ids(spec, value) for value in values])

    @torch.inference_mode()
    def _tokenize(self, spec: StreamSpec, x: Tensor) -> Tensor:
        tokenizer = self.tokenizer(spec)
        expected = tokenizer.config.n_channels
        if tokenizer.config.n_labels is None and x.shape[1] != expected:
            name = self.bundle.info.name
            raise GenerationError(
                f"{spec.modality}: {x.shape[1]} channels given, {name} works with {expected}. Give features of the "
                "network that it was trained on."
            )
        return tokenizer.tokenize(x.to(_device(tokenizer))).flatten(1).cpu()

    def _ids(self, spec: StreamSpec, value: Any) -> list[int]:
        """Word pieces of a value that was given; closed by [EOS] unless it is marked, or known, to go on."""
        said = self.said(spec, value)
        if len(value) and not len(said):
            raise GenerationError(
                f"{spec.modality}: all {len(value)} that are given have so low a score that they are not shown either. "
                "Give those that are meant the score 1."
            )
        ids = self.text.encode(self.words(spec, said))
        if any(map(self.text.is_sentinel, ids)):
            if len(ids) > spec.max_tokens:
                raise GenerationError(
                    f"{spec.modality}: {len(ids)} word pieces given, {spec.name} has {spec.max_tokens}. Shorten the "
                    "text: it has gaps, so none of it can be left out."
                )
            return ids
        unfinished = spec.modality == "metadata" and len(value) < len(FIELDS)  # other fields stay open
        return self._closed(spec, said, self.text.sentinel(1) if unfinished else self.text.eos, warn=True)

    def said(self, spec: StreamSpec, value: Any) -> Any:
        """What of a value is put into words, with the ids that some words need."""
        shown = cast(TextModality[Any], get_modality(spec.modality)).shown(value)
        if not self.has_ids_inside(spec):
            return shown
        return _INSIDE_TEXT[spec.modality][0](shown, self.tokenizer(spec))

    def has_ids_inside(self, spec: StreamSpec) -> bool:
        """Whether words of the stream carry ids of a tokenizer of its own."""
        return spec.modality in _INSIDE_TEXT

    def words(self, spec: StreamSpec, said: Any) -> str:
        """The words of what :meth:`said` gave, or of a part of it."""
        words = cast(TextModality[Any], get_modality(spec.modality)).to_words(said)
        return words if isinstance(words, str) else " ".join(words)

    def _closed(self, spec: StreamSpec, said: Any, closing: int, warn: bool = False) -> list[int]:
        """Word pieces of as many parts, from the first on, as fit into the stream whole, and ``closing``.

        Metadata of 20 or more fields stays without ``closing``, as models are trained on it.
        """
        is_metadata = spec.modality == "metadata"
        room, parts = spec.max_tokens - (not is_metadata), _length(said)

        def pieces(count: int) -> list[int]:
            return self.text.encode(self.words(spec, _beginning(said, count)))

        count = _most(parts, lambda n: len(pieces(n)) <= room)
        if parts and not count:
            raise GenerationError(
                f"{spec.modality}: its beginning alone is longer than {room} word pieces. Shorten it."
            )
        if warn and count < parts and not is_metadata:
            what = "words" if isinstance(said, str) else "items"
            warnings.warn(
                f"{spec.modality}: {parts} {what} are given, more than {spec.max_tokens} word pieces can say: the last "
                f"{parts - count} are left out. Give fewer, the most important first.",
                GenerationWarning,
                stacklevel=2,
            )
        return [*pieces(count), closing][: spec.max_tokens]

    # -- ids → values -----------------------------------------------------------------------------------------------
    def value(
        self, spec: StreamSpec, ids: Tensor, probabilities: Tensor | None = None, sampling: Sampling | None = None
    ) -> Any:
        """The value of :class:`Coded`."""
        return self.values([Coded(spec, ids, probabilities, sampling or Sampling())])[0]

    def values(self, coded: Sequence[Coded]) -> list[Any]:
        """The value of each; what one tokenizer reads, of whatever sample and target, goes through it together."""
        found: dict[int, Any] = {}
        batches: dict[object, list[int]] = {}
        for number, one in enumerate(coded):
            if one.spec.kind is StreamKind.SEQUENCE:
                found[number] = self._sentence(one)
            else:
                tokenizer = self.tokenizer(one.spec)
                shape, way = _token_shape(one.spec, tokenizer), replace(one.sampling, seed=0)
                batches.setdefault((id(tokenizer), shape, one.probabilities is None, way), []).append(number)
        for numbers in batches.values():
            for start in range(0, len(numbers), _DECODED_TOGETHER):
                some = numbers[start : start + _DECODED_TOGETHER]
                arrays = self._detokenize([coded[number] for number in some])
                for number, array in zip(some, arrays, strict=True):
                    modality = cast(DenseModality[Any], get_modality(coded[number].spec.modality))
                    found[number] = modality.from_array(array)
        return [found[number] for number in range(len(coded))]

    def merged(self, spec: StreamSpec, repeats: Sequence[Sequence[int]]) -> tuple[Any, list[int]]:
        """What the values of several sequences of one stream merge to, and the word pieces that say it.

        A value that is one of theirs (captions) is said as that sequence says it. Of what is merged of many parts the
        pieces hold those that are shown, the first ones where not all fit.
        """
        values = self.values([Coded(spec, torch.tensor(ids, dtype=torch.int64)) for ids in repeats])
        value = get_modality(spec.modality).merge(values).value
        for ids, one in zip(repeats, values, strict=True):
            if one is value:
                return value, list(ids)
        return value, self._closed(spec, self.said(spec, value), self.text.eos)

    def _sentence(self, one: Coded) -> Any:
        modality, spec = cast(TextModality[Any], get_modality(one.spec.modality)), one.spec
        value = modality.from_words(strip_special(self.text.decode(one.ids.tolist())))
        if spec.modality in _INSIDE_TEXT and spec.name in self.bundle.info.stream_tokenizers:
            value = _INSIDE_TEXT[spec.modality][1](value, self.tokenizer(spec))
        return value

    @torch.inference_mode()
    def _detokenize(self, coded: Sequence[Coded]) -> np.ndarray:
        """Arrays (B, C, H, W) of grids that one tokenizer reads in one way, all with probabilities or all without."""
        tokenizer = self.tokenizer(coded[0].spec)
        shape, device = _token_shape(coded[0].spec, tokenizer), _device(tokenizer)
        sampling = replace(coded[0].sampling, seed=[one.sampling.seed for one in coded])
        tables = [one.probabilities.view(*shape, -1) for one in coded if one.probabilities is not None]
        if tables:
            array = tokenizer.decode_codes(tokenizer.expected_codes(torch.stack(tables).to(device)), sampling)
        else:
            array = tokenizer.decode_tokens(torch.stack([one.ids.view(shape) for one in coded]).to(device), sampling)
        return array.float().cpu().numpy()

    # -- tokenizers -------------------------------------------------------------------------------------------------
    @property
    def text(self) -> TextTokenizer:
        """The text tokenizer, or an error that says that it is missing."""
        if self.bundle.text is None:
            raise GenerationError(
                f"{self.bundle.info.name} has no text tokenizer, so words can be neither read nor written. Put the "
                "text_tokenizer.json it was trained with into its folder."
            )
        return self.bundle.text

    def tokenizer(self, spec: StreamSpec) -> Tokenizer:
        """The tokenizer of a stream, or an error that says that it is missing."""
        try:
            return self.bundle.tokenizer(spec.name)
        except UnknownNameError as error:
            raise GenerationError(
                f"{self.bundle.info.name} has no tokenizer for {spec.modality} ({spec.name}), so its values can be "
                "neither read nor shown; its tokens can."
            ) from error


def _length(said: Any) -> int:
    """Number of parts of a value: words of a text, else its elements or fields."""
    return len(said.split() if isinstance(said, str) else said)


def _beginning(said: Any, count: int) -> Any:
    """The first ``count`` parts."""
    if isinstance(said, str):
        return " ".join(said.split()[:count])
    return dict(list(said.items())[:count]) if isinstance(said, dict) else said[:count]


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """``count`` if it fits; else a smaller number that does while the next does not, or 0."""
    if fits(count):
        return count
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _token_shape(spec: StreamSpec, tokenizer: Tokenizer) -> tuple[int, ...]:
    return spec.grid or tokenizer.config.token_shape


def _device(tokenizer: Tokenizer) -> torch.device:
    return next(tokenizer.parameters()).device
