"""Small objects that stand on tables, shelves or the floor."""

from __future__ import annotations

import numpy as np

from open4m.scenes.kit import ball, box, cylinder, limb, ring, rod, solid, turned
from open4m.scenes.materials import COLOURS, Material, Pattern, any_colour, jitter, metal, named, patterned, scaled
from open4m.scenes.model import Model

Rng = np.random.Generator


def vase(rng: Rng) -> Model:
    """A vase of one of three shapes, sometimes with flowers."""
    w, h = rng.uniform(0.12, 0.2), rng.uniform(0.22, 0.4)
    shape = ("vase_round", "vase_tall", "vase_amphora")[int(rng.integers(3))]
    name = any_colour(rng)
    second = any_colour(rng, tuple(c for c in COLOURS if c != name))
    look = patterned(name, second, Pattern.STRIPES, 0.12, rng) if rng.random() < 0.3 else named(name, rng, gloss=0.5)
    parts = [solid(shape, (w, w, h), (0, 0, 0), look)]
    if rng.random() < 0.45:
        stem = Material(jitter((60, 110, 50), rng))
        bloom = named(any_colour(rng, ("red", "yellow", "pink", "purple", "white", "orange")), rng)
        for angle in np.arange(0, 6.28, 1.26):
            tip = (0.07 * np.cos(angle), 0.07 * np.sin(angle), h + rng.uniform(0.08, 0.18))
            parts += [rod((0, 0, h - 0.02), tip, 0.006, stem), ball(0.035, tip, bloom, "pebble")]
    return Model("vase", tuple(parts), look.name)


def cup(rng: Rng) -> Model:
    """A cup with a handle."""
    w, h = rng.uniform(0.09, 0.12), rng.uniform(0.1, 0.14)
    look = named(any_colour(rng), rng, gloss=0.4)
    handle = ring(h * 0.32, (w * 0.52, 0, h * 0.52), (0, 1, 0), look)
    return Model("cup", (solid("cup", (w, w, h), (0, 0, 0), look), handle), look.name)


def wine_glass(rng: Rng) -> Model:
    """A pale glass on a stem."""
    w, h = rng.uniform(0.09, 0.12), rng.uniform(0.2, 0.26)
    look = Material(jitter((206, 218, 226), rng, 0.04), gloss=1.0, name="white")
    return Model("wine glass", (solid("glass", (w, w, h), (0, 0, 0), look),), "")


def bottle(rng: Rng) -> Model:
    """A bottle with a label and a cap."""
    w, h = rng.uniform(0.08, 0.11), rng.uniform(0.24, 0.36)
    look = named(
        any_colour(rng, ("green", "brown", "blue", "red", "white", "black", "orange", "purple")), rng, gloss=0.7
    )
    label = named(any_colour(rng, ("white", "yellow", "beige", "red")), rng)
    cap = named(any_colour(rng), rng)
    parts = (
        solid("bottle", (w, w, h), (0, 0, 0), look),
        cylinder(w * 0.51, h * 0.22, (0, 0, h * 0.18), label),
        cylinder(w * 0.23, h * 0.07, (0, 0, h * 0.95), cap),
    )
    return Model("bottle", parts, look.name)


def bowl(rng: Rng) -> Model:
    """A bowl, sometimes plain, sometimes with fruit that belongs to the picture of a bowl."""
    w, h = rng.uniform(0.2, 0.3), rng.uniform(0.08, 0.13)
    look = named(any_colour(rng), rng, gloss=0.4)
    return Model("bowl", (solid("bowl", (w, w, h), (0, 0, 0), look),), look.name)


def book(rng: Rng) -> Model:
    """A lying book, a small pile as one, or a standing one."""
    w, d, t = rng.uniform(0.15, 0.2), rng.uniform(0.22, 0.28), rng.uniform(0.03, 0.06)
    cover = named(any_colour(rng), rng, gloss=0.15)
    pages = Material(jitter((228, 220, 200), rng, 0.04))
    if rng.random() < 0.5:
        parts = (
            box((w, d, t * 0.2), (0, 0, 0), cover),
            box((w * 0.95, d * 0.95, t * 0.6), (0, 0, t * 0.2), pages),
            box((w, d, t * 0.2), (0, 0, t * 0.8), cover),
            box((t * 0.2, d, t), (-w / 2, 0, 0), cover),
        )
    else:
        parts = (
            box((t * 0.2, w, d), (-t * 0.4, 0, 0), cover),
            box((t * 0.6, w * 0.95, d * 0.95), (0, 0, d * 0.02), pages),
            box((t * 0.2, w, d), (t * 0.4, 0, 0), cover),
            box((t, w * 0.05, d), (0, -w / 2, 0), cover),
        )
    return Model("book", parts, cover.name)


