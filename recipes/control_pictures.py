"""The pictures of docs/control.md, made by the bundled model.

python -m recipes.control_pictures --out docs
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageDraw
from rich.console import Console

import open4m
from open4m.evaluation.heldout import SHARD_SIZE, heldout_values
from open4m.files import atomic_path
from open4m.generation import AnyToAny, Masked
from open4m.generation.agreement import standing
from open4m.labeling.metadata import measure_metadata
from open4m.modalities.det import Box
from open4m.modalities.drawing import font
from open4m.modalities.human_poses import Person
from open4m.modalities.registry import get_modality
from open4m.modalities.sam_instance import Instance

SIDE, BAR, GAP = 112, 26, 4
PAPER, INK = (255, 255, 255), (20, 20, 24)
COLOURS = 128
"""Of a strip's palette, which keeps the files small."""

Tiles = list[tuple[str, Image.Image]]
Values = dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """What to make.

    Attributes:
        out: folder of the pictures, ``control-<name>.png``.
        model: name or folder of the model.
        only: names of single pictures; default: all.
        scene: which of the held-out scenes that ship with the package.
    """

    out: Path = Path("docs")
    model: str = "scenes-tiny"
    only: tuple[str, ...] = ()
    scene: int = 0


def layout(scene: Values) -> Values:
    """Geometry without colours."""
    return {"depth": scene["depth"]}


def weights(model: AnyToAny, scene: Values) -> Tiles:
    """The same sentence followed, ignored, and avoided."""
    inputs = {**layout(scene), "caption": scene["caption"]}
    tiles = [("depth, given", model_picture(model, "depth", scene))]
    for weight in (-2.0, 0.0, 1.0, 4.0):
        plan = model.plan(["rgb"], list(inputs), guidance={"caption": weight})
        tiles.append((f"caption={weight:g}", generated(model, inputs, plan)))
    return tiles


def schemes(model: AnyToAny, scene: Values) -> Tiles:
    """Schemes and temperatures of one target."""
    inputs = {**layout(scene), "caption": scene["caption"]}
    plan = model.plan(["rgb"], list(inputs))
    cool = {"scheme": "maskgit", "temperature": 0.7}
    variants = {
        "roar, 24 steps": {"scheme": "roar", "steps": 24},
        "maskgit, 24 steps": {**cool, "steps": 24},
        "maskgit, cosine": {**cool, "steps": 8, "token_schedule": "cosine"},
        "maskgit, own schedule, gumbel=4.5": {**cool, "steps": 8, "token_schedule": "monotone_cosine", "gumbel": 4.5},
    }
    return [(name, generated(model, inputs, plan.edit("rgb", **changes))) for name, changes in variants.items()]


def hole(model: AnyToAny, scene: Values) -> Tiles:
    """A part of a picture given, the rest generated."""
    hidden = square_mask(scene["rgb"].shape[:2], 0.3, 0.35, 0.75, 0.85)
    inputs = {"rgb": Masked(scene["rgb"], hidden), "caption": scene["caption"]}
    plan = model.plan(["rgb"], list(inputs), partial=["rgb"])
    shown = np.where(hidden[..., None], 255, scene["rgb"]).astype(np.uint8)
    tiles = [("given", Image.fromarray(shown))]
    tiles += [(f"seed {seed}", generated(model, inputs, plan, seed)) for seed in range(2)]
    return [*tiles, ("truth", Image.fromarray(scene["rgb"]))]


def repaint(model: AnyToAny, scene: Values) -> Tiles:
    """A region of a result drawn anew, the rest kept."""
    out = model.generate({"caption": scene["caption"]}, ["depth", "rgb"], seed=1)
    region = square_mask((SIDE, SIDE), 0.5, 0.0, 1.0, 1.0)
    tiles = [("result", out["rgb"].image), ("region", Image.fromarray(region))]
    for seed in (5, 6):
        tiles.append((f"repainted, seed {seed}", model.repaint(out, {"rgb": region}, seed=seed)["rgb"].image))
    return tiles


