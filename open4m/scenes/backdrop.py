"""What surrounds the things: walls, ceilings, grounds, windows, doors, and light."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from open4m.scenes.kit import ball, box, solid, turned
from open4m.scenes.materials import (
    WOODS,
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
from open4m.scenes.model import Model, Part, placed
from open4m.scenes.placement import Planner
from open4m.scenes.scene import Light

Rng = np.random.Generator


@dataclass(frozen=True)
class Room:
    """Inner measures in metres; the room is centred on the origin and cameras stand at its -y wall."""

    width: float
    depth: float
    height: float


@dataclass(frozen=True)
class Ground:
    """An open place; the background begins at y = ``far``."""

    place: str
    far: float


def _surface(class_name: str, part: Part, colour: str = "") -> Model:
    return Model(class_name, (part,), colour, is_instance=False)


def _plane(size: tuple[float, float], material: Material) -> Part:
    return solid("quad", (size[0], size[1], 1e-6), (0, 0, 0), material)


def build_room(room: Room, planner: Planner, rng: Rng) -> str:
    """Add floor, walls, ceiling and perhaps a rug; returns the floor in words."""
    class_name, look, words = _floor(rng)
    planner.add(_surface(class_name, _plane((room.width, room.depth), look)), np.eye(4), solid=False)
    ceiling = Material(jitter((240, 240, 236), rng, 0.04), name="white")
    planner.add(
        _surface("ceiling-merged", _plane((room.width, room.depth), ceiling)), placed(0, 0, room.height), solid=False
    )
    class_name, look = _wall_look(rng)
    side = look
    if rng.random() < 0.3:
        class_name, side = "wall-other-merged", Material(jitter((226, 222, 212), rng, 0.08), name="white")
        back = ("wall-other-merged", look) if look.pattern is Pattern.PLAIN else (_class_of(look), look)
    else:
        back = (class_name, look)
    for x, y, yaw, (name, material) in (
        (0, room.depth / 2, 0.0, back),
        (0, -room.depth / 2, np.pi, (class_name, side)),
        (-room.width / 2, 0, np.pi / 2, (class_name, side)),
        (room.width / 2, 0, -np.pi / 2, (class_name, side)),
    ):
        width = room.width if abs(np.sin(yaw)) < 0.5 else room.depth
        part = turned(_plane((width, room.height), material), (1, 0, 0), 90, (0, 0, 0))
        part.matrix[2, 3] = room.height / 2
        planner.add(_surface(name, part, material.name), placed(x, y, 0, yaw), solid=False)
    if rng.random() < 0.45:
        _rug(room, planner, rng)
    return words


def _floor(rng: Rng) -> tuple[str, Material, str]:
    style = rng.integers(4)
    if style <= 1:
        tone = WOODS[int(rng.integers(len(WOODS)))]
        dark = np.array(tone) * 0.66
        planks = Material(
            jitter(tone, rng, 0.08),
            jitter(dark, rng, 0.05),
            Pattern.PLANKS,
            rng.uniform(0.12, 0.2),
            0.15,
        )
        return "floor-wood", planks, "wooden floor"
    light = any_colour(rng, ("white", "beige", "gray"))
    if style == 2:
        dark_name = any_colour(rng, ("black", "gray", "brown", "blue", "red", "green"))
        if dark_name == light:
            dark_name = "black"
        return (
            "floor-other-merged",
            patterned(light, dark_name, Pattern.CHECKER, rng.uniform(0.35, 0.55), rng, gloss=0.25),
            "checkered floor",
        )
    return (
        "floor-other-merged",
        patterned(light, "gray" if light != "gray" else "white", Pattern.TILES, rng.uniform(0.35, 0.6), rng, gloss=0.2),
        "tiled floor",
    )


_PALE = (
    (232, 226, 212),
    (206, 220, 228),
    (222, 208, 186),
    (200, 216, 196),
    (228, 206, 204),
    (240, 232, 196),
    (186, 196, 210),
    (150, 170, 160),
    (206, 150, 120),
    (120, 140, 170),
)


def _wall_look(rng: Rng) -> tuple[str, Material]:
    style = rng.random()
    if style < 0.12:
        brick = patterned(
            any_colour(rng, ("red", "brown", "orange", "beige")), "gray", Pattern.BRICK, rng.uniform(0.28, 0.4), rng
        )
        return "wall-brick", Material(
            scaled(brick.colour, 0.75, 0.03), brick.second, brick.pattern, brick.scale, name=brick.name
        )
    if style < 0.2:
        return "wall-tile", patterned(
            "white",
            any_colour(rng, ("gray", "blue", "green", "beige")),
            Pattern.TILES,
            rng.uniform(0.3, 0.4),
            rng,
            gloss=0.4,
        )
    if style < 0.28:
        plank = wood(rng)
        return "wall-wood", Material(plank.colour, plank.second, Pattern.PLANKS, 0.16, name=plank.name)
    pale = _PALE[int(rng.integers(len(_PALE)))]
    if style < 0.45:
        second = np.minimum(np.array(pale) * 1.12, 255)
        return "wall-other-merged", Material(
            jitter(pale, rng, 0.05),
            jitter(second, rng, 0.03),
            Pattern.STRIPES,
            rng.uniform(0.2, 0.5),
            name="",
        )
    return "wall-other-merged", Material(jitter(pale, rng, 0.08), name="")


def _class_of(look: Material) -> str:
    return {
        Pattern.BRICK: "wall-brick", Pattern.TILES: "wall-tile", Pattern.PLANKS: "wall-wood",
    }.get(look.pattern, "wall-other-merged")  # fmt: skip


def _rug(room: Room, planner: Planner, rng: Rng) -> None:
    w, d = rng.uniform(1.4, 2.4), rng.uniform(1.1, 1.8)
    name = any_colour(rng)
    look = fabric(name, rng)
    look = Material(look.colour, look.second, look.pattern, look.scale * 1.6, name=name)
    shape = "box" if rng.random() < 0.7 else "cylinder"
    model = Model("rug-merged", (solid(shape, (w, d, 0.006), (0, 0, 0), look),), name)
    x = rng.uniform(-1, 1) * max(room.width / 2 - w / 2 - 0.1, 0)
    planner.add(model, placed(x, rng.uniform(-0.3, room.depth / 2 - d / 2 - 0.2)), solid=False)


def window(rng: Rng) -> Model:
    """A bright window with a frame, on the wall at y = 0."""
    w, h = rng.uniform(0.9, 1.5), rng.uniform(0.9, 1.25)
    frame = named("white", rng) if rng.random() < 0.7 else wood(rng)
    sky = Material(jitter((186, 216, 244), rng, 0.06), glow=0.95)
    parts = [box((w, 0.05, h), (0, -0.025, 0), frame)]
    columns = int(rng.integers(1, 4))
    pane = (w - 0.06) / columns
    for i in range(columns):
        parts.append(box((pane - 0.05, 0.02, h - 0.12), ((i + 0.5) * pane - (w - 0.06) / 2, -0.05, 0.06), sky))
    if rng.random() < 0.4:
        cloth = fabric(any_colour(rng), rng)
        parts += [box((w * 0.24, 0.06, h + 0.2), (s * w * 0.5, -0.03, -0.12), cloth) for s in (-1, 1)]
    return Model("window-other", tuple(parts), "")


def door(rng: Rng) -> Model:
    """A door in its frame, on the wall at y = 0."""
    painted = ("white", "blue", "green", "red", "gray")
    leaf = wood(rng) if rng.random() < 0.6 else named(any_colour(rng, painted), rng)
    trim, w, h = named("white", rng), rng.uniform(0.8, 0.92), rng.uniform(1.95, 2.1)
    parts = [box((w + 0.14, 0.03, h + 0.07), (0, -0.015, 0), trim), box((w, 0.05, h), (0, -0.025, 0), leaf)]
    parts += [box((w * 0.66, 0.03, h * 0.3), (0, -0.045, z * h), leaf) for z in (0.12, 0.58)]
    parts.append(ball(0.035, (w * 0.4, -0.08, h * 0.48), metal(rng), "pebble"))
    return Model("door-stuff", tuple(parts), leaf.name)


def mirror(rng: Rng) -> Model:
    """A framed mirror (it does not reflect: a pale glossy plate), on the wall at y = 0."""
    w, h = rng.uniform(0.45, 0.7), rng.uniform(0.7, 1.1)
    glass = Material(jitter((176, 190, 200), rng, 0.05), jitter((214, 226, 232), rng, 0.03), Pattern.GRAIN, 0.9, 0.8)
    frame, plate = box((w, 0.03, h), (0, -0.015, 0), wood(rng)), box((w - 0.1, 0.02, h - 0.1), (0, -0.03, 0.05), glass)
    return Model("mirror-stuff", (frame, plate))


# -- outdoors ---------------------------------------------------------------------------------------------------------


def _strip(class_name: str, look: Material, low: float, high: float, planner: Planner) -> None:
    planner.add(_surface(class_name, _plane((160, high - low), look)), placed(0, (low + high) / 2), solid=False)


def build_ground(ground: Ground, planner: Planner, rng: Rng) -> str:
    """Add strips of ground side by side; returns the main one in words."""
    grass = Material(
        jitter((104, 152, 66), rng, 0.18), jitter((72, 116, 48), rng, 0.1), Pattern.MOTTLED, rng.uniform(0.25, 0.5)
    )
    road = Material(jitter((92, 92, 96), rng, 0.15), jitter((78, 78, 82), rng, 0.1), Pattern.MOTTLED, 0.3)
    paving = patterned(any_colour(rng, ("gray", "beige", "white")), "gray", Pattern.TILES, rng.uniform(0.35, 0.6), rng)
    sand = Material(jitter((226, 202, 150), rng, 0.08), jitter((204, 178, 126), rng, 0.06), Pattern.MOTTLED, 0.4)
    sea = Material(jitter((44, 118, 160), rng, 0.15), jitter((86, 156, 188), rng, 0.1), Pattern.GRAIN, 0.8, 0.8)
    if ground.place == "street":
        kerb = ground.far - rng.uniform(1.0, 1.6)
        _strip("road", road, -60, kerb, planner)
        _strip("pavement-merged", paving, kerb, ground.far, planner)
        _strip("grass-merged", grass, ground.far, 90, planner)
        return "gray road"
    if ground.place == "beach":
        _strip("sand", sand, -60, ground.far + 1.0, planner)
        _strip("sea", sea, ground.far + 1.0, 150, planner)
        return "sand"
    if rng.random() < 0.4:
        y = rng.uniform(0.0, ground.far - 1.4)
        _strip("grass-merged", grass, -60, y, planner)
        _strip("pavement-merged" if rng.random() < 0.6 else "gravel", paving, y, y + 1.3, planner)
        _strip("grass-merged", grass, y + 1.3, 90, planner)
    else:
        _strip("grass-merged", grass, -60, 90, planner)
    if ground.place == "park" and rng.random() < 0.5:
        _mountains(planner, rng)
    return "grass"


def _mountains(planner: Planner, rng: Rng) -> None:
    look = Material(jitter((112, 132, 150), rng, 0.12), jitter((92, 112, 120), rng), Pattern.MOTTLED, 6.0)
    for _ in range(3):
        x, w, h = rng.uniform(-40, 40), rng.uniform(25, 50), rng.uniform(8, 18)
        planner.add(_surface("mountain-merged", solid("cone", (w, 10, h), (0, 0, 0), look)), placed(x, 75), solid=False)


# -- light ------------------------------------------------------------------------------------------------------------


def room_light(room: Room, rng: Rng) -> Light:
    """An area lamp below the ceiling: four points of it, for soft shadows."""
    x, y = rng.uniform(-0.3, 0.3) * room.width, rng.uniform(-0.2, 0.25) * room.depth
    corners = np.array([(-1, -1), (1, -1), (-1, 1), (1, 1)]) * rng.uniform(0.12, 0.3)
    points = np.concatenate([corners + np.array((x, y)), np.full((4, 1), room.height - 0.15)], axis=1)
    warm = rng.uniform(0.0, 1.0)
    colour = np.array((1.0, 0.97 - 0.09 * warm, 0.93 - 0.2 * warm))
    strength, ambient = rng.uniform(0.75, 1.2), rng.uniform(0.28, 0.42)
    name = "bright" if strength > 1.05 else "dim" if strength < 0.83 else ""
    pale = np.array((0.9, 0.95, 1.0)) * ambient
    zero = np.zeros(3)
    return Light(
        name,
        points.astype(np.float32),
        False,
        colour * strength,
        pale,
        pale * 0.75,
        zero,
        zero,
        0.0,
        1.05 if name == "bright" else 0.95,
    )


def day_light(rng: Rng) -> Light:
    """Sunny, cloudy or evening light."""
    kind = ("sunny", "sunny", "cloudy", "evening")[int(rng.integers(4))]
    height = {"sunny": rng.uniform(35, 65), "cloudy": rng.uniform(50, 75), "evening": rng.uniform(14, 26)}[kind]
    turn, lift = rng.uniform(-2.6, 2.6) - np.pi / 2, np.radians(height)
    sun = np.array([np.cos(turn) * np.cos(lift), np.sin(turn) * np.cos(lift), np.sin(lift)])
    blur = {"sunny": 0.02, "cloudy": 0.3, "evening": 0.03}[kind]
    offsets = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0)]) * blur
    points = sun + offsets
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    srgb = {
        "sunny": ((255, 246, 228), (88, 148, 222), (196, 220, 240)),
        "cloudy": ((238, 240, 246), (168, 178, 190), (206, 212, 218)),
        "evening": ((255, 190, 120), (94, 112, 168), (246, 184, 128)),
    }[kind]
    sun_colour, zenith, horizon = (np.array(jitter(c, rng, 0.04)) for c in srgb)
    strength, ambient = {"sunny": (1.0, 0.42), "cloudy": (0.42, 0.62), "evening": (0.95, 0.46)}[kind]
    sky = (0.5 * zenith + 0.5) * ambient
    clouds = {"sunny": rng.uniform(0.0, 0.45), "cloudy": 0.9, "evening": rng.uniform(0.1, 0.5)}[kind]
    return Light(
        kind,
        points.astype(np.float32),
        True,
        sun_colour * strength,
        sky,
        sky * np.array((0.6, 0.6, 0.5)),
        zenith,
        horizon,
        clouds,
        1.0,
    )
