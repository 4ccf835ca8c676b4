"""Requests that cannot be fulfilled are refused before any work is done."""

from __future__ import annotations

from collections.abc import Sequence

from open4m.errors import GenerationError
from open4m.generation.canvas import Canvas, span_bounds
from open4m.generation.codecs import Codecs
from open4m.generation.plan import Plan, TargetPlan
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.config import DiffusionConfig


def check_request(codecs: Codecs, plan: Plan, canvas: Canvas, targets: Sequence[str] = ()) -> None:
    """Check that ``plan`` can be run on the inputs in ``canvas`` and generates ``targets``.

    Raises:
        UnknownNameError, GenerationError: with what was expected.
    """
    streams = tuple(canvas.tracks)
    if plan.inputs != streams:
        expected, found = ", ".join(plan.inputs) or "nothing", ", ".join(streams) or "nothing"
        raise GenerationError(f"The plan was made for {expected} as input, but {found} was given.")
    for name in targets:
        plan[name]
    for target in plan.targets:
        _check_settings(codecs, target)
        if target.is_sequence:
            for row in range(canvas.batch if target.stream in canvas.tracks else 0):
                span_bounds(canvas.sequence(target.stream, row), target.modality)
        elif not canvas.open_positions(target.stream).shape[1]:
            raise GenerationError(f"{target.modality} is given completely and asked for. Leave out one of the two.")


def _check_settings(codecs: Codecs, target: TargetPlan) -> None:
    config = codecs.bundle.model.config
    spec, name = config.stream(target.stream), target.modality
    if not spec.is_target or target.is_sequence != (spec.kind is StreamKind.SEQUENCE):
        raise GenerationError(f"{target.stream} cannot be generated with the scheme {target.scheme}.")
    if target.tokens > spec.max_tokens or (target.tokens < spec.max_tokens and not target.is_sequence):
        most = "at most " if target.is_sequence else ""
        raise GenerationError(f"{name}: tokens is {target.tokens}; expected {most}{spec.max_tokens}.")
    for stream in (*target.conditions, *target.guided_streams):
        config.index(stream)  # raises for names that are no stream, which would silently guide nothing
    if target.draws_value:
        _check_decoder(codecs, target, spec)
    if target.is_sequence:
        _ = codecs.text  # raises if there is none
    if target.repeats > 1 and codecs.has_ids_inside(spec):
        codecs.tokenizer(spec)  # likewise: repeats are merged as values


def _check_decoder(codecs: Codecs, target: TargetPlan, spec: StreamSpec) -> None:
    """``decoder_steps`` and ``decoder_solver`` are for diffusion decoders alone."""
    config = codecs.tokenizer(spec).config
    if not isinstance(config, DiffusionConfig):
        raise GenerationError(
            f"{target.modality}: its tokenizer has no diffusion decoder, so its values are made in one pass. Leave out "
            "decoder_steps and decoder_solver."
        )
    if (target.decoder_steps or 1) > config.num_train_timesteps:
        raise GenerationError(
            f"{target.modality}: decoder_steps is {target.decoder_steps}; expected 1…{config.num_train_timesteps}, the "
            "noise levels of its decoder."
        )
