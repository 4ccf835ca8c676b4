"""What a verification found: for every item the largest error, and whether it is within its tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """``|found − expected| ≤ absolute + relative · |expected|``, and the README in the golden data that says so."""

    absolute: float
    relative: float
    source: str

    def __str__(self) -> str:
        parts = [f"{self.absolute:.0e}"] if self.absolute else []
        parts += [f"{self.relative:.0e} · |x|"] if self.relative else []
        return " + ".join(parts) or "equal"


TOLERANCES = {
    "equal": Tolerance(0.0, 0.0, "README.md"),
    "states": Tolerance(1e-4, 0.0, "fm_mod21_swiglu/README.md"),
    "losses": Tolerance(0.0, 1e-5, "fm_mod21_swiglu/README.md"),
    "gradients": Tolerance(1e-4, 1e-3, "fm_mod21_swiglu/README.md"),
    "temperatures": Tolerance(1e-12, 0.0, "generation/README.md"),
    "probabilities": Tolerance(1e-5, 0.0, "generation/README.md"),
    "tokenizers": Tolerance(1e-4, 0.0, "vq_image/README.md"),
    "codebook": Tolerance(1e-5, 0.0, "vq_quantizer_training/README.md"),
    "forwards": Tolerance(1e-4, 0.0, "divae_unet/README.md"),
    "chains": Tolerance(1e-3, 0.0, "divae_unet/README.md"),
    "levels": Tolerance(1e-6, 0.0, "diffusion_schedules/README.md"),
    "steps": Tolerance(1e-5, 0.0, "diffusion_schedules/README.md"),
    "tables": Tolerance(1e-6, 0.0, "position_embeddings/README.md"),
}
"""How far float32 arithmetic may be from the recorded outputs. Ids, masks and shapes must be equal."""


@dataclass
class Check:
    """One item of a verification: all its parts together.

    Attributes:
        item: what was compared, such as ``logits caption``.
        tolerance: a key of :data:`TOLERANCES`.
        error: largest absolute difference; for ids and masks the number of entries that differ.
        share: largest difference as a share of what is allowed; more than 1 fails.
        worst: the part with that share.
        parts: number of tensors, lists or numbers that were compared.
    """

    item: str
    tolerance: str
    error: float = 0.0
    share: float = 0.0
    worst: str = ""
    parts: int = 0

    @property
    def passed(self) -> bool:
        """Whether every part is within its tolerance."""
        return self.share <= 1.0


@dataclass
class Report:
    """Result of verifying one folder.

    Attributes:
        name: of the folder.
        kind: what it pins.
        checks: by item, in order.
        unread: recorded entries that nothing was compared with.
    """

    name: str
    kind: str
    checks: dict[str, Check] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[Check]:
        """Items beyond their tolerance."""
        return [check for check in self.checks.values() if not check.passed]

    def close(self, item: str, found: Tensor, expected: Tensor, tolerance: str, part: str = "") -> None:
        """Compare float tensors of one shape, in float64 on the CPU."""
        limits = TOLERANCES[tolerance]
        found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
        if found.shape != expected.shape:
            self._add(item, tolerance, math.inf, math.inf, f"{part} has shape {tuple(found.shape)}".strip())
            return
        error = torch.where(found == expected, 0.0, (found - expected).abs()).nan_to_num(math.inf, math.inf)
        allowed = limits.absolute + limits.relative * expected.abs()
        share = torch.where(error == 0, 0.0, error / allowed).nan_to_num(math.inf, math.inf)
        if error.numel() == 0:
            error = share = torch.zeros(1)
        self._add(item, tolerance, float(error.max()), float(share.max()), part)

    def equal(self, item: str, found: Any, expected: Any, part: str = "") -> None:
        """Compare ids, masks or anything else that must be the same."""
        different = _differences(found, expected)
        self._add(item, "equal", different, math.inf if different else 0.0, part)

    def _add(self, item: str, tolerance: str, error: float, share: float, part: str) -> None:
        check = self.checks.setdefault(item, Check(item, tolerance))
        check.parts += 1
        if share > check.share or (check.share == 0.0 and not check.worst):
            check.share, check.worst = share, part
        check.error = max(check.error, error)


def _differences(found: Any, expected: Any) -> float:
    """Number of entries that differ."""
    if isinstance(found, Tensor) and isinstance(expected, Tensor):
        if found.shape != expected.shape:
            return math.inf
        return float((found.detach().cpu() != expected.cpu()).sum())
    if isinstance(found, Sequence) and isinstance(expected, Sequence) and not isinstance(expected, str):
        unequal = sum(a != b for a, b in zip(found, expected, strict=False))
        return float(unequal + abs(len(found) - len(expected)))
    return float(found != expected)
