"""Large indoor objects. Every maker draws shape, size and materials from ``rng`` and returns a model."""

from __future__ import annotations

import numpy as np

from open4m.scenes.kit import ball, box, cylinder, four_legs, rod, shifted, solid
from open4m.scenes.materials import (
    COLOURS,
    Material,
    Pattern,
    any_colour,
    fabric,
    jitter,
    metal,
    named,
    patterned,
    scaled,
    wood,
)
from open4m.scenes.model import Model, Part, Surface

Rng = np.random.Generator
_CLOTH = ("red", "blue", "green", "purple", "orange", "gray", "beige", "brown", "pink", "black")


def chair(rng: Rng) -> Model:
    """A seat with a back, on four legs or on a post."""
    w, d, h = rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.52), rng.uniform(0.42, 0.48)
    back, thick = rng.uniform(0.4, 0.58), rng.uniform(0.04, 0.08)
    colour = any_colour(rng)
    cover = wood(rng) if rng.random() < 0.35 else named(colour, rng, gloss=0.15)
    frame = wood(rng) if rng.random() < 0.5 else metal(rng)
    parts = [box((w, d, thick), (0, 0, h - thick), cover)]
    if rng.random() < 0.7:
        parts += four_legs(w / 2, d / 2, h - thick, 0.022, frame)
    else:
        parts += [cylinder(0.03, h - thick, (0, 0, 0), frame), cylinder(w * 0.42, 0.03, (0, 0, 0), frame)]
    style = rng.integers(3)
    top = d / 2 - 0.03
    if style == 0:
        parts.append(box((w, 0.05, back), (0, top, h), cover))
    elif style == 1:
        parts += [box((0.045, 0.045, back), (s * (w / 2 - 0.025), top, h), frame) for s in (-1, 1)]
        parts += [box((w - 0.05, 0.03, 0.09), (0, top, h + back * f - 0.09), cover) for f in (0.45, 0.72, 1.0)]
    else:
        parts += [box((0.03, 0.03, back), (s * w, top, h), frame) for s in (-0.45, -0.22, 0, 0.22, 0.45)]
        parts.append(box((w, 0.04, 0.1), (0, top, h + back - 0.1), cover))
    return Model("chair", tuple(parts), cover.name, seat=(-0.02, h), seats=(0.0,))


def couch(rng: Rng) -> Model:
    """One to three seat cushions between arms."""
    seats = int(rng.integers(2, 4))
    w, d, h = seats * rng.uniform(0.58, 0.68), rng.uniform(0.78, 0.92), rng.uniform(0.38, 0.44)
    cover = fabric(any_colour(rng, _CLOTH), rng)
    arm, back = rng.uniform(0.14, 0.22), rng.uniform(0.38, 0.5)
    parts = [
        box((w, d, h - 0.14), (0, 0, 0.05), cover),
        box((w, 0.2, h + back - 0.05), (0, d / 2 - 0.1, 0.05), cover),
    ]
    parts += [box((arm, d, h + 0.16), (s * (w / 2 + arm / 2), 0, 0.05), cover) for s in (-1, 1)]
    pitch = w / seats
    middles = tuple((i - (seats - 1) / 2) * pitch for i in range(seats))
    parts += [box((pitch - 0.02, d - 0.2, 0.11), (x, -0.1, h - 0.11), cover) for x in middles]
    return Model("couch", tuple(parts), cover.name, seat=(-0.16, h), seats=middles)


def bed(rng: Rng) -> Model:
    """Frame with head board, mattress, blanket and pillows."""
    w, d = rng.uniform(1.0, 1.7), rng.uniform(1.9, 2.1)
    frame, sheet = wood(rng), named("white", rng)
    blanket = fabric(any_colour(rng, _CLOTH), rng)
    top = rng.uniform(0.42, 0.52)
    parts = [
        box((w, d, 0.2), (0, 0, 0.08), frame),
        box((w, 0.06, rng.uniform(0.8, 1.1)), (0, d / 2 + 0.03, 0), frame),
        box((w - 0.04, d - 0.04, top - 0.28), (0, 0, 0.28), sheet),
        box((w + 0.02, d * 0.68, 0.07 + top - 0.3), (0, -d * 0.16, 0.28), blanket),
    ]
    count = 2 if w > 1.25 else 1
    offset = w / 4 if count == 2 else 0.0
    parts += [
        ball((0.27, 0.18, 0.09), (s * offset, d / 2 - 0.26, top + 0.06), named("white", rng))
        for s in ((-1, 1) if count == 2 else (0,))
    ]
    z = top + 0.05
    return Model("bed", tuple(parts), blanket.name, surfaces=(Surface(0, -d * 0.16, w * 0.4, d * 0.28, z),))