def edit(model: AnyToAny, scene: Values) -> Tiles:
    """Another caption, or palette, on the same geometry."""
    out = model.generate({**layout(scene), "caption": scene["caption"]}, ["rgb"], seed=0)
    changes = {
        "other caption": {"caption": "a wooden table and a blue chair in a room with white walls"},
        "blue palette": {"color_palette": blue(scene["color_palette"])},
    }
    tiles = [("depth, kept", model_picture(model, "depth", scene)), ("result", out["rgb"].image)]
    for name, change in changes.items():
        tiles.append(
            (
                name,
                model.edit(out, change, ["rgb"], keep=["depth"], guidance=dict.fromkeys(change, 3.0), seed=0)[
                    "rgb"
                ].image,
            )
        )
    return tiles


def boxes(model: AnyToAny, scene: Values) -> Tiles:
    """All boxes mirrored."""
    value: list[Box] = scene["det"]
    mirrored = [replace(box, xmin=1 - box.xmax, xmax=1 - box.xmin) for box in value]
    return before_and_after(model, scene, "det", value, mirrored, "semseg")


def people(model: AnyToAny, scene: Values) -> Tiles:
    """Everybody turned by a quarter."""
    quarter = np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=np.float32)
    value: list[Person] = scene["human_poses"]
    turned = [replace(person, global_orient=quarter @ person.global_orient) for person in value]
    return before_and_after(model, scene, "human_poses", value, turned, "normal")


def polygons(model: AnyToAny, scene: Values) -> Tiles:
    """The largest instance half as high."""
    value: list[Instance] = sorted(scene["sam_instance"], key=lambda instance: -instance.area)
    polygon = value[0].polygon.copy()
    polygon[:, 1] = polygon[:, 1].max() - (polygon[:, 1].max() - polygon[:, 1]) / 2
    flat = Instance(polygon, np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]))
    return before_and_after(model, scene, "sam_instance", value, [flat, *value[1:]], "sam_edge")


def edges(model: AnyToAny, scene: Values) -> Tiles:
    """Pictures along given edges."""
    tiles: Tiles = []
    for name in ("canny_edge", "sam_edge"):
        inputs = {name: scene[name], "caption": scene["caption"]}
        plan = model.plan(["rgb"], list(inputs))
        tiles += [(f"{name}, given", model_picture(model, name, scene)), ("rgb", generated(model, inputs, plan))]
    return [*tiles, ("truth", Image.fromarray(scene["rgb"]))]


def metadata(model: AnyToAny, _: Values) -> Tiles:
    """Brightness in its natural unit, nothing else."""
    tiles = []
    for brightness in (70, 100, 130, 160, 190):
        inputs = {"metadata": {"brightness": brightness}}
        tiles.append((f"brightness={brightness}", generated(model, inputs, model.plan(["rgb"], list(inputs)))))
    return tiles


def best(model: AnyToAny, _: Values) -> Tiles:
    """Samples of one request, the one that agrees best first."""
    given = {"metadata": {"brightness": 120.0, "saturation": 60.0}}
    drawn = model.generate(given, ["rgb"], samples=8)
    (scores,) = standing(model.bundle.model, drawn, len(drawn.samples))
    tiles: Tiles = []
    for number, row in enumerate(np.argsort(-scores, kind="stable")[[0, 1, 2, -2, -1]]):
        picture = drawn["rgb"][row]
        found = measure_metadata(picture.value)
        told = f"{found['brightness']:.0f} and {found['saturation']:.0f}, agrees {scores[row]:+.1f}"
        tiles.append((f"kept: {told}" if number == 0 else told, picture.image))
    return tiles


def via(model: AnyToAny, scene: Values) -> Tiles:
    """A picture directly, and by way of what is in it."""
    tiles: Tiles = []
    for stones in ((), ("normal", "semseg")):
        plan = model.plan(["rgb"], ["caption"], via=stones)
        out = model.generate({"caption": scene["caption"]}, plan=plan, seed=2)
        tiles += [(f"({name})", out[name].image) for name in stones]
        tiles.append((f"rgb via {', '.join(stones)}" if stones else "rgb", out["rgb"].image))
    return tiles