def laptop(rng: Rng) -> Model:
    """An open laptop."""
    w, d = rng.uniform(0.32, 0.38), rng.uniform(0.22, 0.26)
    case = metal(rng) if rng.random() < 0.6 else named("black", rng, gloss=0.3)
    keys = Material((0.03, 0.03, 0.035), (0.1, 0.1, 0.11), Pattern.CHECKER, 0.03)
    screen = Material(jitter(COLOURS[any_colour(rng, ("blue", "green", "white", "purple"))], rng), glow=0.7)
    lid = (
        box((w, 0.012, d), (0, d / 2, 0.01), case),
        box((w * 0.93, 0.004, d * 0.88), (0, d / 2 - 0.007, 0.025), screen),
    )
    tilt = -rng.uniform(8, 25)
    parts = (
        box((w, d, 0.018), (0, 0, 0), case),
        box((w * 0.88, d * 0.5, 0.002), (0, 0.03, 0.018), keys),
        *(turned(part, (1, 0, 0), tilt, (0, d / 2, 0.01)) for part in lid),
    )
    return Model("laptop", parts, "black" if case.name == "black" else "gray")


def teddy_bear(rng: Rng) -> Model:
    """A sitting bear."""
    s = rng.uniform(0.8, 1.5)
    name = any_colour(rng, ("brown", "brown", "beige", "white", "pink"))
    fur = Material(
        jitter(COLOURS[name], rng), scaled(jitter(COLOURS[name], rng), 0.75), Pattern.MOTTLED, 0.05, name=name
    )
    pale = Material(jitter((222, 196, 160), rng))
    dark = Material((0.01, 0.01, 0.01), gloss=0.5)

    def lump(radius: float | tuple[float, float, float], centre: tuple[float, float, float], look: Material = fur):
        return ball(np.array(radius) * s, np.array(centre) * s, look, "ball" if np.max(radius) > 0.05 else "pebble")

    parts = [lump((0.11, 0.09, 0.13), (0, 0, 0.13)), lump(0.09, (0, -0.01, 0.32)), lump(0.04, (0, -0.09, 0.3), pale)]
    parts += [lump(0.035, (side * 0.075, 0, 0.395)) for side in (-1, 1)]
    parts += [lump(0.014, (side * 0.035, -0.082, 0.345), dark) for side in (-1, 1)]
    parts.append(lump(0.014, (0, -0.128, 0.31), dark))
    for side in (-1, 1):
        parts.append(
            limb(np.array((side * 0.09, -0.02, 0.2)) * s, np.array((side * 0.15, -0.1, 0.13)) * s, 0.035 * s, fur)
        )
        parts.append(
            limb(np.array((side * 0.06, -0.06, 0.046)) * s, np.array((side * 0.1, -0.2, 0.046)) * s, 0.045 * s, fur)
        )
    return Model("teddy bear", tuple(parts), name)


def sports_ball(rng: Rng) -> Model:
    """A ball in one or two colours."""
    r = rng.uniform(0.1, 0.16)
    name = any_colour(rng, tuple(c for c in COLOURS if c not in ("gray", "beige")))
    pattern = (Pattern.PLAIN, Pattern.CHECKER, Pattern.STRIPES)[int(rng.integers(3))]
    look = patterned(name, "white" if name != "white" else "black", pattern, r * 0.9, rng, gloss=0.3)
    return Model("sports ball", (ball(r, (0, 0, r), look),), name if pattern is Pattern.PLAIN else "")


def _fruit(class_name: str, colour: str, srgb: tuple[int, int, int], rng: Rng) -> Model:
    r = rng.uniform(0.042, 0.055)
    look = Material(jitter(srgb, rng), gloss=0.35, name=colour)
    stem = Material((0.05, 0.03, 0.01))
    parts = (ball((r, r, r * 0.94), (0, 0, r * 0.94), look), rod((0, 0, r * 1.8), (0.004, 0, r * 2.15), 0.005, stem))
    return Model(class_name, parts, colour)


def apple(rng: Rng) -> Model:
    """A red or green apple."""
    red = rng.random() < 0.6
    return _fruit("apple", "red" if red else "green", (190, 40, 36) if red else (128, 176, 52), rng)


def orange(rng: Rng) -> Model:
    """An orange."""
    return _fruit("orange", "orange", COLOURS["orange"], rng)


