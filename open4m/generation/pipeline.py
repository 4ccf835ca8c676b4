"""AnyToAny: what users hold – any subset of modalities in, any others out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.errors import GenerationError
from open4m.generation.canvas import Canvas, span_bounds
from open4m.generation.codecs import Codecs, Coded
from open4m.generation.defaults import input_stream, make_plan, modalities, target_stream
from open4m.generation.engine import Progress, run
from open4m.generation.features import Pool, encoder_features, first_sample
from open4m.generation.inputs import InputReader
from open4m.generation.passes import Passes
from open4m.generation.plan import Plan, TargetPlan
from open4m.generation.result import Result
from open4m.generation.super_resolution import low_resolution, upscaling_plan
from open4m.hub import Bundle, describe, load_bundle
from open4m.hub.blueprint import Blueprint
from open4m.hub.needs import needs_of
from open4m.modalities.view import Fit
from open4m.streams import StreamKind


def load(
    name: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    text_tokenizer: str | Path | None = None,
) -> AnyToAny:
    """Load a model by the name of a bundled one, a folder, a ``.safetensors`` file, or the hub id of a published one.

    Args:
        name, device, dtype, text_tokenizer: see :func:`open4m.hub.bundle.load_bundle`.

    Raises:
        UnknownNameError: no such model; similar names are suggested.
        CheckpointError: it is incomplete or damaged.
    """
    return AnyToAny(load_bundle(name, dtype, device, text_tokenizer))


def preview(
    name: str | Path, targets: Sequence[str] = (), given: Sequence[str] = (), dtype: torch.dtype = torch.float32
) -> Plan:
    """The plan of a model from its configuration alone, with the memory and the downloads that it would need.

    No weights are read, and nothing is fetched for models of the catalogue.

    Args:
        name: as for :func:`load`.
        targets: modalities to generate; none = all that are not given.
        given: modalities or streams that would be given.
        dtype: of the weights.

    Raises:
        UnknownNameError, GenerationError, CheckpointError: as :func:`load` and :meth:`AnyToAny.plan`.
    """
    known = describe(name)
    wanted = _as_names(targets) or [t for t in modalities(known.config.targets) if t not in given]
    inputs = [input_stream(known.config, name).name for name in _as_names(given)]
    return _with_needs(make_plan(known, wanted, inputs), known, dtype)


def preview_upscale(name: str | Path, plan: Plan, dtype: torch.dtype = torch.float32) -> Plan:
    """As :func:`preview`, for the super-resolution model ``name`` after another model's ``plan``."""
    known = describe(name)
    return _with_needs(upscaling_plan(known, plan), known, dtype)


def _with_needs(plan: Plan, known: Blueprint, dtype: torch.dtype) -> Plan:
    needs = needs_of(known, [*plan.inputs, *(target.stream for target in plan.targets)], dtype)
    return replace(plan, needs=needs.lines())


