"""The errors a user can meet. Each says what was found, what was expected and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Open4MError(Exception):
    """Base class of every error that open4m raises on purpose."""


class UnknownNameError(Open4MError):
    """A name (modality, stream, model, recipe, …) that is not registered; suggests the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
        super().__init__(f"Unknown {kind} {name!r}. {hint} Known: {', '.join(known)}.".replace("  ", " "))


class ModalityError(Open4MError):
    """A value or file of a modality that cannot be what it claims to be.

    Args:
        modality: name of the modality, such as ``depth``.
        source: the file, tar member or argument at fault.
        problem: what was found and what was expected.
        fix: what the user can do about it.
    """

    def __init__(self, modality: str, source: str, problem: str, fix: str) -> None:
        super().__init__(f"{modality}: {source}: {problem} {fix}")
        self.modality = modality
        self.source = source


class CheckpointError(Open4MError):
    """A checkpoint that does not fit the model: missing, unexpected or mis-shaped parts are named."""


class CheckpointWarning(UserWarning):
    """Something in a checkpoint that is not used, although the weights fit."""


class DataError(Open4MError):
    """A data set that is missing, misaligned or damaged."""


class TrainingError(Open4MError):
    """A training run that cannot go on: non-finite losses, or a folder that holds another run."""


class GenerationError(Open4MError):
    """A request that the model cannot fulfil (unknown target, no tokenizer, contradictory inputs)."""


class GenerationWarning(UserWarning):
    """A request that is fulfilled in part: something that was given does not fit and is left out."""


class VerificationError(Open4MError):
    """Recomputed outputs differ from recorded ones by more than rounding, or could not be recomputed."""


class MissingExtraError(Open4MError):
    """A feature whose optional dependencies are not installed."""

    def __init__(self, feature: str, extra: str, package: str) -> None:
        super().__init__(f"{feature} needs the package {package!r}. Install it with: pip install 'open4m[{extra}]'")