def cake(rng: Rng) -> Model:
    """A round cake on a plate with cherries."""
    r, h = rng.uniform(0.12, 0.17), rng.uniform(0.08, 0.12)
    name = any_colour(rng, ("pink", "white", "brown", "yellow"))
    icing, cherry = named(name, rng), named("red", rng, gloss=0.5)
    parts = [cylinder(r + 0.04, 0.012, (0, 0, 0), named("white", rng)), cylinder(r, h, (0, 0, 0.012), icing)]
    parts += [
        ball(0.02, (r * 0.75 * np.cos(a), r * 0.75 * np.sin(a), h + 0.026), cherry, "pebble")
        for a in np.arange(0, 6.2, 1.05)
    ]
    return Model("cake", tuple(parts), name)


def microwave(rng: Rng) -> Model:
    """A box with a dark window and buttons."""
    w, d, h = rng.uniform(0.44, 0.52), rng.uniform(0.32, 0.36), rng.uniform(0.26, 0.3)
    body = named(any_colour(rng, ("white", "gray", "black", "red")), rng, gloss=0.3)
    glass = Material((0.012, 0.012, 0.016), gloss=0.9)
    parts = [
        box((w, d, h), (0, 0, 0), body),
        box((w * 0.64, 0.015, h * 0.72), (-w * 0.13, -d / 2 - 0.005, h * 0.14), glass),
        rod((w * 0.23, -d / 2 - 0.03, h * 0.15), (w * 0.23, -d / 2 - 0.03, h * 0.85), 0.01, metal(rng)),
    ]
    parts += [ball(0.016, (w * 0.37, -d / 2 - 0.005, h * f), metal(rng), "pebble") for f in (0.25, 0.45, 0.65)]
    return Model("microwave", tuple(parts), body.name)


def clock(rng: Rng) -> Model:
    """A round wall clock, hands at a random time; its back (y = 0) goes to the wall."""
    r = rng.uniform(0.16, 0.26)
    rim = named(any_colour(rng), rng, gloss=0.3)
    face, dark = Material(jitter((240, 238, 230), rng, 0.03), glow=0.15), Material((0.01, 0.01, 0.01))
    hour = rng.uniform(0, 12)
    parts = [
        turned(cylinder(r, 0.04, (0, 0, 0), rim), (1, 0, 0), 90, (0, 0, 0)),
        turned(cylinder(r * 0.88, 0.046, (0, 0, 0), face), (1, 0, 0), 90, (0, 0, 0)),
    ]
    for turn, length, width in ((hour / 12, 0.5, 0.07), (hour % 1.0, 0.78, 0.05)):
        tip = (r * length * np.sin(2 * np.pi * turn), -0.05, r * length * np.cos(2 * np.pi * turn))
        parts.append(rod((0, -0.05, 0), tip, r * width, dark))
    parts += [
        ball(r * 0.05, (r * 0.75 * np.sin(a), -0.047, r * 0.75 * np.cos(a)), dark, "pebble")
        for a in np.arange(4) * np.pi / 2
    ]
    return Model("clock", tuple(parts), rim.name)


def backpack(rng: Rng) -> Model:
    """A rounded bag with a pocket and straps."""
    w, d, h = rng.uniform(0.28, 0.36), rng.uniform(0.15, 0.2), rng.uniform(0.4, 0.5)
    look = named(any_colour(rng), rng)
    trim = named(any_colour(rng, ("black", "gray", "brown")), rng)
    parts = [
        box((w, d, h * 0.78), (0, 0, 0), look),
        ball((w / 2, d / 2, h * 0.24), (0, 0, h * 0.78), look),
        box((w * 0.72, 0.07, h * 0.4), (0, -d / 2 - 0.035, 0.03), trim),
        ring(0.05, (0, 0, h * 1.03), (1, 0, 0), trim),
    ]
    return Model("backpack", tuple(parts), look.name)


def umbrella(rng: Rng) -> Model:
    """An open umbrella standing on its stick as a sunshade does."""
    r, h = rng.uniform(0.75, 1.1), rng.uniform(1.8, 2.2)
    name = any_colour(rng, ("red", "yellow", "blue", "green", "orange", "purple", "pink"))
    cloth = patterned(name, "white", Pattern.STRIPES, 0.5, rng) if rng.random() < 0.4 else named(name, rng)
    pole = metal(rng)
    parts = (
        solid("dome", (2 * r, 2 * r, r * 0.5), (0, 0, h - r * 0.5), cloth),
        rod((0, 0, 0), (0, 0, h + 0.06), 0.022, pole),
        cylinder(0.2, 0.07, (0, 0, 0), pole),
    )
    return Model("umbrella", parts, name)