class AnyToAny:
    """A trained system: predicts any of its modalities from any subset of the others.

    Inputs are given as ``modality → value``: what the modality's card describes, a path to a file of it, a PIL picture
    (``rgb``), a plain string (``caption``), or :class:`~open4m.generation.inputs.Tokens`; or a list of these for a
    batch. Text may be continued: the caption ``"a dog [S_1]"`` has an open end.

    Args:
        bundle: see :func:`open4m.hub.bundle.load_bundle`.

    Raises:
        GenerationError: the model is not trained.
    """

    def __init__(self, bundle: Bundle) -> None:
        if not bundle.model.trained:
            raise GenerationError(
                f"{bundle.info.name}: the model is not trained (fully or in part) and would generate noise. Load "
                "trained weights, or train it first."
            )
        self.bundle = bundle
        self.codecs = Codecs(bundle)
        self._passes = Passes(bundle.model)
        self._reader = InputReader(bundle, self.codecs)
        bundle.model.eval()

    @property
    def inputs(self) -> list[str]:
        """Modalities that can be given."""
        return modalities(self.bundle.model.config.inputs)

    @property
    def targets(self) -> list[str]:
        """Modalities that can be generated."""
        return modalities(self.bundle.model.config.targets)

    # -- what users do --------------------------------------------------------------------------------
    def plan(self, targets: Sequence[str], given: Sequence[str] = ()) -> Plan:
        """What :meth:`generate` would do by default. Names are modalities or streams."""
        config = self.bundle.model.config
        return make_plan(
            self.bundle, _as_names(targets), [input_stream(config, name).name for name in _as_names(given)]
        )

    def generate(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | None = None,
        *,
        seed: int | Sequence[int] = 0,
        samples: int | None = None,
        plan: Plan | None = None,
        fit: Fit = "crop",
        super_resolution: AnyToAny | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Generate ``targets`` from ``inputs`` (which may be empty).

        Args:
            inputs: see the class.
            targets: modalities to generate; may be left out when a ``plan`` is given.
            seed: sample i uses ``seed + i``; or one seed per sample. A sample depends on its own seed only, not on
                the batch, and an independent target not on the other targets.
            samples: variations of a single input.
            plan: an edited plan of :meth:`plan`; default: the published settings.
            fit: how pictures become squares: ``crop`` shows the model the largest centred square, ``letterbox`` all of
                the picture between bars that are hidden from it and cut off the results.
            super_resolution: a model for :meth:`upscale`.
            progress: called as ``progress(modality, done, total)``.

        Raises:
            UnknownNameError, GenerationError, ModalityError: with what was expected and how to mend it.
        """
        given = self._reader.read(inputs, samples, fit=fit)
        streams = tuple(given.canvas.tracks)
        if plan is None:
            plan = make_plan(self.bundle, _as_names(targets or ()), streams)
        self._check(plan, targets, streams, given.canvas)
        seeds = _seeds(seed, given.canvas.batch)
        finer = super_resolution.plan_upscale(plan) if super_resolution is not None else None  # before any work
        outcome = run(plan, given.canvas, self._passes, seeds, self.bundle.text, progress)
        result = Result(plan, outcome, self.codecs, seeds, given, fit)
        return result if super_resolution is None else super_resolution.upscale(result, plan=finer, progress=progress)

    def plan_upscale(self, plan: Plan) -> Plan:
        """What :meth:`upscale` would do by default after another model's ``plan``."""
        return upscaling_plan(self.bundle, plan)

    def upscale(self, result: Result, *, plan: Plan | None = None, progress: Progress | None = None) -> Result:
        """Another model's result with its pictures at the higher resolution of this super-resolution model.

        Whatever was given or generated at the low resolution, and is known here, is the input (spec: generation §5).

        Args:
            result: of :meth:`generate`; it is left as it is.
            plan: an edited plan of :meth:`plan_upscale`.
            progress: see :meth:`generate`.

        Raises:
            GenerationError: nothing in the result can be upscaled, or the two models do not fit together.
        """
        canvas = low_resolution(self.bundle, result.canvas)
        plan = plan or self.plan_upscale(result.plan)
        self._check(plan, None, tuple(canvas.tracks), canvas)
        seeds = [seed + 1 for seed in result.seeds]  # as published
        outcome = run(plan, canvas, self._passes, seeds, self.bundle.text, progress)
        return result.with_finer(plan, outcome, self.codecs)

    def view(self, values: Mapping[str, Any], fit: Fit = "crop") -> dict[str, Any]:
        """Values of one sample as the model sees them: read, checked, brought to a square at its size.

        Args:
            values: modality → value or path, as for :meth:`generate`; also modalities that are targets only.
            fit: see :meth:`generate`.
        """
        return self._reader.view(values, fit)

    def tokenize(self, inputs: Mapping[str, Any]) -> dict[str, Tensor | list[Tensor]]:
        """Stream → ids of the inputs: (L,) int64, a list of them for a batch. Pixels and vectors have no ids.

        ``rgb`` is tokenized here where the model has a token stream for it.
        """
        config = self.bundle.model.config
        kinds = {s.modality: s.kind for s in config.inputs if s.kind is StreamKind.TOKENS}
        given = self._reader.read(inputs, kinds=kinds)
        found: dict[str, Tensor | list[Tensor]] = {}
        for name, track in given.canvas.tracks.items():
            if config.stream(name).vocab_size:
                rows = [ids[known] for ids, known in zip(track.ids, track.known, strict=True)]
                found[name] = rows if given.batched else rows[0]
        return found

    def reconstruct(self, modality: str, values: Sequence[Any]) -> list[Any]:
        """Values after going through the tokens of ``modality`` and back: the best that predictions can be."""
        spec = target_stream(self.bundle.model.config, modality)
        ids = self.tokenize({spec.name: list(values)})[spec.name]
        return self.codecs.values([Coded(spec, torch.as_tensor(row)) for row in ids])

    def embed(self, inputs: Mapping[str, Any], layers: Sequence[int] | None = None, pool: Pool = "mean") -> Any:
        """Features of the inputs: float32 arrays, with an axis of B samples first where a batch is given.

        >>> model.embed({"rgb": "photo.jpg"}).shape  # one vector
        (D,)
        >>> maps = model.embed({"rgb": "photo.jpg"}, layers=[6, -1], pool="grid")
        >>> maps[6]["rgb@224"].shape
        (D, 14, 14)

        Args:
            inputs: as for :meth:`generate`. A sample's features do not depend on its batch.
            layers: 0 = the embedded inputs, i = after i blocks of the encoder, -1 = its output, after the final norm.
                The result then is a dictionary with these numbers; by default it is the output's features alone.
            pool: ``mean``: a vector (D,), the mean over everything visible; ``streams``: such a vector for each stream,
                by its name; ``grid``: a map (D, rows, columns) for each stream with a complete grid, by its name;
                ``none``: :class:`~open4m.generation.features.TokenFeatures`, that is all tokens (N, D) and which they
                are.

        Raises:
            GenerationError: no such layer, or ``grid`` without an input that has one.
            UnknownNameError: no such pooling, or modality.
        """
        given = self._reader.read(inputs)
        wanted = [-1] if layers is None else list(layers)
        found = encoder_features(self.bundle.model, given.canvas, wanted, pool)
        results = found if given.batched else [first_sample(features) for features in found]
        return results[0] if layers is None else dict(zip(wanted, results, strict=True))

    # -- checks --------------------------------------------------------------------------------
    def _check(self, plan: Plan, targets: Sequence[str] | None, streams: tuple[str, ...], canvas: Canvas) -> None:
        """Refuse what cannot be fulfilled before any work is done."""
        if plan.inputs != streams:
            expected, found = ", ".join(plan.inputs) or "nothing", ", ".join(streams) or "nothing"
            raise GenerationError(f"The plan was made for {expected} as input, but {found} was given.")
        for name in _as_names(targets or ()):
            plan[name]
        for target in plan.targets:
            self._check_settings(target)
            if target.is_sequence:
                for row in range(canvas.batch if target.stream in canvas.tracks else 0):
                    span_bounds(canvas.sequence(target.stream, row), target.modality)
            elif not canvas.open_positions(target.stream).shape[1]:
                raise GenerationError(f"{target.modality} is given completely and asked for. Leave out one of the two.")

    def _check_settings(self, target: TargetPlan) -> None:
        config = self.bundle.model.config
        spec, name = config.stream(target.stream), target.modality
        if not spec.is_target or target.is_sequence != (spec.kind is StreamKind.SEQUENCE):
            raise GenerationError(f"{target.stream} cannot be generated with the scheme {target.scheme}.")
        if target.tokens > spec.max_tokens or (target.tokens < spec.max_tokens and not target.is_sequence):
            most = "at most " if target.is_sequence else ""
            raise GenerationError(f"{name}: tokens is {target.tokens}; expected {most}{spec.max_tokens}.")
        for stream in (*target.conditions, *target.guided_streams):
            config.index(stream)  # raises for names that are no stream, which would silently guide nothing
        if target.is_sequence:
            _ = self.codecs.text  # raises if there is none


def _as_names(names: Sequence[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _seeds(seed: int | Sequence[int], batch: int) -> list[int]:
    seeds = [int(s) for s in np.atleast_1d(seed)]  # numpy integers are welcome, too
    if np.ndim(seed) == 0:
        return [seeds[0] + i for i in range(batch)]
    if len(seeds) != batch:
        raise GenerationError(f"{len(seeds)} seeds given for {batch} samples. Give one seed, or one per sample.")
    return seeds