def dining_table(rng: Rng) -> Model:
    """A top, rectangular on four legs or round on a post, sometimes with a cloth."""
    h = rng.uniform(0.7, 0.78)
    top = (
        wood(rng)
        if rng.random() < 0.65
        else named(any_colour(rng, ("white", "gray", "black", "beige")), rng, gloss=0.3)
    )
    if rng.random() < 0.35:
        r = rng.uniform(0.45, 0.65)
        parts = [cylinder(r, 0.04, (0, 0, h - 0.04), top), cylinder(0.05, h - 0.04, (0, 0, 0), top)]
        parts.append(cylinder(r * 0.5, 0.03, (0, 0, 0), top))
        surface = Surface(0, 0, r * 0.62, r * 0.62, h)
    else:
        w, d = rng.uniform(1.0, 1.7), rng.uniform(0.65, 0.9)
        parts = [
            box((w, d, 0.045), (0, 0, h - 0.045), top),
            *four_legs(w / 2 - 0.04, d / 2 - 0.04, h - 0.045, 0.035, top),
        ]
        if rng.random() < 0.25:
            cloth = fabric(any_colour(rng, _CLOTH), rng)
            parts.append(box((w * 0.45, d + 0.02, 0.006), (0, 0, h), cloth))
            h += 0.006
        surface = Surface(0, 0, w * 0.44, d * 0.42, h)
    return Model("dining table", tuple(parts), top.name, surfaces=(surface,))


def low_table(rng: Rng) -> Model:
    """A coffee or night table."""
    w, d, h = rng.uniform(0.45, 0.95), rng.uniform(0.42, 0.6), rng.uniform(0.36, 0.52)
    top = wood(rng) if rng.random() < 0.6 else named(any_colour(rng), rng, gloss=0.25)
    parts = [box((w, d, 0.04), (0, 0, h - 0.04), top), *four_legs(w / 2, d / 2, h - 0.04, 0.025, top)]
    if rng.random() < 0.5:
        parts.append(box((w - 0.08, d - 0.08, 0.025), (0, 0, h * 0.35), top))
    return Model("table-merged", tuple(parts), top.name, surfaces=(Surface(0, 0, w * 0.42, d * 0.42, h),))


def cabinet(rng: Rng) -> Model:
    """Doors or drawers with knobs, low or tall."""
    w, d = rng.uniform(0.8, 1.4), rng.uniform(0.38, 0.5)
    h = rng.uniform(0.6, 0.95) if rng.random() < 0.7 else rng.uniform(1.5, 1.9)
    body = wood(rng) if rng.random() < 0.6 else named(any_colour(rng, ("white", "gray", "green", "blue", "beige")), rng)
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    parts = [box((w, d, h), (0, 0, 0), body)]
    face = Material(scaled(body.colour, 1.25, 0.02), gloss=0.1, name=body.name)
    knob = metal(rng)
    for i in range(columns):
        for j in range(rows):
            x, z = ((i + 0.5) / columns - 0.5) * w, j / rows * h
            parts.append(box((w / columns - 0.03, 0.02, h / rows - 0.03), (x, -d / 2 - 0.01, z + 0.015), face))
            parts.append(ball(0.02, (x, -d / 2 - 0.04, z + h / rows / 2), knob, "pebble"))
    return Model("cabinet-merged", tuple(parts), body.name, surfaces=(Surface(0, 0, w * 0.45, d * 0.4, h),))


