"""Objects of yards, streets and parks, and animals."""

from __future__ import annotations

import numpy as np

from open4m.scenes.kit import along, ball, box, cylinder, limb, ring, rod, shifted, solid
from open4m.scenes.materials import (
    COLOURS,
    Material,
    Pattern,
    any_colour,
    jitter,
    metal,
    named,
    patterned,
    scaled,
    wood,
)
from open4m.scenes.model import Model, Part, Surface

Rng = np.random.Generator
_TYRE = Material((0.012, 0.012, 0.014), gloss=0.1)
_GLASS = Material((0.04, 0.055, 0.07), gloss=1.0)


def car(rng: Rng) -> Model:
    """Saloon, hatchback or van: body, cabin, windows, wheels, lamps."""
    w, d, h = rng.uniform(1.6, 1.8), rng.uniform(3.4, 4.3), rng.uniform(0.55, 0.7)
    name = any_colour(rng, ("red", "blue", "white", "black", "gray", "green", "yellow", "orange"))
    paint = named(name, rng, gloss=0.8)
    r, roof = rng.uniform(0.28, 0.34), rng.uniform(0.42, 0.62)
    cabin_length, cabin_y = d * rng.uniform(0.45, 0.68), d * rng.uniform(0.0, 0.1)
    z = r * 0.75
    parts = [
        box((w, d, h), (0, 0, z), paint),
        box((w * 0.88, cabin_length, roof), (0, cabin_y, z + h), _GLASS),
        box((w * 0.9, cabin_length * 0.94, 0.06), (0, cabin_y, z + h + roof), paint),
    ]
    for y in (-0.5, 0.0, 0.5):
        parts.append(box((w * 0.895, 0.09, roof), (0, cabin_y + y * (cabin_length - 0.08), z + h), paint))
    rim = metal(rng)
    for x in (-1, 1):
        for y in (-0.31, 0.31):
            parts.append(along("cylinder", (x * (w / 2 - 0.1), y * d, r), (x * (w / 2 + 0.02), y * d, r), r, _TYRE))
            parts.append(along("tube", (x * (w / 2), y * d, r), (x * (w / 2 + 0.03), y * d, r), r * 0.55, rim))
        front = Material(jitter((250, 244, 214), rng, 0.02), glow=0.4)
        parts.append(ball((0.13, 0.04, 0.08), (x * w * 0.36, -d / 2, z + h * 0.62), front, "pebble"))
        parts.append(box((0.26, 0.03, 0.12), (x * w * 0.36, d / 2, z + h * 0.55), named("red", rng)))
    parts += [box((w * 0.98, 0.08, 0.14), (0, s * d / 2, z + 0.02), Material((0.03, 0.03, 0.03))) for s in (-1, 1)]
    return Model("car", tuple(parts), name)


def bench(rng: Rng) -> Model:
    """Slats on two frames."""
    w, h, back = rng.uniform(1.2, 1.7), rng.uniform(0.42, 0.46), rng.uniform(0.36, 0.45)
    slat = wood(rng) if rng.random() < 0.7 else named(any_colour(rng, ("green", "red", "blue", "white")), rng)
    iron = Material((0.03, 0.03, 0.035), gloss=0.3)
    parts = [box((w, 0.11, 0.035), (0, y, h - 0.035), slat) for y in (-0.19, -0.06, 0.07)]
    parts += [box((w, 0.03, 0.1), (0, 0.2, h + back * f - 0.1), slat) for f in (0.55, 1.0)]
    for s in (-1, 1):
        parts.append(box((0.05, 0.42, 0.04), (s * w * 0.42, 0, h - 0.075), iron))
        parts.append(box((0.05, 0.05, h + back), (s * w * 0.42, 0.24, 0), iron))
        parts.append(box((0.05, 0.05, h - 0.04), (s * w * 0.42, -0.19, 0), iron))
    return Model("bench", tuple(parts), slat.name, seat=(-0.08, h), seats=(-w * 0.24, w * 0.24))


