"""AnyToAny: what users hold – any subset of modalities in, any others out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from open4m.errors import GenerationError
from open4m.generation.checks import check_request
from open4m.generation.codecs import Codecs, Coded
from open4m.generation.defaults import as_names, given_streams, make_plan, modalities, target_stream
from open4m.generation.editing import Region, all_but, carried_over, opened
from open4m.generation.engine import Outcome, Progress, moments, run
from open4m.generation.features import Pool, encoder_features, first_sample
from open4m.generation.inputs import Given, InputReader
from open4m.generation.passes import Passes, Weights
from open4m.generation.plan import Plan
from open4m.generation.result import Result
from open4m.generation.stored import Record, read_tokens
from open4m.generation.streaming import Partial, partial_results
from open4m.generation.super_resolution import low_resolution, upscaling_plan
from open4m.hub import Bundle
from open4m.modalities.view import Fit
from open4m.streams import StreamKind

PlanOrEdit = Plan | Callable[[Plan], Plan]
"""What to do, or what is to be changed in what would be done."""


class AnyToAny:
    """A trained system: predicts any of its modalities from any subset of the others.

    Inputs are given as ``modality → value``: what the modality's card describes, a path to a file of it, a PIL picture
    (``rgb``), a plain string (``caption``), or :class:`~open4m.generation.inputs.Tokens`; or a list of these for a
    batch. Text may have gaps: the caption ``"a dog [S_1]"`` has an open end. So may pictures and other grids:
    ``Masked(picture, mask)``. Of metadata any fields may be given: ``{"brightness": 200, "n_humans": 2}``.

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
    def plan(
        self,
        targets: Sequence[str],
        given: Sequence[str] = (),
        *,
        partial: Collection[str] = (),
        via: Sequence[str] = (),
        guidance: Weights | None = None,
    ) -> Plan:
        """What :meth:`generate` would do by default. Names are modalities or streams.

        Args:
            targets: what to generate.
            given: what will be given.
            partial: those of ``given`` of which a part will be hidden (:class:`~open4m.generation.masks.Masked`).
            via: what to generate first, in this order, so that the targets see it ("think in modalities").
            guidance: of all targets: one weight for everything they see, or one for each of several inputs, negative
                ones included: ``{"caption": 2.0, "depth": -0.5}`` (:func:`~open4m.generation.defaults.guided`).
        """
        inputs = given_streams(self.bundle.model.config, as_names(given), partial)
        return make_plan(self.bundle, as_names(targets), inputs, via=as_names(via), guidance=guidance)

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
            progress: called as ``progress(modality, done, total)`` after every step of all ``total`` ones.

        Raises:
            UnknownNameError, GenerationError, ModalityError: with what was expected and how to mend it.
        """
        given, plan, seeds = self._prepared(inputs, targets, seed, samples, plan, fit)
        finer = super_resolution.plan_upscale(plan) if super_resolution is not None else None  # before any work
        result = self._run(plan, given, seeds, fit, progress)
        return result if super_resolution is None else super_resolution.upscale(result, plan=finer, progress=progress)

    def stream(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | None = None,
        *,
        seed: int | Sequence[int] = 0,
        samples: int | None = None,
        plan: Plan | None = None,
        fit: Fit = "crop",
    ) -> Iterator[Partial]:
        """As :meth:`generate`, step by step; the last partial result holds the whole one.

        >>> for partial in model.stream({"caption": "a red couch"}, ["rgb"]):
        ...     print(partial.target, partial.step, partial.steps)
        ...     partial.values[partial.target].image

        Leaving the loop, or closing the iterator, ends generation after the current step.
        """
        given, plan, seeds = self._prepared(inputs, targets, seed, samples, plan, fit)
        steps = moments(plan, given.canvas, self._passes, seeds, self.bundle.text, self.codecs.merged)
        return partial_results(steps, plan, self.codecs, seeds, given, fit)

    # -- going on from a result -----------------------------------------------------------------------
    def edit(
        self,
        result: Result,
        changes: Mapping[str, Any],
        targets: Sequence[str] | None = None,
        *,
        keep: Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        plan: PlanOrEdit | None = None,
        guidance: Weights | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Propagate a change in some modalities to others: a moved box, another palette, a turned pose.

        >>> out = model.generate({"caption": "a dog in a park"}, ["det", "rgb"])
        >>> moved = model.edit(out, {"det": [dataclasses.replace(out["det"].value[0], xmin=0.5, xmax=0.9)]})
        >>> moved["rgb"].image  # of the same caption and the moved box

        Args:
            result: of :meth:`generate`, :meth:`edit` or :meth:`load_result`; it is left as it is.
            changes: modality → new value, as for :meth:`generate`: the model sees it instead of the old one.
            targets: what to generate anew; default: what the result was asked for, without what is changed or kept.
            keep: modalities of the result that the model goes on seeing, token for token; default: those that were
                given and are neither changed nor generated.
            seed: see :meth:`generate`; default: one more than the result's own.
            plan: what to do instead of the default; or a function that edits the default plan,
                ``lambda plan: plan.edit("rgb", steps=12)``.
            guidance: of the default plan, see :meth:`plan`; not beside a whole plan.
            progress: see :meth:`generate`.

        Raises:
            UnknownNameError, GenerationError, ModalityError: nothing to generate, something both kept and changed, …
        """
        whole = plan if isinstance(plan, Plan) else None
        if whole is not None and guidance is not None:
            raise GenerationError("A plan says how everything is guided. Give plan or guidance.")
        if targets is None and whole is None:
            targets = [name for name in result.plan.requested if name not in (*changes, *(keep or ()))]
            if not targets:
                raise GenerationError("Everything is changed or kept, so there is nothing to generate. Name targets.")
        wanted = whole.requested if targets is None and whole is not None else as_names(targets or ())
        given = carried_over(self._reader, result, changes, wanted, keep)
        if whole is None:
            default = make_plan(self.bundle, wanted, tuple(given.canvas.tracks), guidance=guidance)
            whole = plan(default) if callable(plan) else default
        check_request(self.codecs, whole, given.canvas, wanted)
        seeds = _seeds([s + 1 for s in result.seeds] if seed is None else seed, given.canvas.batch)
        return self._run(whole, given, seeds, result.fit, progress)

    def repaint(
        self,
        result: Result,
        regions: Mapping[str, Region],
        *,
        keep: Sequence[str] | None = None,
        seed: int | Sequence[int] | None = None,
        plan: PlanOrEdit | None = None,
        progress: Progress | None = None,
    ) -> Result:
        """Draw parts of a result anew; the rest of them is given as it is, token for token.

        Where the new parts are written repeatedly, the rest is part of every repeat that is merged.

        >>> model.repaint(out, {"rgb": mask, "metadata": ["brightness"], "det": [0, 2]})

        Args:
            result: see :meth:`edit`.
            regions: modality → where. For grids a mask over the picture of the result: (H, W) bool, True = anew, or a
                picture or file in which that is white. For metadata names of fields, for boxes and people indices in
                the value of the result's item (of what was given: in the order of its words).
            keep: see :meth:`edit`; default: everything else.
            seed, plan, progress: see :meth:`edit`.

        Raises:
            UnknownNameError, GenerationError, ModalityError: no such part; an empty region, or one of another size.
        """
        changes = opened(self.codecs, result, regions)
        kept = all_but(result, regions) if keep is None else keep
        return self.edit(result, changes, list(regions), keep=kept, seed=seed, plan=plan, progress=progress)

    def load_result(self, folder: str | Path) -> Result:
        """A result of this model that :meth:`Result.save` has written, to look at or to go on from.

        Values that were averaged over the probabilities of one-step targets (``decode="expected"``) are looked up from
        the tokens instead; :meth:`repeat` gives them exactly. What a super-resolution model made is left out.

        Raises:
            GenerationError, CheckpointError: there is no whole result, or it is of another model.
        """
        record, given, outcome = self._stored(Path(folder))
        return Result(record.plan, outcome, self.codecs, record.seeds, given, record.fit)

    def repeat(
        self, folder: str | Path, *, super_resolution: AnyToAny | None = None, progress: Progress | None = None
    ) -> Result:
        """Generate a saved result again, from the inputs, plan and seeds in its folder: bit for bit on one machine.

        Args:
            folder: that :meth:`Result.save` has written.
            super_resolution: the second model, where there was one.
            progress: see :meth:`generate`.

        Raises:
            GenerationError, CheckpointError: as :meth:`load_result`; or the second model is missing.
        """
        record, given, _ = self._stored(Path(folder))
        if (record.super_resolution is None) != (super_resolution is None):
            which = "none" if record.super_resolution is None else record.super_resolution.model
            raise GenerationError(f"{folder}: the second model, for super-resolution, was {which}. Give the same.")
        check_request(self.codecs, record.plan, given.canvas)
        result = self._run(record.plan, given, record.seeds, record.fit, progress)
        if super_resolution is None:
            return result
        return super_resolution.upscale(result, plan=record.super_resolution, progress=progress)

    def _stored(self, folder: Path) -> tuple[Record, Given, Outcome]:
        record = Record.read(folder)
        if record.plan.model != self.bundle.info.name:
            raise GenerationError(
                f"{folder}: made by {record.plan.model}, this is {self.bundle.info.name}. Load the former."
            )
        return record, *read_tokens(folder, record, self.bundle.model.config.streams)

    def _prepared(
        self,
        inputs: Mapping[str, Any],
        targets: Sequence[str] | None,
        seed: int | Sequence[int],
        samples: int | None,
        plan: Plan | None,
        fit: Fit,
    ) -> tuple[Given, Plan, list[int]]:
        """Inputs, plan and seeds of a request that can be fulfilled."""
        given = self._reader.read(inputs, samples, fit=fit)
        if plan is None:
            plan = make_plan(self.bundle, as_names(targets or ()), tuple(given.canvas.tracks))
        check_request(self.codecs, plan, given.canvas, as_names(targets or ()))
        return given, plan, _seeds(seed, given.canvas.batch)

    def _run(self, plan: Plan, given: Given, seeds: Sequence[int], fit: Fit, progress: Progress | None) -> Result:
        outcome = run(plan, given.canvas, self._passes, seeds, self.bundle.text, progress, self.codecs.merged)
        return Result(plan, outcome, self.codecs, seeds, given, fit)

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
        check_request(self.codecs, plan, canvas)
        seeds = [seed + 1 for seed in result.seeds]  # as published
        outcome = run(plan, canvas, self._passes, seeds, self.bundle.text, progress, self.codecs.merged)
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


def _seeds(seed: int | Sequence[int], batch: int) -> list[int]:
    seeds = [int(s) for s in np.atleast_1d(seed)]  # numpy integers are welcome, too
    if np.ndim(seed) == 0:
        return [seeds[0] + i for i in range(batch)]
    if len(seeds) != batch:
        raise GenerationError(f"{len(seeds)} seeds given for {batch} samples. Give one seed, or one per sample.")
    return seeds
