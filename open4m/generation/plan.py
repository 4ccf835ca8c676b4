"""Plan: what generation is about to do – printable, editable, storable, runnable."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from io import StringIO
from typing import Any, Literal, cast, get_args

from rich.console import Console
from rich.table import Table

from open4m.errors import GenerationError, UnknownNameError
from open4m.generation.decoding import GridStep
from open4m.generation.passes import Weights
from open4m.generation.sampling import Sampler
from open4m.generation.schedules import (
    check_temperature_schedule,
    check_token_schedule,
    temperature_schedule,
    token_schedule,
)
from open4m.tokenizers.diffusion import Sampling, Solver

Scheme = Literal["maskgit", "roar", "autoregressive"]
FORMAT_VERSION = 2


@dataclass(frozen=True)
class TargetPlan:
    """How one target is generated.

    Attributes:
        modality: what users call it.
        stream: the stream that is filled.
        scheme: ``maskgit`` or ``roar`` for grids and sets, ``autoregressive`` for sequences.
        tokens: number of positions; for sequences the most that are written.
        sees: streams of targets before it that it sees, besides the inputs.
        steps: passes over a grid; 1 for sequences, which take a step per token.
        token_schedule: of MaskGIT, see :mod:`open4m.generation.schedules`; ROAR's is ``linear``, as published.
        temperature_schedule: of grids and sets, see :mod:`open4m.generation.schedules`.
        temperature, top_k, top_p: see :class:`~open4m.generation.sampling.Sampler`. They draw the ids, which later
            targets see; with ``decode`` ``expected`` the value does not depend on what is drawn.
        gumbel: noise on the confidences by which MaskGIT chooses positions, falling linearly to 0 with the steps (Chang
            et al. 2022: 4.5); 0 = none, as published for 4M.
        guidance: one weight for all ``conditions`` together, 1 = off; or stream → weight for several contrasts
            (:meth:`~open4m.generation.passes.Views.of`).
        conditions: streams that a single guidance weight contrasts with their absence.
        decode: ``expected`` turns a one-step prediction into a value through the mean code vector of every position,
            which is closer to the truth than the likeliest code for everything that has a scale; ``tokens`` looks up
            the drawn ids.
        decoder_steps, decoder_solver: how a diffusion decoder draws the value
            (:class:`~open4m.tokenizers.diffusion.Sampling`); None = as published. Only for targets whose tokenizer has
            one.
        grammar: only ids that keep a sequence well-formed are drawn (:mod:`open4m.generation.grammar`).
        repeats: how many sequences are drawn, in one batch, and merged into one value as their modality does it (boxes
            by weighted fusion, metadata field by field, SAM instances, each sequence having query points of its own, by
            joining them; …).
    """

    modality: str
    stream: str
    scheme: Scheme
    tokens: int
    steps: int = 1
    token_schedule: str = "linear"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int | float = 0
    top_p: float = 0.8
    gumbel: float = 0.0
    guidance: Weights = 1.0
    conditions: tuple[str, ...] = ()
    decode: Literal["tokens", "expected"] = "tokens"
    grammar: bool = True
    repeats: int = 1
    decoder_steps: int | None = None
    decoder_solver: Solver | None = None
    sees: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("conditions", "sees"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_token_schedule(self.token_schedule)
        check_temperature_schedule(self.temperature_schedule)
        problem = self._no_number() or self._problem()
        if problem:
            raise GenerationError(f"{self.modality}: {problem}")

    def _no_number(self) -> str | None:
        """What is wrong with a setting that has to be a finite number."""
        for name in ("tokens", "steps", "repeats", "decoder_steps"):
            value = getattr(self, name)
            if not isinstance(value, int) and not (value is None and name == "decoder_steps"):
                return f"{name} is {value!r}; expected a whole number."
        numbers = {name: getattr(self, name) for name in ("temperature", "top_k", "top_p", "gumbel")}
        if isinstance(self.guidance, Mapping):
            numbers |= {f"guidance of {stream}": weight for stream, weight in self.guidance.items()}
        else:
            numbers["guidance"] = self.guidance
        for name, value in numbers.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                return f"{name} is {value!r}; expected a finite number."
        return None

    def _problem(self) -> str | None:
        if self.scheme not in ("maskgit", "roar", "autoregressive"):
            return f"scheme {self.scheme!r} is unknown. Known: maskgit, roar, autoregressive."
        if self.tokens < 1 or self.steps < 1:
            return f"tokens and steps must be at least 1, not {self.tokens} and {self.steps}."
        if self.temperature < 0 or not 0 <= self.top_p <= 1 or self.top_k < 0:
            return "temperature and top_k must not be negative, and top_p must be in [0, 1]."
        if isinstance(self.top_k, float) and self.top_k > 1:
            return f"top_k is {self.top_k}; expected a whole number of ids, or a share of them up to 1.0."
        if self.gumbel < 0 or (self.gumbel and self.scheme != "maskgit"):
            return f"gumbel is {self.gumbel:g}; expected 0 or more, and 0 for any scheme but maskgit."
        if self.token_schedule != "linear" and self.scheme != "maskgit":
            return f"token_schedule is {self.token_schedule}; expected linear for any scheme but maskgit."
        if self.is_sequence and (self.steps != 1 or self.temperature_schedule != "constant"):
            return "sequences have steps 1 and temperature_schedule constant: they take one step per token."
        if not self.grammar and not self.is_sequence:
            return "grammar is False; expected True for what is no sequence."
        if self.is_sequence and self.draws_value:
            return "decoder_steps and decoder_solver are for grids. Leave them out."
        if self.decoder_solver not in (None, *get_args(Solver)):
            return f"decoder_solver {self.decoder_solver!r} is unknown. Known: {', '.join(get_args(Solver))}."
        if self.decoder_steps is not None and self.decoder_steps < 1:
            return f"decoder_steps is {self.decoder_steps}; expected at least 1."
        if self.repeats < 1 or (self.repeats > 1 and not self.is_sequence):
            return f"repeats is {self.repeats}; expected at least 1, and 1 for what is no sequence."
        if self.stream in (*self.conditions, *self.guided_streams):
            return f"it is guided by {self.stream}, its own stream. Name streams that it sees; what is decided stays."
        if self.decode not in ("tokens", "expected"):
            return f"decode {self.decode!r} is unknown. Known: tokens, expected."
        if self.decode == "expected" and (self.is_sequence or self.steps != 1):
            return "decode 'expected' is for one-step targets; use 'tokens'."
        return None

    @property
    def is_sequence(self) -> bool:
        """Whether it is written token by token."""
        return self.scheme == "autoregressive"

    @property
    def sampler(self) -> Sampler:
        """How ids are drawn in the first step."""
        return Sampler(self.temperature, self.top_k, self.top_p)

    @property
    def draws_value(self) -> bool:
        """Whether it asks for a way of its own to draw values with a diffusion decoder."""
        return self.decoder_steps is not None or self.decoder_solver is not None

    def value_sampling(self, seed: int) -> Sampling:
        """How a diffusion decoder draws the value of a sample with this seed."""
        published = Sampling(seed=seed, solver=self.decoder_solver)
        return published if self.decoder_steps is None else replace(published, steps=self.decoder_steps)

    def grid_steps(self, tokens: int) -> list[GridStep]:
        """The steps that decide ``tokens`` open positions, at least one each.

        Steps that a schedule leaves empty are dropped; temperatures and noise are those of the whole schedule.
        """
        counts = token_schedule(self.token_schedule, self.steps, tokens)
        temperatures = temperature_schedule(self.temperature_schedule, self.temperature, counts)
        return [
            GridStep(count, replace(self.sampler, temperature=t), self.gumbel * (1 - number / len(counts)))
            for number, (count, t) in enumerate(zip(counts, temperatures, strict=True), start=1)
            if count
        ]

    def seeing(self, inputs: Iterable[str], others: Sequence[TargetPlan]) -> TargetPlan:
        """The same after ``others``, which it sees and, of them, is guided by the grids (published: finished ones)."""
        guiding = (*inputs, *(other.stream for other in others if not other.is_sequence))
        conditions = tuple(name for name in guiding if name != self.stream)  # never hides what is decided already
        return replace(self, sees=tuple(other.stream for other in others), conditions=conditions)

    def views(self, known: Iterable[str]) -> int:
        """Passes per step: 1, or more with guidance on streams that are ``known``."""
        known = set(known)
        if isinstance(self.guidance, Mapping):
            present = len(known.intersection(self.guidance))
            return 1 + present if present else 1
        return 2 if self.guidance != 1.0 and known.intersection(self.conditions) else 1

    @property
    def guided_streams(self) -> tuple[str, ...]:
        """The streams that a guidance of several weights names."""
        return tuple(self.guidance) if isinstance(self.guidance, Mapping) else ()

    @property
    def guide(self) -> tuple[object, ...]:
        """Equal for targets that are guided in the same way, so that they can share passes."""
        if isinstance(self.guidance, Mapping):
            return tuple(sorted(self.guidance.items()))
        return () if self.guidance == 1.0 else (self.guidance, self.conditions)


@dataclass(frozen=True)
class Cost:
    """Work per sample: passes of the whole encoder and of the decoder over a grid, and single-token decoder steps."""

    encoder_passes: int
    decoder_passes: int
    token_steps: int

    def __str__(self) -> str:
        return (
            f"{self.encoder_passes} encoder passes, {self.decoder_passes} decoder passes, "
            f"at most {self.token_steps} single-token steps per sample"
        )


@dataclass(frozen=True)
class Plan:
    """What generation is about to do. Change it with :meth:`edit` or ``dataclasses.replace`` and hand it back.

    Attributes:
        model: name of the model it was made for.
        inputs: streams that are given.
        targets: in the order in which they are generated. Those that do not see each other are independent: none of
            them depends on whether the others are generated at all.
        requested: modalities that were asked for (the others are generated on the way).
        licences: of the weights in use.
        needs: what must be in memory and what would be fetched, for people (:func:`open4m.generation.preview`).
    """

    model: str
    inputs: tuple[str, ...]
    targets: tuple[TargetPlan, ...]
    requested: tuple[str, ...]
    licences: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("inputs", "targets", "requested", "licences", "needs"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        names = [t.modality for t in self.targets]
        repeated = sorted({n for n in names if names.count(n) > 1})
        if repeated:
            raise GenerationError(f"A plan generates each modality once; repeated: {', '.join(repeated)}.")
        missing = [n for n in self.requested if n not in names]
        if missing:
            raise GenerationError(f"The plan does not generate what is requested: {', '.join(missing)}.")
        for number, target in enumerate(self.targets):
            early = [name for name in target.sees if name not in (t.stream for t in self.targets[:number])]
            if early:
                raise GenerationError(
                    f"{target.modality} cannot see {', '.join(early)}, which is not generated before."
                )

    def __getitem__(self, modality: str) -> TargetPlan:
        for target in self.targets:
            if modality in (target.modality, target.stream):
                return target
        raise UnknownNameError("target of this plan", modality, [t.modality for t in self.targets])

    def edit(self, modality: str, **changes: Any) -> Plan:
        """The plan with some settings of one target changed."""
        known = {f.name for f in fields(TargetPlan)}
        for name in changes:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        old = self[modality]
        new = replace(old, **changes)
        return replace(self, targets=tuple(new if t is old else t for t in self.targets))

    @property
    def chained(self) -> bool:
        """Whether any target sees another one."""
        return any(target.sees for target in self.targets)

    def chain(self) -> Plan:
        """The plan with every target seeing all before it; guidance grows with the finished grids, as published."""
        targets: list[TargetPlan] = []
        for target in self.targets:
            targets.append(target.seeing(self.inputs, targets))
        return replace(self, targets=tuple(targets))

    def independent(self) -> Plan:
        """The plan with every target seeing the inputs only."""
        return replace(self, targets=tuple(target.seeing(self.inputs, ()) for target in self.targets))

    @property
    def cost(self) -> Cost:
        """Estimate of the work per sample."""
        encoder = decoder = steps = 0
        groups = set()
        for target in self.targets:
            views = target.views((*self.inputs, *target.sees))
            if target.is_sequence:
                encoder, steps = encoder + views, steps + views * target.repeats * (target.tokens - 1)
            elif target.steps > 1:
                encoder, decoder = encoder + views * target.steps, decoder + views * target.steps
            elif (target.sees, target.guide) not in groups:
                groups.add((target.sees, target.guide))
                encoder, decoder = encoder + views, decoder + views
        return Cost(encoder, decoder, steps)

    # -- on paper -------------------------------------------------------------------------------------------------
    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=f"{self.model}: {', '.join(self.inputs) or 'nothing'} → {', '.join(self.requested)}")
        drawing = ("scheme", "steps", "tokens", "temperature", "top-p", "guidance")
        for column in ("target", "stream", *(["sees"] if self.chained else []), *drawing, "decode", "also"):
            table.add_column(column)
        for number, t in enumerate(self.targets):
            schedule = "" if t.temperature_schedule == "constant" else f" {t.temperature_schedule}"
            steps = "per token" if t.is_sequence else str(t.steps)
            steps += f" × {t.repeats}" if t.repeats > 1 else ""
            name = t.modality if t.modality in self.requested else f"({t.modality})"
            table.add_row(
                *(name, t.stream, *([_sees_text(t, self.targets[:number])] if self.chained else []), t.scheme),
                *(steps, str(t.tokens), f"{t.temperature:g}{schedule}", f"{t.top_p:g}"),
                *(_guidance_text(t), t.decode, _other_settings(t)),
            )
        order = [] if self.chained else ["independent: all see the inputs only"]
        table.caption = "\n".join([*order, str(self.cost), *self.needs, *self.licences])
        return table

    def __str__(self) -> str:
        out = StringIO()
        Console(file=out, width=160, no_color=True).print(self.table())
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Inverse of :meth:`to_dict`, also after JSON; unknown or missing keys raise :class:`GenerationError`."""
        content = dict(values)
        version = content.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise GenerationError(f"This plan has format_version {version!r}; known is {FORMAT_VERSION}.")
        try:
            targets = tuple(TargetPlan(**target) for target in cast(Sequence[Mapping[str, Any]], content["targets"]))
            return cls(**{**content, "targets": cast(Any, targets)})
        except (TypeError, KeyError) as error:
            raise GenerationError(f"This is not a plan: {error}. Was it written by another version?") from error