def bicycle(rng: Rng) -> Model:
    """Two wheels, a diamond frame, saddle and handle bar; it points to +x."""
    r, base = rng.uniform(0.3, 0.35), rng.uniform(0.98, 1.08)
    paint = named(any_colour(rng), rng, gloss=0.5)
    rear, front = np.array((-base / 2, 0, r)), np.array((base / 2, 0, r))
    crank, seat, head = np.array((-0.06, 0, r)), np.array((-0.2, 0, 0.82)), np.array((base / 2 - 0.14, 0, 0.85))
    tubes = (
        (rear, crank),
        (rear, seat),
        (crank, seat),
        (crank, head),
        (seat * 0.92 + crank * 0.08, head),
        (head, front),
    )
    parts = [rod(a, b, 0.022, paint) for a, b in tubes]
    for wheel in (rear, front):
        parts.append(ring(r, wheel, (0, 1, 0), _TYRE))
        for angle in np.arange(4) * np.pi / 4:
            spoke = np.array((np.cos(angle), 0, np.sin(angle))) * r * 0.9
            parts.append(rod(wheel - spoke, wheel + spoke, 0.006, metal(rng)))
    bar = shifted(head, 0.02, 0, 0.12)
    parts += [rod(head, bar, 0.018, paint), rod(shifted(bar, 0, -0.25, 0), shifted(bar, 0, 0.25, 0), 0.016, _TYRE)]
    parts.append(ball((0.13, 0.07, 0.04), shifted(seat, 0, 0, 0.06), _TYRE, "pebble"))
    return Model("bicycle", tuple(parts), paint.name)


def _animal(
    class_name: str, name: str, fur: Material, length: float, height: float, thick: float, snout: float, tail: float,
    pointed: bool,
) -> Model:  # fmt: skip
    belly = height - thick
    dark = Material((0.012, 0.01, 0.01), gloss=0.4)
    parts = [limb((0, -length * 0.32, belly), (0, length * 0.34, belly * 0.97), thick, fur)]
    for x in (-1, 1):
        for y in (-0.33, 0.36):
            parts.append(
                limb((x * thick * 0.6, y * length, belly), (x * thick * 0.6, y * length, thick * 0.4), thick * 0.4, fur)
            )
    head = np.array((0, -length * 0.58, height + thick * 0.55))
    parts.append(limb((0, -length * 0.36, belly + thick * 0.3), head, thick * 0.62, fur))
    parts.append(ball(thick * 0.9, head, fur))
    parts.append(ball((thick * 0.45, snout, thick * 0.4), shifted(head, 0, -thick * 0.7, -thick * 0.2), fur, "pebble"))
    parts.append(ball(thick * 0.2, shifted(head, 0, -thick * 0.65 - snout, -thick * 0.12), dark, "pebble"))
    for x in (-1, 1):
        parts.append(ball(thick * 0.14, shifted(head, x * thick * 0.42, -thick * 0.74, thick * 0.3), dark, "pebble"))
        ear = shifted(head, x * thick * 0.6, thick * 0.1, thick * 0.6)
        if pointed:
            parts.append(solid("cone", (thick * 0.6, thick * 0.4, thick * 0.9), ear, fur))
        else:
            parts.append(
                ball((thick * 0.2, thick * 0.34, thick * 0.6), shifted(ear, 0, 0, -thick * 0.4), dark, "pebble")
            )
    start = np.array((0, length * 0.42, belly + thick * 0.5))
    parts.append(limb(start, shifted(start, 0, length * 0.22, tail), thick * 0.22, fur))
    return Model(class_name, tuple(parts), name)


def _fur(rng: Rng, names: tuple[str, ...]) -> tuple[str, Material]:
    name = any_colour(rng, names)
    base = jitter(COLOURS[name], rng, 0.15)
    patchy = rng.random() < 0.35
    second = jitter((232, 226, 214), rng, 0.05) if patchy and name != "white" else scaled(base, 0.8)
    return name, Material(base, second, Pattern.MOTTLED, 0.12 if patchy else 0.05, name=name)


def dog(rng: Rng) -> Model:
    """A standing dog."""
    name, fur = _fur(rng, ("brown", "black", "beige", "white", "gray"))
    s = rng.uniform(0.8, 1.35)
    return _animal(
        "dog", name, fur, 0.62 * s, 0.46 * s, rng.uniform(0.095, 0.12) * s, 0.1 * s, 0.14 * s, rng.random() < 0.4
    )


def cat(rng: Rng) -> Model:
    """A standing cat with its tail up."""
    name, fur = _fur(rng, ("orange", "black", "gray", "white", "brown"))
    s = rng.uniform(0.9, 1.15)
    return _animal("cat", name, fur, 0.42 * s, 0.27 * s, 0.065 * s, 0.035 * s, 0.22 * s, True)


