"""Rooms, yards and streets: which things, where, in which light, seen from where."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from open4m.scenes import furniture, outdoor, small_things
from open4m.scenes.backdrop import Ground, Room, build_ground, build_room, day_light, door, mirror, room_light, window
from open4m.scenes.model import Model, Surface, Thing, placed
from open4m.scenes.people import person, seated_person
from open4m.scenes.placement import Planner
from open4m.scenes.scene import Camera, Scene

Rng = np.random.Generator
Maker = Callable[[Rng], Model]

VIEWS_PER_SCENE = 3
"""Cameras per scene; they share its geometry."""

WORLD_VERSION = 1
"""Changes with the distribution of scenes, so that no data set mixes two of them."""

TABLE_THINGS: tuple[Maker, ...] = (
    small_things.vase, small_things.cup, small_things.bottle, small_things.bowl, small_things.book, small_things.laptop,
    small_things.wine_glass, small_things.apple, small_things.orange, small_things.cake, small_things.teddy_bear,
)  # fmt: skip
FLOOR_THINGS: tuple[Maker, ...] = (
    small_things.sports_ball, furniture.suitcase, small_things.backpack, small_things.teddy_bear, outdoor.dog,
    outdoor.cat, furniture.potted_plant,
)  # fmt: skip

# place: (things along the walls, things in the middle)
ROOMS: dict[str, tuple[tuple[Maker, ...], tuple[Maker, ...]]] = {
    "living room": ((furniture.couch, furniture.shelf, furniture.floor_lamp, furniture.cabinet, furniture.potted_plant),
                    (furniture.low_table, furniture.chair)),
    "bedroom": ((furniture.bed, furniture.cabinet, furniture.floor_lamp, furniture.potted_plant, furniture.low_table),
                (furniture.chair,)),
    "kitchen": ((furniture.refrigerator, furniture.oven, furniture.cabinet, furniture.cabinet),
                (furniture.dining_table, furniture.chair)),
    "dining room": ((furniture.cabinet, furniture.potted_plant, furniture.shelf, furniture.floor_lamp),
                    (furniture.dining_table,)),
    "office": ((furniture.shelf, furniture.cabinet, furniture.potted_plant, furniture.couch),
               (furniture.dining_table, furniture.chair)),
}  # fmt: skip

GROUNDS: dict[str, tuple[Maker, ...]] = {
    "yard": (outdoor.picnic_table, outdoor.bench, outdoor.dog, outdoor.cat, small_things.sports_ball, outdoor.bush,
             furniture.potted_plant, small_things.umbrella, furniture.chair, outdoor.bicycle, outdoor.rock),
    "park": (outdoor.bench, outdoor.dog, small_things.sports_ball, outdoor.bicycle, outdoor.bush, small_things.backpack,
             outdoor.tree, outdoor.rock, small_things.umbrella),
    "street": (outdoor.car, outdoor.fire_hydrant, outdoor.traffic_light, outdoor.stop_sign, outdoor.bench,
               outdoor.bicycle, furniture.suitcase, outdoor.dog, outdoor.car),
    "beach": (small_things.umbrella, small_things.sports_ball, furniture.chair, outdoor.rock, outdoor.dog,
              small_things.backpack, furniture.suitcase),
}  # fmt: skip


def sample_scene(seed: int | Sequence[int], extra: Sequence[Model] = ()) -> Scene:
    """A random scene with :data:`VIEWS_PER_SCENE` cameras; equal seeds give equal scenes.

    Args:
        seed: an integer or several.
        extra: models of an asset folder; one of them joins about every second scene.
    """
    numbers = (seed,) if isinstance(seed, int) else tuple(seed)
    rng = np.random.default_rng(numbers)
    return _indoors(numbers, rng, extra) if rng.random() < 0.58 else _outdoors(numbers, rng, extra)


def _pick(rng: Rng, makers: Sequence[Maker]) -> Maker:
    return makers[int(rng.integers(len(makers)))]


# -- rooms ------------------------------------------------------------------------------------------------------------


def _indoors(seed: tuple[int, ...], rng: Rng, extra: Sequence[Model]) -> Scene:
    place = tuple(ROOMS)[int(rng.integers(len(ROOMS)))]
    room = Room(rng.uniform(3.4, 5.2), rng.uniform(4.0, 5.6), rng.uniform(2.4, 2.9))
    planner = Planner((-room.width / 2, -room.depth / 2), (room.width / 2, room.depth / 2))
    ground = build_room(room, planner, rng)
    by_wall, in_middle = ROOMS[place]
    # The space in front of the camera's wall stays empty: cameras stand there.
    planner.low = np.array((-room.width / 2, -room.depth / 2 + 1.35))

    first, *others = by_wall
    for maker in (first, *(m for m in others if rng.random() < 0.6)):
        _against_wall(planner, room, maker(rng), rng)
    for maker in in_middle:
        for _ in range(1 if maker is not furniture.chair else int(rng.integers(0, 3))):
            _in_middle(planner, maker(rng), rng, face_table=True)
    for _ in range(int(rng.integers(0, 3))):
        _in_middle(planner, _pick(rng, FLOOR_THINGS)(rng), rng)
    _chairs_at_tables(planner, rng)
    _add_extra(planner, extra, rng)
    if rng.random() < 0.55:
        _people(planner, rng, int(rng.integers(1, 3)), seated=0.5)
    _wall_things(planner, room, rng)
    _stock_surfaces(planner, rng)
    cameras = _cameras(planner, rng, low_y=-room.depth / 2, half_x=room.width / 2 - 0.35)
    return Scene(seed, place, ground, tuple(planner.things), room_light(room, rng), cameras)


def _against_wall(planner: Planner, room: Room, model: Model, rng: Rng) -> int | None:
    depth = model.bounds[1, 1] + 0.015  # behind the model's origin
    half = (model.bounds[1, 0] - model.bounds[0, 0]) / 2
    for _ in range(12):
        wall = int(rng.choice(3, p=(0.5, 0.25, 0.25)))
        if wall == 0:
            x = rng.uniform(-room.width / 2 + half, room.width / 2 - half) if room.width > 2 * half else 0.0
            pose = placed(x, room.depth / 2 - depth)
        else:
            side = -1 if wall == 1 else 1
            y = rng.uniform(-room.depth / 2 + 1.4 + half, max(room.depth / 2 - half, -room.depth / 2 + 1.41 + half))
            pose = placed(side * (room.width / 2 - depth), y, 0.0, -side * np.pi / 2)
        index = planner.place(model, pose)
        if index is not None:
            return index
    return None


def _in_middle(planner: Planner, model: Model, rng: Rng, face_table: bool = False) -> int | None:
    for _ in range(14):
        x, y = rng.uniform(planner.low + 0.2, planner.high - 0.2)
        quarter = face_table and model.class_name != "chair"
        yaw = rng.normal(0, 0.08) + (np.pi / 2 if rng.random() < 0.3 else 0) if quarter else rng.uniform(-np.pi, np.pi)
        index = planner.place(model, placed(x, y, 0.0, yaw))
        if index is not None:
            return index
    return None


def _chairs_at_tables(planner: Planner, rng: Rng) -> None:
    """Up to four equal chairs round each dining table, each facing it."""
    for index, thing in list(enumerate(planner.things)):
        if thing.model.class_name != "dining table":
            continue
        chair_seed = int(rng.integers(2**31))
        (x0, y0, _), (x1, y1, _) = thing.model.bounds
        for side in range(4):
            if rng.random() < 0.35:
                continue
            chair = furniture.chair(np.random.default_rng(chair_seed))  # the same chair again
            out = -chair.bounds[0, 1] + rng.uniform(0.02, 0.25)
            along = rng.uniform(-0.15, 0.15)
            spot = (
                (along, y1 + out, 0.0),
                (x1 + out, along, -np.pi / 2),
                (along, y0 - out, np.pi),
                (x0 - out, along, np.pi / 2),
            )
            x, y, yaw = spot[side]
            planner.place(chair, planner.things[index].pose @ placed(x, y, 0.0, yaw))


_ON_WALLS: tuple[tuple[Maker, float], ...] = (
    (window, 0.6), (door, 0.45), (small_things.clock, 0.5), (mirror, 0.2), (window, 0.6),
)  # fmt: skip


def _wall_things(planner: Planner, room: Room, rng: Rng) -> None:
    """Windows, doors, clocks and mirrors, flat on the three walls that cameras see."""
    for maker, probability in _ON_WALLS:
        if rng.random() < probability:
            model = maker(rng)
            low, high = model.bounds[:, 2]
            z = 0.0 if maker is door else rng.uniform(0.85, max(room.height - (high - low) - 0.15, 0.9)) - low
            _hang(planner, room, model, z, rng)


def _hang(planner: Planner, room: Room, model: Model, z: float, rng: Rng) -> None:
    half = (model.bounds[1, 0] - model.bounds[0, 0]) / 2 + 0.1
    for _ in range(6):
        wall = int(rng.choice(3, p=(0.6, 0.2, 0.2)))
        if wall == 0:
            span = max(room.width / 2 - half, 0.01)
            pose = placed(rng.uniform(-span, span), room.depth / 2 - model.bounds[1, 1], z)
        else:
            side = -1 if wall == 1 else 1
            y = rng.uniform(-room.depth / 2 + 1.4 + half, room.depth / 2 - half)
            pose = placed(side * (room.width / 2 - model.bounds[1, 1]), y, z, -side * np.pi / 2)
        if z + model.bounds[1, 2] < room.height - 0.02 and planner.place(model, pose) is not None:
            return


def _stock_surfaces(planner: Planner, rng: Rng) -> None:
    """Small things on tables, shelves, cabinets and beds; a television where it fits."""
    for index, thing in list(enumerate(planner.things)):
        for surface in thing.model.surfaces:
            for maker in _makers_for(thing.model.class_name, rng):
                _set_down(planner, index, surface, maker(rng), rng)


def _makers_for(class_name: str, rng: Rng) -> list[Maker]:
    """What to put on one surface of a thing."""
    count = int(rng.integers(0, 3)) if class_name == "shelf" else int(rng.integers(1, 4))
    makers: list[Maker] = [_pick(rng, TABLE_THINGS) for _ in range(count)]
    if class_name == "shelf":
        return [small_things.book if rng.random() < 0.6 else maker for maker in makers]
    if class_name == "bed":
        return [small_things.teddy_bear if rng.random() < 0.5 else small_things.book]
    if class_name == "cabinet-merged" and rng.random() < 0.5:
        makers.insert(0, furniture.tv if rng.random() < 0.6 else small_things.microwave)
    return makers


def _set_down(planner: Planner, support: int, surface: Surface, model: Model, rng: Rng) -> None:
    """Try to put a small model somewhere on a surface of the thing ``support``."""
    owner = planner.things[support]
    half = (model.bounds[1, :2] - model.bounds[0, :2]) / 2
    room_x, room_y = surface.half_x - half[0] * 0.8, surface.half_y - half[1] * 0.8
    if model.bounds[1, 2] > surface.clearance or min(room_x, room_y) < 0:
        return
    inside = surface.clearance < 1.0  # between the boards of a shelf, and so inside of its box
    for _ in range(6):
        turn = rng.normal(0, 0.1) if model.class_name in ("tv", "microwave", "laptop") else rng.uniform(-3, 3)
        x, y = surface.x + rng.uniform(-room_x, room_x), surface.y + rng.uniform(-room_y, room_y)
        pose = owner.pose @ placed(x, y, surface.z, 0.0 if owner.model.class_name == "shelf" else turn)
        if planner.place(model, pose, support=support, allowed=support if inside else None) is not None:
            return


# -- people, extras, cameras ------------------------------------------------------------------------------------------


def _people(planner: Planner, rng: Rng, count: int, seated: float) -> None:
    seats = [(i, x) for i, t in enumerate(planner.things) if t.model.seat is not None for x in t.model.seats]
    for _ in range(count):
        if seats and rng.random() < seated:
            index, x = seats.pop(int(rng.integers(len(seats))))
            thing = planner.things[index]
            assert thing.model.seat is not None
            y, z = thing.model.seat
            pose = thing.pose @ placed(x, y, z, rng.normal(0, 0.05))
            if planner.place(seated_person(rng), pose, support=index, allowed=index) is not None:
                continue
        model = person(rng)
        for _ in range(10):
            x, y = rng.uniform(planner.low + 0.25, planner.high - 0.25)
            yaw = rng.normal(0, 0.8) if rng.random() < 0.65 else rng.uniform(-np.pi, np.pi)
            if planner.place(model, placed(x, y, 0.0, yaw)) is not None:
                break


def _add_extra(planner: Planner, extra: Sequence[Model], rng: Rng) -> None:
    if extra and rng.random() < 0.5:
        _in_middle(planner, extra[int(rng.integers(len(extra)))], rng)


def _cameras(planner: Planner, rng: Rng, low_y: float, half_x: float) -> tuple[Camera, ...]:
    """Cameras near the empty side, each looking towards a thing that is worth seeing."""
    inside = [t for t in planner.things if t.model.is_instance and t.support is None and _is_inside(planner, t)]
    aims = [_middle(t) for t in inside] or [np.array((0.0, 1.0, 0.7))]
    centre = np.mean(aims, axis=0)
    cameras = []
    for slot in rng.permutation(VIEWS_PER_SCENE):
        aim = aims[int(rng.integers(len(aims)))]
        across = (slot + rng.random()) / VIEWS_PER_SCENE * 2 - 1  # one camera in each third: different views
        position = np.array([across * half_x, low_y + rng.uniform(0.2, 1.1), rng.uniform(1.05, 1.85)])
        target = 0.7 * aim + 0.3 * centre
        target[2] = rng.uniform(0.5, 1.0)
        target[1] = max(target[1], position[1] + 1.2)
        cameras.append(Camera.looking(position, target, float(np.tan(np.radians(rng.uniform(50, 66)) / 2))))
    return tuple(cameras)


def _is_inside(planner: Planner, thing: Thing) -> bool:
    x, y, z = thing.pose[:3, 3]
    return bool((planner.low <= (x, y)).all() and ((x, y) <= planner.high).all() and z < 0.3)


def _middle(thing: Thing) -> np.ndarray:
    return thing.pose[:3, :3] @ thing.model.bounds.mean(axis=0) + thing.pose[:3, 3]


# -- outdoors ---------------------------------------------------------------------------------------------------------


def _outdoors(seed: tuple[int, ...], rng: Rng, extra: Sequence[Model]) -> Scene:
    place = tuple(GROUNDS)[int(rng.choice(4, p=(0.3, 0.25, 0.32, 0.13)))]
    planner = Planner((-40, -40), (40, 40))
    ground = Ground(place, rng.uniform(2.4, 3.8))
    words = build_ground(ground, planner, rng)
    _background(planner, place, ground.far, rng)
    planner.low, planner.high = np.array((-2.3, -0.9)), np.array((2.3, ground.far - 0.3))
    for _ in range(int(rng.integers(4, 8))):
        model = _pick(rng, GROUNDS[place])(rng)
        if model.class_name == "car":
            _drive(planner, model, rng)
        elif model.class_name in ("stop sign", "traffic light", "bench", "bicycle"):
            _upright(planner, model, rng)
        else:
            _in_middle(planner, model, rng)
    if place == "yard":
        _chairs_at_tables(planner, rng)
    _add_extra(planner, extra, rng)
    if rng.random() < 0.7:
        _people(planner, rng, int(rng.integers(1, 4)), seated=0.35)
    _stock_surfaces(planner, rng)
    cameras = _cameras(planner, rng, low_y=-3.6, half_x=1.5)
    return Scene(seed, place, words, tuple(planner.things), day_light(rng), cameras)


def _upright(planner: Planner, model: Model, rng: Rng) -> None:
    for _ in range(12):
        x, y = rng.uniform(planner.low, planner.high)
        if planner.place(model, placed(x, y, 0.0, rng.normal(0, 0.5))) is not None:
            return


def _drive(planner: Planner, model: Model, rng: Rng) -> None:
    """A car along the road or, less often, across it."""
    for _ in range(12):
        yaw = rng.choice((-1, 1)) * np.pi / 2 + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.normal(0, 0.5)
        if planner.place(model, placed(rng.uniform(-1.6, 1.6), rng.uniform(0.3, 2.8), 0.0, yaw)) is not None:
            return


def _background(planner: Planner, place: str, far: float, rng: Rng) -> None:
    """What closes the view behind the ground: houses, towers, fences, trees."""
    x = -11.0
    behind: dict[str, tuple[Maker, ...]] = {
        "yard": (outdoor.house, outdoor.tree, outdoor.fence, outdoor.fence, outdoor.tree),
        "park": (outdoor.tree, outdoor.tree, outdoor.bush, outdoor.tree, outdoor.fence),
        "street": (outdoor.tower, outdoor.house, outdoor.tower, outdoor.tree),
        "beach": (outdoor.rock, outdoor.tree),
    }
    while x < 11:
        model = _pick(rng, behind[place])(rng)
        half = (model.bounds[1, 0] - model.bounds[0, 0]) / 2
        x += half + rng.uniform(0.0, 0.6 if place in ("yard", "street") else 1.8)
        y = far + 0.2 - model.bounds[0, 1] + rng.uniform(0, 0.5 if model.class_name == "fence-merged" else 2.5)
        if place != "beach" or rng.random() < 0.4:
            planner.place(model, placed(x, y, 0.0, 0.0))
        x += half
