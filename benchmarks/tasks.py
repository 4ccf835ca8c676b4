"""What is timed: plans for both sides, and what each side computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from open4m.generation.canvas import Canvas
from open4m.generation.defaults import make_plan
from open4m.generation.plan import Plan
from open4m.hub import Blueprint, describe
from open4m.model import ModelConfig
from open4m.model.sizes import named_size

PUBLISHED = "EPFL-VILAB/4M-21_B"
"""Whose streams and vocabularies the measured models have."""

DENSE = ("clip", "dinov2", "imagebind", "depth", "normal", "semseg", "canny_edge", "sam_edge")
SEQUENCES = ("caption", "det", "human_poses", "sam_instance", "color_palette", "metadata")
PICTURE, CAPTION = "rgb@224", "caption"
CAPTION_WORDS = 20


def blueprint(size: str) -> Blueprint:
    """4M-21 at a named size: the published streams, heads untied as they are published."""
    published = describe(PUBLISHED)
    return replace(published, config=ModelConfig(published.config.streams, **named_size(size), tied_output=False))


def as_chain(plan: Plan) -> Plan:
    """The same targets, each seeing those before it, as tokens (spec: generation §1)."""
    return replace(plan, targets=tuple(replace(target, decode="tokens") for target in plan.targets)).chain()


def greedy(plan: Plan) -> Plan:
    """At temperature 0, so that both sides can be compared token by token."""
    cold = (replace(t, temperature=0.0, temperature_schedule="constant") for t in plan.targets)
    return replace(plan, targets=tuple(cold))


def free(plan: Plan) -> Plan:
    """Decoded as the reference does it: any id may be written, and tokens are looked up."""
    targets = (replace(t, grammar=t.grammar and not t.is_sequence, decode="tokens") for t in plan.targets)
    return replace(plan, targets=tuple(targets))


def shortened(plan: Plan, words: int | None) -> Plan:
    """Sequences end after so many words; None = as long as published."""
    if words is None:
        return plan
    targets = (replace(t, tokens=min(t.tokens, words + 1)) if t.is_sequence else t for t in plan.targets)
    return replace(plan, targets=tuple(targets))


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        name: in the results.
        given: stream that is given.
        plain, open4m: what the two sides run, from the default plan.
        work: what each side computes, for people.
        same: both do the same work, so that their tokens can be compared.
    """

    name: str
    given: str
    targets: tuple[str, ...]
    plain: Callable[[Plan], Plan]
    open4m: Callable[[Plan], Plan]
    work: tuple[str, str]
    same: bool = True

    def plan(self, side: str, known: Blueprint, words: int | None, sampled: bool) -> Plan:
        """What ``side`` runs; at temperature 0 unless ``sampled`` as published."""
        default = make_plan(known, self.targets, [self.given])
        made = shortened((self.plain if side == "plain" else self.open4m)(default), words)
        return made if sampled else greedy(made)

    def canvas(self, known: Blueprint) -> Canvas:
        """A random picture, or a random caption."""
        generator, empty = torch.Generator().manual_seed(0), Canvas(known.config.streams, 1)
        if self.given == PICTURE:
            return empty.with_pixels(PICTURE, torch.randn(1, 3, 224, 224, generator=generator))
        ids = torch.randint(5000, 20_000, (CAPTION_WORDS,), generator=generator).tolist()
        return empty.with_sequences(CAPTION, [[*ids, 3]])


def _free_chain(plan: Plan) -> Plan:
    return as_chain(free(plan))


def _default(plan: Plan) -> Plan:
    return plan


_PER_WORD = "encoder once; per word: decoder over the whole prefix, logits of all its positions"
_CACHED = "caches of keys and values; per word: one position, its logits only"

TASKS = {
    task.name: task
    for task in (
        Task(
            *("rgb_to_depth", PICTURE, ("depth",), free, free),
            ("2 passes, with and without the picture", "1 pass; what is said without a picture is known from before"),
        ),
        Task(
            *("eight_dense", PICTURE, DENSE, free, free),
            (
                "independent; per target 2 passes",
                "independent; 1 encoder pass, 8 targets decoded, no unconditional pass",
            ),
        ),
        Task(*("caption_256", PICTURE, ("caption",), free, free), (_PER_WORD, _CACHED)),
        Task(
            *("six_sequences", PICTURE, SEQUENCES, free, free),
            (f"independent, one after the other; {_PER_WORD}", f"independent, 6 rows of one batch; {_CACHED}"),
        ),
        Task(
            *("rgb_to_everything", PICTURE, (*DENSE, *SEQUENCES), _free_chain, _default),
            ("the demo: a chain of 14 targets", "the default: 14 independent targets, mean codes, under grammars"),
            same=False,
        ),
        Task(
            *("rgb_to_everything_chained", PICTURE, (*DENSE, *SEQUENCES), _free_chain, _free_chain),
            ("a chain of 14 targets", "the same chain"),
        ),
        Task(
            *("caption_to_rgb", CAPTION, ("rgb",), _free_chain, _free_chain),
            ("50 + 25 steps of 2 passes", "50 + 25 steps; both views of a step decoded together"),
        ),
    )
}
"""By name, in the order of the table; ``detokenize`` comes after them (:mod:`benchmarks.detokenize`)."""