def tree(rng: Rng) -> Model:
    """A round-crowned tree or a fir."""
    h = rng.uniform(2.6, 4.6)
    bark = Material(jitter((92, 66, 44), rng), jitter((60, 44, 30), rng), Pattern.STRIPES, 0.1)
    green = (58, 122, 50) if rng.random() < 0.75 else (176, 112, 40)
    leaf = Material(jitter(green, rng, 0.25), jitter((36, 82, 34), rng), Pattern.MOTTLED, 0.22, name="green")
    trunk = rng.uniform(0.09, 0.16)
    if rng.random() < 0.35:
        parts = [cylinder(trunk, h * 0.25, (0, 0, 0), bark)]
        for level, width in ((0.18, 1.0), (0.42, 0.76), (0.66, 0.5)):
            w = h * 0.5 * width
            parts.append(solid("cone", (w, w, h * 0.4), (0, 0, h * level), leaf))
        return Model("tree-merged", tuple(parts), "green")
    parts = [cylinder(trunk, h * 0.6, (0, 0, 0), bark)]
    for _ in range(int(rng.integers(4, 7))):
        centre = shifted(rng.normal(0, 0.32, 3) * (1, 1, 0.7), 0, 0, h * 0.72)
        parts.append(ball(rng.uniform(0.45, 0.75) * h / 4 * np.array((1, 1, 0.85)), centre, leaf, "ball"))
    return Model("tree-merged", tuple(parts), "")


def bush(rng: Rng) -> Model:
    """Flowers on a low round bush."""
    r = rng.uniform(0.25, 0.42)
    leaf = Material(jitter((60, 128, 54), rng, 0.2), jitter((36, 88, 38), rng), Pattern.MOTTLED, 0.1)
    bloom = named(any_colour(rng, ("red", "yellow", "pink", "white", "purple")), rng)
    parts = [ball((r, r, r * 0.8), (0, 0, r * 0.7), leaf)]
    for _ in range(9):
        a, b = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1.3)
        at = (r * np.cos(a) * np.cos(b), r * np.sin(a) * np.cos(b), r * 0.7 + r * 0.8 * np.sin(b))
        parts.append(ball(0.05, at, bloom, "pebble"))
    return Model("flower", tuple(parts), bloom.name)


def house(rng: Rng) -> Model:
    """Walls, a gable roof, a door and windows."""
    w, d, h = rng.uniform(4.0, 6.5), rng.uniform(3.0, 4.5), rng.uniform(2.4, 3.4)
    name = any_colour(rng, ("white", "beige", "yellow", "red", "gray", "blue", "pink"))
    if rng.random() < 0.4:
        wall = patterned(name, "white" if name != "white" else "gray", Pattern.BRICK, 0.35, rng)
    else:
        wall = named(name, rng)
    roof = patterned(any_colour(rng, ("red", "brown", "gray", "black")), "black", Pattern.STRIPES, 0.45, rng)
    frame, door = named("white", rng), named(any_colour(rng, ("brown", "green", "blue", "red", "black")), rng)
    parts = [
        box((w, d, h), (0, 0, 0), wall),
        solid("wedge", (w + 0.5, d + 0.6, rng.uniform(1.2, 2.0)), (0, 0, h), roof),
    ]
    at = rng.uniform(-0.15, 0.15) * w
    parts.append(box((0.95, 0.06, 2.0), (at, -d / 2 - 0.02, 0), door))
    for x in (-w * 0.33, w * 0.33):
        parts.append(box((1.0, 0.06, 1.1), (x, -d / 2 - 0.01, 0.9), frame))
        parts.append(box((0.84, 0.04, 0.94), (x, -d / 2 - 0.04, 0.98), _GLASS))
    return Model("house", tuple(parts), name)


