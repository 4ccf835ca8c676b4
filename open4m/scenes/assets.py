"""Models from outside: a folder of OBJ or GLB files with a table of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from open4m.errors import DataError, UnknownNameError
from open4m.files import read_json
from open4m.modalities.coco import panoptic_value
from open4m.scenes.materials import COLOURS, Material, to_linear
from open4m.scenes.meshes import from_trimesh
from open4m.scenes.model import Model, Part

TABLE = "classes.json"
_MAX_FACES = 20_000


def load_assets(folder: str | Path) -> tuple[Model, ...]:
    """Read the models named in ``FOLDER/classes.json``.

    The table maps a file name to ``{"class": COCO-panoptic name, "height": metres, "up": "y" or "z" (default "y"),
    "colour": one of the colour names (default: the file's own main colour, "gray" if it has none)}``. Models are
    scaled to their height and put on the ground; their front should be the file's +z (y up) or -y (z up).

    Raises:
        DataError: the table or a model is missing, unreadable, empty or too large; names the file and the entry.
    """
    folder = Path(folder)
    path = folder / TABLE
    if not path.is_file():
        raise DataError(
            f'{path}: there is no such file. Write a table such as {{"duck.glb": {{"class": "bird", "height": 0.3}}}}.'
        )
    try:
        table = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}).") from error
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: expected an object that maps file names to their class and height.")
    return tuple(_load(folder / name, entry, f"{path}: entry {name!r}") for name, entry in sorted(table.items()))


def _load(path: Path, entry: Any, where: str) -> Model:
    if not isinstance(entry, dict) or not isinstance(entry.get("height"), int | float) or not entry["height"] > 0:
        raise DataError(f"{where}: expected 'class' and a positive 'height' in metres.")
    class_name, up, colour = entry.get("class", ""), entry.get("up", "y"), entry.get("colour", "")
    try:
        panoptic_value(class_name)
    except UnknownNameError as error:
        raise DataError(f"{where}: {error}") from error
    if up not in ("y", "z") or (colour and colour not in COLOURS):
        raise DataError(f"{where}: 'up' must be 'y' or 'z', and 'colour' one of {', '.join(COLOURS)}.")
    mesh = _read_mesh(path, where)
    vertices = np.array(mesh.vertices, dtype=np.float64)
    if up == "y":
        vertices = np.stack([vertices[:, 0], -vertices[:, 2], vertices[:, 1]], axis=1)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if high[2] - low[2] < 1e-3 * (high - low).max():
        raise DataError(f"{where}: {path} has no height to be scaled by. Turn it upright, or change 'up'.")
    vertices -= ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2])
    vertices *= float(entry["height"]) / (high[2] - low[2])
    shape = from_trimesh(trimesh.Trimesh(vertices, mesh.faces, process=False))
    srgb = np.array(COLOURS[colour], float) if colour else _main_colour(mesh)
    red, green, blue = to_linear(srgb)
    return Model(class_name, (Part(shape, np.eye(4), Material((red, green, blue), gloss=0.2)),), colour)


def _read_mesh(path: Path, where: str) -> trimesh.Trimesh:
    if not path.is_file():
        raise DataError(f"{where}: there is no file {path}.")
    try:
        mesh = trimesh.load(path, force="mesh")
    except Exception as error:  # the readers of trimesh raise whatever the file makes them stumble over
        raise DataError(f"{where}: {path} cannot be read as a mesh ({error}). Export it as OBJ or GLB.") from error
    if not isinstance(mesh, trimesh.Trimesh) or not 0 < len(mesh.faces) <= _MAX_FACES:
        count = len(mesh.faces) if isinstance(mesh, trimesh.Trimesh) else 0
        raise DataError(
            f"{where}: {path} has {count} triangles, expected 1 to {_MAX_FACES}. Simplify or triangulate it."
        )
    return mesh


def _main_colour(mesh: trimesh.Trimesh) -> np.ndarray:
    """sRGB 0…255 of the faces or of the material; grey if the file has neither."""
    source = getattr(mesh.visual, "material", mesh.visual)
    colour = getattr(source, "main_color", None)
    return np.array(COLOURS["gray"], float) if colour is None else np.asarray(colour[:3], float)
