"""Controls: what a sweep varies, in the units of people, and how to measure whether the outcome follows."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from open4m.errors import GenerationError, UnknownNameError
from open4m.labeling.metadata import measure_metadata
from open4m.labeling.palette import extract_palettes
from open4m.modalities.cielab import rgb_to_lab
from open4m.modalities.coco import THING_CLASSES, panoptic_value
from open4m.modalities.det import Box, shown_boxes
from open4m.modalities.metadata import FIELDS, Count, field_range

_APPEARANCE = ("colorfulness", "brightness", "contrast", "saturation", "entropy", "aesthetic_score")
_READ: dict[str, str] = (
    dict.fromkeys(_APPEARANCE, "")
    | dict.fromkeys(("walkability", "objectness", "semantic_diversity"), "semseg")
    | dict.fromkeys(("n_humans", "n_coco_instances", "coco_instance_diversity"), "det")
    | {"geometric_complexity": "normal"}
)
"""Fields that a picture can be measured for → what the model must first read from the picture."""

_SPECK = 1 / 400
"""Classes on a smaller share of a picture are not counted where the model reads them: a few stray pixels are no class.
Numbers of classes read from 160 validation scenes ranked with the true ones at .44, at .26 with specks (by a script
that is not kept; ``steering_report`` measures the same on held-out scenes)."""

_OF_CAPTIONS = ("caption_n_chars", "caption_n_words", "caption_n_sentences")
_HUES = ("#b03030", "#b0a030", "#309040", "#3080b0", "#5040a0")
_COUNTS = (0, 1, 2, 3, 4)
_STEPS = 5
_BOX_WIDTH, _BOX_TOP, _BOX_BOTTOM = 0.2, 0.28, 0.7  # about the median of people in the embedded scenes


class Control(ABC):
    """One thing that is varied.

    Attributes:
        name: as on the command line.
        modality: what carries it to the model.
        output: what is generated, ``rgb`` or ``caption``.
        reads: modalities that the model reads from a generated picture, to measure it.
        measures: names of what is measured.
    """

    modality: ClassVar[str]

    def __init__(self, name: str, measures: tuple[str, ...], output: str = "rgb", reads: tuple[str, ...] = ()) -> None:
        self.name = name
        self.output = output
        self.reads = reads
        self.measures = measures

    @abstractmethod
    def parse(self, text: str) -> Any:
        """One asked value."""

    def code(self, asked: Any) -> Any:
        """What the model sees of an asked value: equal ones it cannot tell apart."""
        return asked

    @abstractmethod
    def label(self, asked: Any) -> str:
        """An asked value as people write it; :meth:`parse` reads it."""

    @abstractmethod
    def usual(self, samples: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Values to try where none are asked for; ``samples`` of the world of the model say what is usual there."""

    @abstractmethod
    def value(self, asked: Any, base: Any) -> Any:
        """The value of ``modality`` that asks for it; ``base`` is what else is given of this modality, or None."""

    @abstractmethod
    def expected(self, asked: Any) -> tuple[float, ...]:
        """The numbers that the measures should follow."""

    @abstractmethod
    def measure(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        """The measures of generated values: ``output`` and ``reads``."""

    def truth(self, sample: Mapping[str, Any]) -> tuple[float, ...]:
        """What :meth:`measure` would give for a labelled sample if the model read it without a fault; NaN: unknown."""
        return self.measure({name: sample[name] for name in (self.output, *self.reads)})


class FieldControl(Control):
    """A metadata field in natural units; measured with the formulas that label the training data.

    But for specks: classes read from a picture are counted from :data:`_SPECK` on.
    """

    modality = "metadata"

    def __init__(self, field: str) -> None:
        if field not in FIELDS:
            raise UnknownNameError("metadata field", field, FIELDS)
        if field not in (*_READ, *_OF_CAPTIONS):
            raise GenerationError(
                f"metadata.{field}: nothing here measures {field} of what is generated, so that a sweep of it could "
                f"not be checked. Can be measured: {', '.join([*_READ, *_OF_CAPTIONS])}."
            )
        read = _READ.get(field)
        super().__init__(
            f"metadata.{field}", (field,), "caption" if field in _OF_CAPTIONS else "rgb", (read,) if read else ()
        )
        self.field = field

    def parse(self, text: str) -> float:
        number, (low, high) = _number(self.name, text), field_range(self.field)
        if not low <= number <= high:
            raise GenerationError(f"{self.name}: {text} is out of range; expected {low:g}…{high:g}.")
        return number

    def code(self, asked: Any) -> int:
        return FIELDS[self.field].code(asked)

    def label(self, asked: float) -> str:
        return f"{asked:g}"

    def usual(self, samples: Sequence[Mapping[str, Any]]) -> list[float]:
        known = [s["metadata"][self.field] for s in samples if self.field in s.get("metadata", {})]
        if not known:
            raise GenerationError(f"No sample says what is usual for {self.name}. Give values: {self.name}=1,2,3.")
        low, high = np.percentile(known, [5, 95])
        digits = 0 if high - low > 10 or isinstance(FIELDS[self.field], Count) else 2
        return list(dict.fromkeys(round(float(v), digits) for v in np.linspace(low, high, _STEPS)))

    def value(self, asked: float, base: Mapping[str, float] | None) -> dict[str, float]:
        return {**(base or {}), self.field: asked}

    def expected(self, asked: float) -> tuple[float, ...]:
        return (asked,)

    def measure(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        if self.output == "caption":
            blank = np.zeros((1, 1, 3), dtype=np.uint8)
            return (measure_metadata(blank, captions=[made["caption"]])[self.field],)
        boxes = shown_boxes(made["det"]) if "det" in made else None
        semseg = _without_specks(made["semseg"]) if self.field == "semantic_diversity" else made.get("semseg")
        found = measure_metadata(made["rgb"], semseg=semseg, normal=made.get("normal"), boxes=boxes)
        return (float(found.get(self.field, np.nan)),)

    def truth(self, sample: Mapping[str, Any]) -> tuple[float, ...]:
        return (float(sample["metadata"].get(self.field, np.nan)),)


class ColourControl(Control):
    """One colour of the palette, the first; the others are those given. Measured: the mean colour, in CIE Lab."""

    modality = "color_palette"

    def __init__(self) -> None:
        super().__init__(self.modality, ("lightness L*", "green–red a*", "blue–yellow b*"))

    def parse(self, text: str) -> tuple[int, int, int]:
        if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
            raise GenerationError(f"{self.name}: {text!r} is no colour. Write it as #rrggbb, such as #b03030.")
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
        return red, green, blue

    def label(self, asked: tuple[int, int, int]) -> str:
        return "#{:02x}{:02x}{:02x}".format(*asked)

    def usual(self, samples: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Main colours of the pictures among ``samples``, as different as can be, dark to light; else all hues."""
        colours = np.array([extract_palettes(sample["rgb"])[0][0] for sample in samples if "rgb" in sample])
        if len(colours) < _STEPS:
            return [self.parse(hue) for hue in _HUES]
        lab = rgb_to_lab(colours.astype(np.uint8))
        chosen: list[int] = []
        distance = np.linalg.norm(lab - lab.mean(axis=0), axis=-1)
        while len(chosen) < _STEPS:  # the farthest from those chosen so far
            chosen.append(int(distance.argmax()))
            nearest = np.linalg.norm(lab - lab[chosen[-1]], axis=-1)
            distance = nearest if len(chosen) == 1 else np.minimum(distance, nearest)
        return [tuple(colours[row].tolist()) for row in sorted(chosen, key=lambda row: lab[row, 0])]

    def value(self, asked: tuple[int, int, int], base: np.ndarray | None) -> np.ndarray:
        colour = np.array([asked], dtype=np.uint8)
        return colour if base is None else np.concatenate([colour, base[1:]])

    def expected(self, asked: tuple[int, int, int]) -> tuple[float, ...]:
        return tuple(rgb_to_lab(np.array(asked, dtype=np.uint8)).tolist())

    def measure(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        return self.expected(tuple(extract_palettes(made["rgb"])[0][0].tolist()))


class BoxesControl(Control):
    """How many boxes of a class there are, side by side, besides those given.

    Measured on the generated picture as the model itself reads it: its boxes of the class that it would show
    (:func:`~open4m.modalities.det.shown_boxes`), and the share of the pixels that its segmentation gives to the class.
    Both are as good as the model's reading.
    """

    modality = "det"

    def __init__(self, class_name: str) -> None:
        if class_name not in THING_CLASSES:
            raise UnknownNameError("class of boxes", class_name, THING_CLASSES)
        super().__init__(f"det.{class_name}", ("boxes read", "share of pixels"), reads=("det", "semseg"))
        self.class_name = class_name

    def parse(self, text: str) -> int:
        count = _number(self.name, text)
        if count != int(count) or not 0 <= count <= 20:
            raise GenerationError(f"{self.name}: {text} is no number of boxes; expected 0…20.")
        return int(count)

    def label(self, asked: int) -> str:
        return str(asked)

    def usual(self, samples: Sequence[Mapping[str, Any]]) -> list[int]:
        del samples  # what fits beside each other into one picture
        return list(_COUNTS)

    def value(self, asked: int, base: Sequence[Box] | None) -> list[Box]:
        half = min(_BOX_WIDTH, 0.9 / max(asked, 1)) / 2
        middles = [(number + 0.5) / asked for number in range(asked)]
        return [*(base or ()), *(Box(m - half, _BOX_TOP, m + half, _BOX_BOTTOM, self.class_name) for m in middles)]

    def expected(self, asked: int) -> tuple[float, ...]:
        return (asked, asked)

    def measure(self, made: Mapping[str, Any]) -> tuple[float, ...]:
        count = sum(box.class_name == self.class_name for box in shown_boxes(made["det"]))
        return (float(count), float(np.mean(made["semseg"] == panoptic_value(self.class_name))))


def _without_specks(semseg: np.ndarray) -> np.ndarray:
    """Classes (H, W) that are on a share of at least :data:`_SPECK`; the others become 0, none."""
    classes, counts = np.unique(semseg, return_counts=True)
    return np.where(np.isin(semseg, classes[counts >= _SPECK * semseg.size]), semseg, 0)


def parse_control(text: str) -> tuple[Control, list[Any]]:
    """``metadata.brightness=40,120,200`` → control and asked values; without ``=…`` no values.

    Raises:
        GenerationError, UnknownNameError: with what is known.
    """
    name, _, listed = text.partition("=")
    kind, _, part = name.partition(".")
    control: Control
    match kind:
        case "metadata" if part:
            control = FieldControl(part)
        case "color_palette":
            control = ColourControl()
        case "det" if part:
            control = BoxesControl(part)
        case _:
            raise GenerationError(
                f"{name!r} is no control. Known: metadata.FIELD=numbers (metadata.brightness=40,120,200), "
                "color_palette=colours (color_palette=#b03030,#3080b0), det.CLASS=counts (det.person=0,1,2)."
            )
    values = [control.parse(value.strip()) for value in listed.split(",")] if listed else []
    if len(values) == 1 or len({control.code(value) for value in values}) < len(values):
        raise GenerationError(f"{name}: {listed!r} are not several values that the model can tell apart.")
    return control, values


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise GenerationError(f"{name}: {text!r} is no number.")
    return number
