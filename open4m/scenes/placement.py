"""Placing models without letting them run into each other: turned boxes, tested by separating axes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open4m.scenes.model import Model, Thing

_GAP = 0.01
"""Metres that two boxes may touch by (a thing on a table touches it)."""


@dataclass(frozen=True, eq=False)
class Footprint:
    """A box turned about z: its four corners seen from above (4, 2), lowest and highest z."""

    corners: np.ndarray
    low: float
    high: float

    @classmethod
    def of(cls, model: Model, pose: np.ndarray) -> Footprint:
        """The box round ``model`` at ``pose`` (a turn about z and a shift)."""
        (x0, y0, z0), (x1, y1, z1) = model.bounds
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) @ pose[:2, :2].T + pose[:2, 3]
        return cls(corners, z0 + pose[2, 3], z1 + pose[2, 3])

    def overlaps(self, other: Footprint, gap: float = _GAP) -> bool:
        """Whether the two boxes share more than ``gap`` metres in every direction."""
        if min(self.high, other.high) - max(self.low, other.low) <= gap:
            return False
        for shape in (self, other):
            for axis in (shape.corners[1] - shape.corners[0], shape.corners[3] - shape.corners[0]):
                axis = axis / np.linalg.norm(axis)
                a, b = self.corners @ axis, other.corners @ axis
                if min(a.max(), b.max()) - max(a.min(), b.min()) <= gap:
                    return False
        return True


class Planner:
    """Things placed so far, inside of a rectangle of floor."""

    def __init__(self, low: tuple[float, float], high: tuple[float, float]) -> None:
        self.low, self.high = np.array(low), np.array(high)
        self.things: list[Thing] = []
        self._solids: list[Footprint | None] = []

    def add(self, model: Model, pose: np.ndarray, support: int | None = None, solid: bool = True) -> int:
        """Put a thing without any test; one that is not solid (a floor, a rug) is in nobody's way."""
        self.things.append(Thing(model, pose, support))
        self._solids.append(Footprint.of(model, pose) if solid else None)
        return len(self.things) - 1

    def place(
        self, model: Model, pose: np.ndarray, support: int | None = None, allowed: int | None = None
    ) -> int | None:
        """Put a thing where it is inside and free; its index, or None. ``allowed`` may be overlapped (one's seat)."""
        print_ = Footprint.of(model, pose)
        if (print_.corners < self.low - _GAP).any() or (print_.corners > self.high + _GAP).any():
            return None
        for index, other in enumerate(self._solids):
            if other is not None and index != allowed and print_.overlaps(other):
                return None
        self.things.append(Thing(model, pose, support))
        self._solids.append(print_)
        return len(self.things) - 1