def tower(rng: Rng) -> Model:
    """A flat-roofed building with rows of windows."""
    w, d, h = rng.uniform(3.5, 6), rng.uniform(3, 4), rng.uniform(5, 9)
    name = any_colour(rng, ("gray", "beige", "brown", "red", "white", "orange"))
    wall = patterned(name, "gray", Pattern.BRICK, 0.4, rng) if rng.random() < 0.5 else named(name, rng)
    parts = [box((w, d, h), (0, 0, 0), wall)]
    columns, rows = int(w // 1.2), int(h // 1.5)
    for i in range(columns):
        for j in range(rows):
            x = ((i + 0.5) / columns - 0.5) * w
            parts.append(box((0.62, 0.05, 0.85), (x, -d / 2 - 0.01, 0.55 + j * 1.5), _GLASS))
    return Model("building-other-merged", tuple(parts), name)


def fence(rng: Rng) -> Model:
    """Posts, rails and pickets, two to three metres of it."""
    w, h = rng.uniform(2.2, 3.2), rng.uniform(0.8, 1.3)
    look = named("white", rng) if rng.random() < 0.4 else wood(rng)
    count = int(w / 0.2)
    parts = [box((0.11, 0.03, h), ((i + 0.5) / count * w - w / 2, 0, 0), look) for i in range(count)]
    parts += [box((w, 0.04, 0.07), (0, 0.035, h * f), look) for f in (0.25, 0.75)]
    return Model("fence-merged", tuple(parts), look.name)


def stop_sign(rng: Rng) -> Model:
    """A red eight-sided plate on a post, to -y."""
    h, r = rng.uniform(1.9, 2.3), rng.uniform(0.3, 0.38)
    post, red, white = metal(rng), named("red", rng), named("white", rng)
    centre = np.array((0, -0.04, h - r))
    parts = [
        rod((0, 0, 0), (0, 0, h - r), 0.03, post),
        along("tube", centre, shifted(centre, 0, -0.02, 0), r, white),
        along("tube", centre, shifted(centre, 0, -0.026, 0), r * 0.92, red),
        box((r * 1.25, 0.01, r * 0.36), shifted(centre, 0, -0.03, -r * 0.18), white),
    ]
    return Model("stop sign", tuple(parts), "red")


def traffic_light(rng: Rng) -> Model:
    """Three lamps on a post, one of them lit, to -y."""
    h = rng.uniform(2.2, 2.8)
    case = Material((0.02, 0.02, 0.022), gloss=0.2, name="black")
    lit = int(rng.integers(3))
    parts = [cylinder(0.05, h - 0.8, (0, 0, 0), metal(rng)), box((0.3, 0.2, 0.82), (0, 0, h - 0.82), case)]
    for i, srgb in enumerate(((60, 220, 90), (250, 200, 40), (240, 40, 36))):
        glow = 1.0 if i == lit else 0.0
        colour = jitter(np.array(srgb) * (1.0 if i == lit else 0.25), rng, 0.03)
        parts.append(ball((0.1, 0.04, 0.1), (0, -0.1, h - 0.68 + 0.26 * i), Material(colour, glow=glow), "pebble"))
    return Model("traffic light", tuple(parts), "")


def fire_hydrant(rng: Rng) -> Model:
    """A small standing hydrant."""
    h = rng.uniform(0.6, 0.8)
    look = named(any_colour(rng, ("red", "yellow", "red", "blue")), rng, gloss=0.3)
    parts = [
        cylinder(0.13, h * 0.75, (0, 0, 0), look),
        cylinder(0.17, 0.05, (0, 0, 0), look),
        solid("dome", (0.28, 0.28, h * 0.25), (0, 0, h * 0.75), look),
        along("tube", (-0.2, 0, h * 0.58), (0.2, 0, h * 0.58), 0.06, look),
        along("tube", (0, -0.18, h * 0.5), (0, 0, h * 0.5), 0.075, look),
    ]
    return Model("fire hydrant", tuple(parts), look.name)


def rock(rng: Rng) -> Model:
    """A boulder, half sunk."""
    r = rng.uniform(0.25, 0.5) * np.array((1.2, 1.0, 0.7)) * rng.uniform(0.8, 1.2, 3)
    look = Material(jitter((136, 130, 122), rng), jitter((92, 88, 84), rng), Pattern.MOTTLED, 0.15)
    return Model("rock-merged", (ball(r, (0, 0, r[2] * 0.7), look, "pebble"),), "gray")


def picnic_table(rng: Rng) -> Model:
    """A garden table."""
    w, d, h = rng.uniform(1.1, 1.6), rng.uniform(0.7, 0.85), 0.74
    look = wood(rng)
    parts: list[Part] = [box((w, d / 4 - 0.015, 0.04), (0, (i - 1.5) * d / 4, h - 0.04), look) for i in range(4)]
    for s in (-1, 1):
        parts.append(rod((s * w * 0.35, -d * 0.42, 0), (s * w * 0.35, d * 0.3, h - 0.04), 0.04, look))
        parts.append(rod((s * w * 0.35, d * 0.42, 0), (s * w * 0.35, -d * 0.3, h - 0.04), 0.04, look))
    return Model("dining table", tuple(parts), look.name, surfaces=(Surface(0, 0, w * 0.42, d * 0.4, h),))