def shelf(rng: Rng) -> Model:
    """An open shelf, with books that belong to it drawn as a separate class elsewhere."""
    w, d, h = rng.uniform(0.8, 1.2), rng.uniform(0.26, 0.34), rng.uniform(1.3, 1.9)
    body = wood(rng) if rng.random() < 0.7 else named("white", rng)
    boards = int(rng.integers(4, 6))
    pitch = (h - 0.04) / (boards - 1)
    parts = [box((0.03, d, h), (s * (w / 2 - 0.015), 0, 0), body) for s in (-1, 1)]
    parts += [box((w - 0.06, d, 0.03), (0, 0, i * pitch), body) for i in range(boards)]
    parts.append(box((w - 0.06, 0.015, h), (0, d / 2 - 0.008, 0), body))
    surfaces = tuple(
        Surface(0, -0.02, w * 0.42, d * 0.36, i * pitch + 0.03, pitch - 0.05 if i < boards - 1 else 1.0)
        for i in range(1, boards)
    )
    return Model("shelf", tuple(parts), body.name, surfaces=surfaces)


def tv(rng: Rng) -> Model:
    """A flat screen on a foot; dark, or with a glowing picture."""
    w = rng.uniform(0.75, 1.25)
    h = w * 0.57
    case = Material(jitter(COLOURS["black"], rng), gloss=0.3, name="black")
    on = rng.random() < 0.5
    if on:
        picture = patterned(any_colour(rng), any_colour(rng), Pattern.MOTTLED, w * 0.3, rng)
        screen = Material(picture.colour, picture.second, picture.pattern, picture.scale, glow=0.8, name="black")
    else:
        screen = Material(jitter((22, 26, 34), rng), gloss=0.9, name="black")
    parts = [
        box((w, 0.05, h), (0, 0, 0.09), case),
        box((w - 0.05, 0.012, h - 0.05), (0, -0.03, 0.115), screen),
        box((0.07, 0.05, 0.09), (0, 0.0, 0), case),
        box((w * 0.4, 0.2, 0.02), (0, 0, 0), case),
    ]
    return Model("tv", tuple(parts), "black", activity="on" if on else "")


def refrigerator(rng: Rng) -> Model:
    """Two doors, one above the other."""
    w, d, h = rng.uniform(0.6, 0.75), rng.uniform(0.58, 0.68), rng.uniform(1.5, 1.85)
    body = named(any_colour(rng, ("white", "gray", "red", "white", "black")), rng, gloss=0.5)
    split, handle = rng.uniform(0.55, 0.7), metal(rng)
    dark = Material((0.02, 0.02, 0.02))
    parts = [
        box((w, d - 0.05, h), (0, 0.025, 0), body),
        box((w - 0.01, 0.05, h * split - 0.05), (0, -d / 2 + 0.025, 0.04), body),
        box((w - 0.01, 0.05, h * (1 - split) - 0.02), (0, -d / 2 + 0.025, h * split + 0.01), body),
        box((w - 0.02, 0.02, 0.04), (0, -d / 2 + 0.06, 0), dark),
    ]
    parts += [
        rod((-w * 0.4, -d / 2 - 0.03, z), (-w * 0.4, -d / 2 - 0.03, z + 0.28), 0.014, handle)
        for z in (h * split - 0.35, h * split + 0.06)
    ]
    return Model("refrigerator", tuple(parts), body.name)


def oven(rng: Rng) -> Model:
    """A cooker with a window in its door and four plates."""
    w, d, h = 0.6, 0.6, rng.uniform(0.84, 0.9)
    body = named(any_colour(rng, ("white", "gray", "black", "red")), rng, gloss=0.4)
    glass = Material((0.012, 0.012, 0.016), gloss=0.9)
    plate = Material((0.02, 0.02, 0.02), gloss=0.3)
    parts = [
        box((w, d, h), (0, 0, 0), body),
        box((w * 0.74, 0.02, h * 0.36), (0, -d / 2 - 0.01, h * 0.26), glass),
        rod((-w * 0.36, -d / 2 - 0.04, h * 0.7), (w * 0.36, -d / 2 - 0.04, h * 0.7), 0.013, metal(rng)),
    ]
    parts += [ball(0.024, (x, -d / 2 - 0.015, h * 0.86), plate, "pebble") for x in (-0.2, -0.1, 0.1, 0.2)]
    parts += [cylinder(0.095, 0.012, (x, y, h), plate) for x in (-0.14, 0.14) for y in (-0.14, 0.14)]
    return Model("oven", tuple(parts), body.name)