def stream(model: AnyToAny, scene: Values) -> Tiles:
    """Partial results."""
    inputs = {**layout(scene), "caption": scene["caption"]}
    return [
        (f"step {partial.step} of {partial.steps}", partial.values["rgb"].image)
        for partial in model.stream(inputs, ["rgb"], seed=0)
        if partial.step in (1, *(partial.steps * quarter // 4 for quarter in (1, 2, 3, 4)))
    ]


STRIPS: dict[str, Callable[[AnyToAny, Values], Tiles]] = {
    function.__name__: function
    for function in (
        *(weights, schemes, hole, repaint, edit, boxes, people, polygons),
        *(edges, metadata, best, via, stream),
    )
}
NEEDED = {"boxes": "det", "people": "human_poses", "polygons": "sam_instance"}
"""What a strip's scene must hold at least one of."""


# -- parts ------------------------------------------------------------------------------------------------------------
def before_and_after(model: AnyToAny, scene: Values, name: str, value: Any, changed: Any, target: str) -> Tiles:
    """What follows from a modality and a caption, and from the changed modality with the same caption."""
    modality = get_modality(name)
    before = model.generate({name: value, "caption": scene["caption"]}, [target], seed=0)
    after = model.edit(before, {name: changed}, [target], keep=["caption"], guidance={name: 3.0}, seed=0)
    tiles = []
    for label, given, result in (("given", value, before), ("changed", changed, after)):
        tiles += [(f"{name}, {label}", modality.draw(given, SIDE)), (target, result[target].image)]
    return tiles


def generated(model: AnyToAny, inputs: Values, plan: open4m.Plan, seed: int = 0) -> Image.Image:
    """The generated picture."""
    return model.generate(inputs, plan=plan, seed=seed)["rgb"].image


def model_picture(model: AnyToAny, name: str, scene: Values) -> Image.Image:
    """A given value, drawn."""
    return get_modality(name).draw(model.view({name: scene[name]})[name], SIDE)


def square_mask(shape: tuple[int, int], top: float, left: float, bottom: float, right: float) -> np.ndarray:
    """(H, W) bool, True in a box given in shares of the picture."""
    mask = np.zeros(shape, dtype=bool)
    rows, columns = shape
    mask[int(top * rows) : int(bottom * rows), int(left * columns) : int(right * columns)] = True
    return mask


def blue(palette: np.ndarray) -> np.ndarray:
    """The same lightness in blue."""
    grey = palette.mean(axis=1, keepdims=True)
    return np.clip(np.hstack([grey * 0.4, grey * 0.7, grey * 1.4]), 0, 255).astype(np.uint8)


def strip(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Pictures side by side, each under its label."""
    width = len(tiles) * (SIDE + GAP) - GAP
    sheet = Image.new("RGB", (width, BAR + SIDE), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, (text, image) in enumerate(tiles):
        left = number * (SIDE + GAP)
        draw.multiline_text((left + 1, BAR - 2), fill(text, 20), fill=INK, font=font(10), anchor="ld", spacing=1)
        sheet.paste(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, BAR))
    return sheet.quantize(COLOURS, dither=Image.Dither.NONE)


def main(pictures: Pictures) -> None:
    """Make the strips."""
    console, model = Console(), open4m.load(pictures.model)
    wanted = ("rgb", "depth", "caption", "color_palette", "canny_edge", "sam_edge", *NEEDED.values())
    names = [name for name in wanted if name in (*model.inputs, *model.targets)]
    scenes = heldout_values(names, SHARD_SIZE)[pictures.scene :]
    for name in pictures.only or STRIPS:
        scene = next(scene for scene in scenes if len(scene[NEEDED.get(name, "rgb")]))
        sheet = strip(STRIPS[name](model, scene))
        path = pictures.out / f"control-{name}.png"
        with atomic_path(path) as temporary:
            sheet.save(temporary, format="PNG", optimize=True)
        console.print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(tyro.cli(Pictures))