def _sees_text(target: TargetPlan, before: Sequence[TargetPlan]) -> str:
    seen = [other.modality for other in before if other.stream in target.sees]
    return "inputs" if not seen else "all above" if len(seen) == len(before) > 1 else f"+ {', '.join(seen)}"


def _guidance_text(target: TargetPlan) -> str:
    if isinstance(target.guidance, Mapping):
        return ", ".join(f"{weight:g} {name}" for name, weight in target.guidance.items())
    if target.guidance == 1.0:
        return "–"
    return f"{target.guidance:g} on {', '.join(target.conditions)}"


_IN_COLUMNS = {
    *("modality", "stream", "scheme", "tokens", "steps", "repeats", "temperature", "temperature_schedule", "top_p"),
    *("guidance", "conditions", "decode", "sees"),
}
"""Settings that the other columns of a plan's table show."""


def _other_settings(target: TargetPlan) -> str:
    """Those without a column that differ from their defaults, and what may seem to count but does not."""
    others = [f for f in fields(TargetPlan) if f.name not in _IN_COLUMNS]
    changed = [f"{f.name}={getattr(target, f.name)}" for f in others if getattr(target, f.name) != f.default]
    averaged = ["draws: tokens only"] if target.decode == "expected" else []
    return ", ".join([*changed, *averaged])