def potted_plant(rng: Rng) -> Model:
    """A pot with a bush of leaves or with long blades."""
    r, h = rng.uniform(0.11, 0.2), rng.uniform(0.18, 0.34)
    pot = named(any_colour(rng, ("orange", "brown", "white", "gray", "blue", "red", "black")), rng, gloss=0.2)
    leaf = Material(jitter((64, 132, 54), rng, 0.22), jitter((38, 92, 40), rng), Pattern.MOTTLED, 0.06, name="green")
    soil = Material((0.03, 0.018, 0.01))
    parts: list[Part] = [solid("frustum", (2 * r, 2 * r, h), (0, 0, 0), pot), cylinder(r * 0.88, 0.01, (0, 0, h), soil)]
    tall = rng.uniform(0.3, 0.75)
    if rng.random() < 0.5:
        parts.append(rod((0, 0, h), (0, 0, h + tall * 0.6), 0.02, Material(jitter((96, 68, 40), rng))))
        for _ in range(int(rng.integers(4, 7))):
            centre = shifted(rng.normal(0, r * 0.6, 3), 0, 0, h + tall * 0.7)
            centre[2] = max(centre[2], h + 0.12)
            parts.append(ball(rng.uniform(0.09, 0.15) * (1 + tall), centre, leaf, "pebble"))
    else:
        for angle in np.arange(0, 6.28, 6.28 / 9) + rng.uniform(0, 1):
            lean, length = rng.uniform(0.1, 0.55), tall * rng.uniform(0.7, 1.1)
            tip = (np.cos(angle) * lean * length, np.sin(angle) * lean * length, h + length)
            parts.append(_leaf(np.array([0, 0, h]), np.array(tip), leaf))
    return Model("potted plant", tuple(parts), "green")


def _leaf(start: np.ndarray, tip: np.ndarray, material: Material) -> Part:
    axis = tip - start
    side = np.cross(axis, (0.0, 0.0, 1.0))
    side = side / max(np.linalg.norm(side), 1e-6)
    matrix = np.eye(4)
    across = np.cross(side, axis) / np.linalg.norm(axis)
    matrix[:3, :3] = np.stack([side * 0.09, across * 0.02, axis], axis=1)
    matrix[:3, 3] = (start + tip) / 2
    return Part("pebble", matrix, material)


def suitcase(rng: Rng) -> Model:
    """A standing case with ribs and a handle."""
    w, d, h = rng.uniform(0.36, 0.5), rng.uniform(0.2, 0.27), rng.uniform(0.5, 0.72)
    shell = named(any_colour(rng), rng, gloss=0.35)
    dark = Material((0.03, 0.03, 0.03))
    parts = [box((w, d, h - 0.05), (0, 0, 0.05), shell)]
    parts += [box((0.025, d + 0.012, h - 0.12), (x * w, 0, 0.085), shell) for x in (-0.3, -0.1, 0.1, 0.3)]
    parts += [rod((s * 0.09, 0, h), (s * 0.09, 0, h + 0.16), 0.01, dark) for s in (-1, 1)]
    parts.append(box((0.22, 0.03, 0.03), (0, 0, h + 0.15), dark))
    parts += [ball(0.03, (s * w * 0.4, t * d * 0.35, 0.03), dark, "pebble") for s in (-1, 1) for t in (-1, 1)]
    return Model("suitcase", tuple(parts), shell.name)


def floor_lamp(rng: Rng) -> Model:
    """A lamp with a shade on a post."""
    h = rng.uniform(1.3, 1.65)
    shade = Material(jitter((244, 226, 180), rng, 0.05), glow=0.6, name="beige")
    post = metal(rng)
    parts = [
        cylinder(0.14, 0.025, (0, 0, 0), post),
        rod((0, 0, 0), (0, 0, h - 0.1), 0.014, post),
        solid("frustum", (0.36, 0.36, -0.28), (0, 0, h), shade),
    ]
    return Model("light", tuple(parts), "")
