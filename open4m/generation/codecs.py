"""Values ↔ streams of one bundle: files and pictures in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from open4m.errors import GenerationError, UnknownNameError
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
        """Word pieces of a value; closed by [EOS] unless it is marked, or known, to go on."""
        modality = cast(TextModality[Any], get_modality(spec.modality))
        if spec.modality in _INSIDE_TEXT:
            value = _INSIDE_TEXT[spec.modality][0](value, self.tokenizer(spec))
        words = modality.to_words(value)
        ids = self.text.encode(words if isinstance(words, str) else " ".join(words))
        if any(map(self.text.is_sentinel, ids[spec.max_tokens :])):
            raise GenerationError(
                f"{spec.modality}: {len(ids)} word pieces given, {spec.name} has {spec.max_tokens}: a sentinel would "
                "be cut off. Shorten the text."
            )
        if any(map(self.text.is_sentinel, ids)):
            return ids[: spec.max_tokens]
        unfinished = spec.modality == "metadata" and len(value) < len(FIELDS)  # other fields stay open
        return [*ids, self.text.sentinel(1) if unfinished else self.text.eos][: spec.max_tokens]

    # -- ids → values -----------------------------------------------------------------------------------------------
    def value(self, spec: StreamSpec, ids: Tensor, probabilities: Tensor | None = None, seed: int = 0) -> Any:
        """The value that ``ids`` (L,) say; with ``probabilities`` (L, K) through the mean code of every position.

        ``seed`` is of the noise that a diffusion decoder starts from.
        """
        modality = get_modality(spec.modality)
        if spec.kind is StreamKind.SEQUENCE:
            words = strip_special(self.text.decode(ids.tolist()))
            value = cast(TextModality[Any], modality).from_words(words)
            if spec.modality in _INSIDE_TEXT and spec.name in self.bundle.info.stream_tokenizers:
                value = _INSIDE_TEXT[spec.modality][1](value, self.tokenizer(spec))
            return value
        return cast(DenseModality[Any], modality).from_array(self._detokenize(spec, ids, probabilities, seed))

    @torch.inference_mode()
    def _detokenize(self, spec: StreamSpec, ids: Tensor, probabilities: Tensor | None, seed: int) -> np.ndarray:
        tokenizer = self.tokenizer(spec)
        shape = spec.grid or tokenizer.config.token_shape
        sampling = Sampling(seed=seed)
        if probabilities is None:
            array = tokenizer.decode_tokens(ids.view(1, *shape).to(_device(tokenizer)), sampling)
        else:
            table = probabilities.view(1, *shape, -1).to(_device(tokenizer))
            array = tokenizer.decode_codes(tokenizer.expected_codes(table), sampling)
        return array[0].float().cpu().numpy()

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


def _device(tokenizer: Tokenizer) -> torch.device:
    return next(tokenizer.parameters()).device
