"""Global embeddings of any inputs: predicted by the model, or given (4M-21, section 4.3; spec: generation §7)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.defaults import input_stream
from open4m.generation.pipeline import AnyToAny
from open4m.modalities.features import FeatureVector
from open4m.modalities.registry import get_modality


def spaces_of(model: AnyToAny) -> tuple[str, ...]:
    """The modalities that a model can embed things in: the feature vectors that it predicts."""
    return tuple(name for name in model.targets if isinstance(get_modality(name), FeatureVector))


class Embedder:
    """Puts inputs of any kind into one space of unit vectors, in which the cosine says what is alike.

    A vector is predicted in one step; its expected value is taken instead of a draw, so nothing is random. Where the
    inputs hold the feature itself, that is used. Several spaces lie side by side with equal weight, so that the cosine
    is the mean of their cosines.

    Args:
        model: a model that predicts feature vectors (``dinov2_global``, ``imagebind_global``).
        spaces: which of them; default: all.

    Raises:
        GenerationError: the model predicts none.
        UnknownNameError: one of ``spaces`` is none of them.
    """

    def __init__(self, model: AnyToAny, spaces: Sequence[str] = ()) -> None:
        known = spaces_of(model)
        if not known:
            raise GenerationError(
                f"{model.bundle.info.name} predicts no global feature, which retrieval compares. Use a model with "
                "dinov2_global or imagebind_global among its targets."
            )
        for name in spaces:
            if name not in known:
                raise UnknownNameError("retrieval space", name, known)
        self.model = model
        self.spaces = tuple(dict.fromkeys(spaces)) or known

    def __call__(self, inputs: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Embed B samples.

        Args:
            inputs: modality → B values (or paths); all modalities of a sample are seen together.

        Returns:
            (B, D) float32, of length 1; D is the sum over the spaces.

        Raises:
            UnknownNameError, GenerationError, ModalityError: as :meth:`~open4m.generation.pipeline.AnyToAny.generate`.
        """
        vectors = self._predicted(inputs) | {name: self._given(name, inputs[name]) for name in self._held(inputs)}
        joined = np.concatenate([unit(vectors[name]) for name in self.spaces], axis=1)
        return joined / np.float32(len(self.spaces) ** 0.5)

    def check(self, modality: str) -> None:
        """Raise :class:`GenerationError` or :class:`UnknownNameError` unless ``modality`` can be embedded."""
        if modality not in self.spaces:
            input_stream(self.model.bundle.config, modality)

    def _held(self, inputs: Mapping[str, Any]) -> list[str]:
        return [name for name in self.spaces if name in inputs]

    def _given(self, name: str, values: Sequence[Any]) -> np.ndarray:
        return np.stack([self.model.view({name: value})[name] for value in values])

    def _predicted(self, inputs: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        targets = [name for name in self.spaces if name not in inputs]
        if not targets:
            return {}
        plan = self.model.plan(targets, list(inputs))
        expected = tuple(replace(target, steps=1, decode="expected") for target in plan.targets)
        result = self.model.generate(
            {name: list(values) for name, values in inputs.items()},
            targets,
            plan=replace(plan, targets=expected).independent(),
        )
        return {name: np.stack([item.value for item in result[name]]) for name in targets}

    def fingerprint(self, modalities: Sequence[str] = ()) -> str:
        """Hash of everything that makes the vectors of ``modalities``: the model's weights and its tokenizers.

        It is the same whether the weights were loaded as float32 or as bfloat16.
        """
        bundle = self.model.bundle
        digest = hashlib.sha256(repr((self.spaces, bundle.info.image_size, bundle.info.generation)).encode())
        tokenizers = bundle.info.stream_tokenizers
        needed = [s.name for s in bundle.config.streams if s.modality in (*self.spaces, *modalities)]
        parts = {"model": bundle.model, **{name: bundle.tokenizer(name) for name in needed if name in tokenizers}}
        for part, module in parts.items():
            for name, weight in sorted(module.state_dict().items()):
                digest.update(f"{part} {name} {tuple(weight.shape)}".encode())
                plain = weight.detach().cpu()
                plain = plain.bfloat16().view(torch.int16) if plain.is_floating_point() else plain
                digest.update(plain.contiguous().numpy().data)
        return digest.hexdigest()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (…, D) with length 1, float32; zero stays zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32(1e-12))
