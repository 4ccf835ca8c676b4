"""Object detection boxes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """One detected object: corners relative to the image in [0, 1], COCO class name, confidence in [0, 1]."""

    xmin: float
    ymin: float
    xmax: float
    ymax: float
    class_name: str
    score: float = 1.0
