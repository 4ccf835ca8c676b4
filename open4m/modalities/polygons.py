"""Plane polygons: clipping, membership, filling. Outlines are (K, 2) float arrays of x, y; closed implicitly."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

_OVERSAMPLING = 4


def clip_to_unit_square(polygon: np.ndarray) -> np.ndarray:
    """The part of a polygon inside [0, 1]², (K', 2); empty if there is none (Sutherland and Hodgman, 1974).

    Parts that the square cuts off from each other stay joined along its border.
    """
    for axis in (0, 1):
        for bound, sign in ((0.0, 1.0), (1.0, -1.0)):
            polygon = _clip(polygon, axis, bound, sign)
            if not len(polygon):
                return polygon
    return np.clip(polygon, 0.0, 1.0)


def _clip(polygon: np.ndarray, axis: int, bound: float, sign: float) -> np.ndarray:
    """The part where ``sign * (coordinate - bound) >= 0``."""
    following = np.roll(polygon, -1, axis=0)
    here, there = (sign * (points[:, axis] - bound) for points in (polygon, following))
    crosses = (here < 0) != (there < 0)
    share = np.divide(here, here - there, out=np.zeros_like(here), where=crosses)
    cuts = polygon + share[:, None] * (following - polygon)
    # Each corner (if it is inside) is followed by the cut of its edge (if there is one).
    points = np.stack([polygon, cuts], axis=1).reshape(-1, 2)
    return points[np.stack([here >= 0, crosses], axis=1).ravel()]


def contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each of ``points`` (P, 2) lies in a polygon (even–odd rule) or on its border, (P,) bool."""
    inside = ((points >= polygon.min(axis=0)) & (points <= polygon.max(axis=0))).all(axis=1)
    if inside.any():  # most points are outside of the bounds of most polygons
        inside[inside] = _contains(polygon, points[inside])
    return inside


def _contains(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    start, end = polygon, np.concatenate([polygon[1:], polygon[:1]])
    edge, offset = end - start, points[:, None] - start  # (K, 2), (P, K, 2)
    cross = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0]
    above, end_above = offset[..., 1] >= 0, points[:, None, 1] >= end[:, 1]
    # An edge that passes the point's height is to its right if the point is on the left of the upward edge.
    right = (above != end_above) & ((cross > 0) == (edge[:, 1] > 0))
    along = (edge * offset).sum(axis=-1)
    length = (edge**2).sum(axis=-1)
    on_border = (np.abs(cross) <= 1e-9) & (along >= 0) & (along <= length)
    return (right.sum(axis=1) % 2 == 1) | on_border.any(axis=1)


def outline(mask: np.ndarray) -> np.ndarray:
    """(K, 2) corners of the largest outer border of a binary mask (rows, columns), in [0, 1]².

    Cells that only share a corner are apart; holes are filled. Empty if the mask is.
    """
    padded = np.pad(mask.astype(bool), 1)
    inside = padded[1:-1, 1:-1]
    sides: dict[tuple[int, int, int, int], None] = {}  # x, y, dx, dy of cell borders with the inside to the right
    for other, dx, dy, x0, y0 in (
        (padded[:-2, 1:-1], 1, 0, 0, 0), (padded[1:-1, 2:], 0, 1, 1, 0),
        (padded[2:, 1:-1], -1, 0, 1, 1), (padded[1:-1, :-2], 0, -1, 0, 1),
    ):  # fmt: skip
        sides |= {(x + x0, y + y0, dx, dy): None for y, x in np.argwhere(inside & ~other).tolist()}
    loops: list[np.ndarray] = []
    left = dict(sides)
    while left:
        side, corners = next(iter(left)), []
        while side in left:
            del left[side]
            x, y, dx, dy = side
            corners.append((x, y))
            turns = ((-dy, dx), (dx, dy), (dy, -dx))  # right, so as to stay at the same cell; ahead; left
            side = next(s for s in ((x + dx, y + dy, *turn) for turn in turns) if s in sides)
        loops.append(np.array(corners, dtype=np.float64))
    largest = max(loops, key=_signed_area, default=np.zeros((0, 2)))
    return without_collinear(largest) / (mask.shape[1], mask.shape[0])


def _signed_area(polygon: np.ndarray) -> float:
    """Positive for outer borders (clockwise in a picture), negative for those of holes."""
    (x, y), (next_x, next_y) = polygon.T, np.roll(polygon, -1, axis=0).T
    return float((x * next_y - next_x * y).sum() / 2)


def without_collinear(polygon: np.ndarray) -> np.ndarray:
    """The polygon without the points that lie on the straight line between their neighbours."""
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    bent = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-9
    return polygon[bent]


def rasterise(polygon: np.ndarray, size: int) -> np.ndarray:
    """(size, size) bool: the cells of [0, 1]² that a polygon covers by at least half."""
    side = size * _OVERSAMPLING
    canvas = Image.new("L", (side, side))
    # A pixel's centre has whole-number coordinates in the drawing routine.
    corners = [(float(x), float(y)) for x, y in polygon * side - 0.5]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(_OVERSAMPLING)) >= 128
