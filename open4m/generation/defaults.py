"""From a request to a plan: which streams, in which order, with the published settings (spec: generation §5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from open4m.errors import CheckpointError, GenerationError, UnknownNameError
from open4m.generation.passes import Weights
from open4m.generation.plan import Plan, TargetPlan
from open4m.hub import Blueprint, Bundle
from open4m.modalities.registry import get_modality
from open4m.model import ModelConfig
from open4m.streams import StreamKind, StreamSpec


@dataclass(frozen=True)
class GridDefaults:
    """Settings of a grid target.

    Attributes:
        via: modalities that are generated first, unless another layout is given or generated anyway.
    """

    steps: int
    temperature: float
    schedule: str = "constant"
    guidance: float = 2.0
    scheme: str = "roar"
    token_schedule: str = "linear"
    top_p: float = 0.8
    via: tuple[str, ...] = ()


@dataclass(frozen=True)
class SequenceDefaults:
    """Settings of a sequence; ``tokens`` None: as many as the stream may have."""

    tokens: int | None = None
    temperature: float = 0.3
    top_p: float = 0.8
    guidance: float = 1.0
    repeats: int = 1


Defaults = TypeVar("Defaults", GridDefaults, SequenceDefaults)

ORDER = (
    *("clip", "dinov2", "imagebind", "dinov2_global", "imagebind_global", "depth", "normal", "semseg", "canny_edge"),
    *("sam_edge", "rgb", "caption", "det", "human_poses", "sam_instance", "color_palette", "metadata"),
)
"""Order of chained generation; other modalities follow."""

FROM_PICTURE = GridDefaults(1, 0.01)
"""When the picture is given, everything about it is nearly certain: one step."""

FROM_ANYTHING = GridDefaults(8, 3.0, "onex:0.5:0.5")
FROM_ANYTHING_BY_MODALITY = {
    "clip": GridDefaults(50, 5.0, "onex:0.5:0.5", guidance=3.0),
    "dinov2": GridDefaults(8, 0.01),
    "imagebind": GridDefaults(8, 0.01),
    "rgb": GridDefaults(25, 3.0, "onex:0.5:0.5", via=("clip",)),  # published advice for words → picture
}
UNORDERED_SET = GridDefaults(1, 0.1, guidance=1.0)
"""Global features: 16 codes at once, as published for retrieval."""

SUPER_RESOLUTION = GridDefaults(8, 1.0, scheme="maskgit", token_schedule="cosine")

SEQUENCES = {
    "caption": SequenceDefaults(256, 0.3),
    "det": SequenceDefaults(256, 0.3),
    "human_poses": SequenceDefaults(275, 0.1),
    "sam_instance": SequenceDefaults(256, 0.01),
    "color_palette": SequenceDefaults(23, 0.1),
    "metadata": SequenceDefaults(temperature=0.1),
}

NOT_AVERAGED = ("semseg", "canny_edge", "sam_edge")
"""Codes of these must not be averaged: between two classes lies no class, and the mean of two edges is no edge."""


def make_plan(
    bundle: Bundle | Blueprint,
    targets: Sequence[str],
    inputs: Sequence[str],
    *,
    via: Sequence[str] = (),
    guidance: Weights | None = None,
) -> Plan:
    """The default plan for generating ``targets`` from ``inputs``.

    Args:
        targets: modality or stream names.
        inputs: names of the streams that are given, wholly or in part (:func:`input_stream`).
        via: modality or stream names that are generated first, in this order, so that the targets see them.
        guidance: of every target, instead of the published one; a mapping names modalities or streams
            (:func:`guided`).

    Raises:
        UnknownNameError: a name the model does not know.
        GenerationError: nothing asked for, or something that the model cannot predict or that is given already.
    """
    plan = _default_plan(bundle, targets, inputs, via)
    return plan if guidance is None else guided(bundle, plan, guidance)


def _default_plan(
    bundle: Bundle | Blueprint, targets: Sequence[str], inputs: Sequence[str], via: Sequence[str]
) -> Plan:
    config = bundle.config
    if not targets:
        raise GenerationError(f"Nothing is asked for. This model can generate {', '.join(modalities(config.targets))}.")
    given = [spec for spec in config.streams if spec.name in inputs]
    asked = list(dict.fromkeys(target_stream(config, name) for name in targets))
    between = list(dict.fromkeys(target_stream(config, name) for name in via))
    twice = [spec.modality for spec in between if spec in asked]
    if twice:
        raise GenerationError(f"{twice[0]} is asked for and is to be generated on the way. Leave out one of the two.")
    for spec in (*asked, *between):
        others = (g for g in given if g.modality == spec.modality and g.name != spec.name)
        twin = next((g for g in others if g.resolution == spec.resolution), None)
        if twin is not None:
            raise GenerationError(f"{spec.modality} is given (as {twin.name}) and asked for. Leave out one of the two.")
    made = [spec for spec in (*asked, *between) if not raises_resolution(config, spec)]
    makes_picture = any(spec.modality == "rgb" for spec in made)
    has_picture = any(spec.modality == "rgb" for spec in given) and not makes_picture  # a part of one is none
    # From a picture everything is nearly certain, and nothing is gained by waiting for the other targets.
    chained = not has_picture or any(raises_resolution(config, spec) for spec in asked)
    wanted = [*between, *_ordered([*asked, *_stepping_stones(bundle, [*given, *between], asked)])]
    plans: list[TargetPlan] = []
    for spec in wanted:
        seen = plans if chained else plans[: len(between)]
        target = target_plan(bundle, spec, has_picture)
        plans.append(target.seeing([g.name for g in given], seen))
    info = bundle.info
    licences = (f"{info.name}: {info.licence} ({info.licence_url})",)
    requested = tuple(spec.modality for spec in _ordered(asked))
    return Plan(info.name, tuple(s.name for s in given), tuple(plans), requested, licences)


def guided(bundle: Bundle | Blueprint, plan: Plan, guidance: Weights) -> Plan:
    """The plan with the same guidance for every target.

    Args:
        guidance: one weight for everything that a target sees, or modality (or stream) → weight: 0 = ignore it, more =
            follow it more strongly, negative = get away from it. A single weight of 1 is how the model sees things
            anyway. Several of 1 are not: each input adds what it tells by itself (:meth:`Views.of`).

    Raises:
        UnknownNameError: a weight for something that no target sees.
    """
    if not isinstance(guidance, Mapping):
        return replace(plan, targets=tuple(replace(target, guidance=float(guidance)) for target in plan.targets))
    known = [bundle.config.stream(name) for name in dict.fromkeys((*plan.inputs, *(t.stream for t in plan.targets)))]
    targets, used = [], set()
    for target in plan.targets:
        others = [s for s in known if s.name in (*plan.inputs, *target.sees) and s.name != target.stream]
        weights = {spec.name: float(guidance[name]) for name in guidance for spec in others if name in names(spec)}
        used |= {name for name in guidance for spec in others if name in names(spec)}
        targets.append(replace(target, guidance=weights) if weights else target)
    for name in guidance:
        if name not in used:
            raise UnknownNameError("input to weigh", name, modalities(known))
    return replace(plan, targets=tuple(targets))


def target_plan(bundle: Bundle | Blueprint, spec: StreamSpec, has_picture: bool) -> TargetPlan:
    """Default settings of one target; what it sees comes with :meth:`TargetPlan.seeing`."""
    if spec.kind is StreamKind.SEQUENCE:
        written = sequence_defaults(bundle, spec)
        return TargetPlan(
            spec.modality,
            spec.name,
            "autoregressive",
            min(written.tokens or spec.max_tokens, spec.max_tokens),
            temperature=written.temperature,
            top_p=written.top_p,
            guidance=written.guidance,
            repeats=written.repeats,
        )
    chosen = grid_defaults(bundle, spec, has_picture)
    steps = min(chosen.steps, spec.max_tokens)
    averaged = steps == 1 and spec.modality not in NOT_AVERAGED
    return TargetPlan(
        spec.modality,
        spec.name,
        "maskgit" if chosen.scheme == "maskgit" else "roar",
        spec.max_tokens,
        steps,
        chosen.token_schedule,
        chosen.temperature,
        chosen.schedule,
        top_p=chosen.top_p,
        guidance=chosen.guidance,
        decode="expected" if averaged else "tokens",
    )


def grid_defaults(bundle: Bundle | Blueprint, spec: StreamSpec, has_picture: bool) -> GridDefaults:
    """Settings of a grid or set target: the published ones, with the changes that the bundle asks for.

    A bundle names them by situation (``set``, ``super_resolution``, ``picture``, ``anything``, for sequences
    ``sequence``) and, after a slash, by modality: ``{"picture": {"guidance": 1.0}, "anything/rgb": {"steps": 12}}``.
    The more special entry wins.

    Raises:
        CheckpointError: the bundle asks for a setting that does not exist.
    """
    situation, published = _published_defaults(bundle, spec, has_picture)
    return _as_the_bundle_asks(bundle, situation, spec.modality, published)


def sequence_defaults(bundle: Bundle | Blueprint, spec: StreamSpec) -> SequenceDefaults:
    """Settings of a sequence target, see :func:`grid_defaults`."""
    published = SEQUENCES.get(spec.modality, SequenceDefaults())
    return _as_the_bundle_asks(bundle, "sequence", spec.modality, published)


def _as_the_bundle_asks(bundle: Bundle | Blueprint, situation: str, modality: str, published: Defaults) -> Defaults:
    known = {f.name for f in fields(published)}
    changes = {}
    for key in (situation, f"{situation}/{modality}"):
        changes |= bundle.info.generation.get(key, {})
    if changes.keys() - known:
        raise CheckpointError(
            f"{bundle.info.name}: its config asks for unknown generation settings "
            f"{', '.join(sorted(changes.keys() - known))}. Known: {', '.join(sorted(known))}."
        )
    return replace(published, **changes)


def _published_defaults(bundle: Bundle | Blueprint, spec: StreamSpec, has_picture: bool) -> tuple[str, GridDefaults]:
    if spec.grid is None:
        return "set", UNORDERED_SET
    if raises_resolution(bundle.config, spec):
        return "super_resolution", SUPER_RESOLUTION
    if has_picture:
        return "picture", FROM_PICTURE
    return "anything", FROM_ANYTHING_BY_MODALITY.get(spec.modality, FROM_ANYTHING)


def raises_resolution(config: ModelConfig, spec: StreamSpec) -> bool:
    """Whether a target is finer than what the model reads, as in super-resolution."""
    sizes = [s.resolution for s in config.inputs if s.resolution]
    return spec.resolution is not None and bool(sizes) and spec.resolution > min(sizes)


def _stepping_stones(
    bundle: Bundle | Blueprint, given: Sequence[StreamSpec], asked: Sequence[StreamSpec]
) -> list[StreamSpec]:
    """:attr:`GridDefaults.via` of the only kind of grid that is asked for, where no other layout is given.

    What the model cannot generate is left out; raises :class:`UnknownNameError` for what is no modality at all.
    """
    grids = [spec for spec in asked if spec.grid]
    if any(spec.grid for spec in given) or len({spec.modality for spec in grids}) != 1:
        return []
    first = {spec.modality: spec for spec in reversed(bundle.config.targets)}
    wanted = [get_modality(name).name for name in grid_defaults(bundle, grids[0], has_picture=False).via]
    return [first[name] for name in wanted if name in first]


def _ordered(specs: Iterable[StreamSpec]) -> list[StreamSpec]:
    rank = {name: i for i, name in enumerate(ORDER)}
    return sorted(specs, key=lambda s: rank.get(s.modality, len(rank)))


# -- names ------------------------------------------------------------------------------------------------------------
def as_names(names: Sequence[str] | str) -> list[str]:
    """Several names, or one."""
    return [names] if isinstance(names, str) else list(names)


def names(spec: StreamSpec) -> tuple[str, str]:
    """What a stream may be called."""
    return spec.modality, spec.name


def modalities(specs: Iterable[StreamSpec]) -> list[str]:
    """Modality names in published order, once each."""
    return list(dict.fromkeys(s.modality for s in _ordered(specs)))


def target_stream(config: ModelConfig, name: str) -> StreamSpec:
    """The stream that is filled when ``name`` (modality or stream) is asked for."""
    return _find(config, config.targets, name, "target", "predict")


def input_stream(config: ModelConfig, name: str, kind: StreamKind | None = None) -> StreamSpec:
    """The stream through which ``name`` (modality or stream) is given: pixels before tokens, or only of ``kind``."""
    specs = [s for s in config.inputs if kind in (None, s.kind)]
    return _find(config, sorted(specs, key=lambda s: s.kind is not StreamKind.PIXELS), name, "input", "read")


def given_streams(config: ModelConfig, given: Iterable[str], partial: Collection[str]) -> list[str]:
    """Names of the streams through which modalities are given; those that are ``partial`` are given as tokens."""
    return [input_stream(config, name, StreamKind.TOKENS if name in partial else None).name for name in given]


def _find(config: ModelConfig, specs: Sequence[StreamSpec], name: str, role: str, verb: str) -> StreamSpec:
    for spec in specs:
        if name in names(spec):
            return spec
    choices = modalities(specs)
    if any(name in names(s) for s in config.streams):
        raise GenerationError(f"This model cannot {verb} {name}. It can {verb} {', '.join(choices)}.")
    raise UnknownNameError(role, name, [*choices, *(s.name for s in specs)])
