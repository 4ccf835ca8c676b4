"""Result: what was generated – tokens at once, values and pictures when they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from open4m.errors import UnknownNameError
from open4m.files import atomic_path, filled_folder, write_json
from open4m.generation.canvas import Canvas
from open4m.generation.codecs import Codecs, Coded
from open4m.generation.engine import Outcome
from open4m.generation.inputs import Given
from open4m.generation.plan import Plan, TargetPlan
from open4m.generation.stored import PLAN_FILE, TOKENS_FILE, Record, write_tokens
from open4m.modalities.base import Modality
from open4m.modalities.registry import get_modality
from open4m.modalities.view import Fit, Resample, View
from open4m.streams import StreamKind, StreamSpec
from open4m.tokenizers.diffusion import Sampling

_SMALLEST_PICTURE = 224


class Item:
    """One generated modality of one sample. Values and pictures are made on first use and kept."""

    def __init__(
        self,
        spec: StreamSpec,
        codecs: Codecs,
        tokens: Tensor,
        probabilities: Tensor | None,
        sampling: Sampling,
        background: Background,
        letterbox: View | None,
        repeats: Sequence[Tensor] = (),
    ) -> None:
        self.spec = spec
        self.modality: Modality[Any] = get_modality(spec.modality)
        self.tokens = tokens
        """(L,) int64: ids of the stream; of a sequence that was written repeatedly those that say what is shown of the
        merged value, as far as they fit."""
        self.repeats = repeats
        """(L_i,) int64: ids of every repeat, where there are several; their values are merged into one."""
        self.size = spec.resolution or codecs.bundle.info.image_size
        """Side in pixels of the square that the model sees."""
        self._codecs = codecs
        self._probabilities = probabilities
        self._sampling = sampling
        self._background = background
        self._letterbox = letterbox
        self._made: dict[str, Any] = {}

    @property
    def value(self) -> Any:
        """What the modality's card describes (numpy array, text, list of boxes, …), without the bars of a letterbox."""
        return self._once("value", lambda: self.in_picture(self.square))

    @property
    def square(self) -> Any:
        """As :attr:`value`, but all of the square that the model sees."""
        decode_together([self])
        return self._made["square"]

    def in_picture(self, square: Any) -> Any:
        """A value of the square, without the bars of a letterbox."""
        return square if self._letterbox is None else self.modality.apply(square, self._window(self.size))

    @property
    def coded(self) -> list[Coded]:
        """What the value is made of: one, or every repeat."""
        if self.repeats:
            return [Coded(self.spec, ids) for ids in self.repeats]
        return [Coded(self.spec, self.tokens, self._probabilities, self._sampling)]

    def take_values(self, values: Sequence[Any]) -> None:
        """Keep what :attr:`coded` became."""
        self.hold(self.modality.merge(values).value if self.repeats else values[0])

    def hold(self, square: Any) -> None:
        """Keep the value of all of the square, which is known."""
        self._made["square"] = square

    @property
    def image(self) -> Image.Image:
        """A picture of the value, over the scene where the modality is an overlay; its longer side has 224 pixels, or
        as many as the value."""
        return self.draw(max(self.size, _SMALLEST_PICTURE))

    def draw(self, size: int = _SMALLEST_PICTURE) -> Image.Image:
        """As :attr:`image`, its longer side ``size`` pixels."""
        return draw_together([self], size)[0]

    def _window(self, size: int) -> View:
        """The part of a square of ``size`` pixels that the picture fills."""
        assert self._letterbox is not None
        return replace(self._letterbox, size=(size, size)).inverse()

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def holding(self, square: Any) -> Item:
        """The same with another value of the square that the model sees; it has no tokens."""
        other = copy.copy(self)
        other.tokens, other.repeats, other._made = self.tokens[:0], (), {"square": square}
        return other

    def cut(self, places: np.ndarray) -> np.ndarray:
        """A map (H, W) of the square without the bars of a letterbox."""
        if self._letterbox is None:
            return places
        return self._window(len(places)).array(places, Resample.NEAREST)

    def save(self, path: str | Path) -> tuple[Path, Path]:
        """Write the value as ``path`` with the modality's own file ending, and beside it a picture ``….picture.png``.

        Returns the two paths.
        """
        stem = Path(path)
        stem = stem.with_suffix("") if stem.suffix.removeprefix(".") in self.modality.extensions else stem
        value = stem.with_name(f"{stem.name}.{self.modality.extensions[0]}")
        picture = stem.with_name(f"{stem.name}.picture.png")
        self.modality.write(self.value, value)
        with atomic_path(picture) as temporary:
            self.image.save(temporary, format="PNG")
        return value, picture


def decode_together(items: Iterable[Item]) -> None:
    """Make the values of items of one model that have none yet, in as few passes of its tokenizers as possible."""
    waiting = [(item, item.coded) for item in items if "square" not in item._made]
    if waiting:
        values = iter(waiting[0][0]._codecs.values([one for _, coded in waiting for one in coded]))
        for item, coded in waiting:
            item.take_values(list(islice(values, len(coded))))


def draw_together(items: Sequence[Item], size: int) -> list[Image.Image]:
    """Pictures of items of one modality that are looked at side by side: feature maps share their colours."""
    modality = items[0].modality
    backgrounds = [None if modality.name == "rgb" else item._background.picture for item in items]
    pictures = modality.draw_all([item.square for item in items], size, backgrounds)
    return [
        picture if item._letterbox is None else item._window(size).image(picture, Resample.NEAREST)
        for item, picture in zip(items, pictures, strict=True)
    ]


class Background:
    """The scene behind overlays: the given picture, or the one of generated or given tokens, if there is either."""

    def __init__(self, given: Image.Image | None) -> None:
        self.given = given
        self.tokenized: Item | None = None

    @property
    def picture(self) -> Image.Image | None:
        """Decoded at first need."""
        if self.given is None and self.tokenized is not None:
            self.given = Image.fromarray(self.tokenized.square)
        return self.given


class Sample(Mapping[str, Item]):
    """The results of one sample: modality → :class:`Item`, in the order of the plan."""

    def __init__(self, items: dict[str, Item], requested: Sequence[str], seed: int) -> None:
        self._items = items
        self._requested = requested
        self.seed = seed

    def __getitem__(self, modality: str) -> Item:
        """Also what was generated on the way."""
        if modality not in self._items:
            raise UnknownNameError("result", modality, self._items)
        return self._items[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._requested)

    def __len__(self) -> int:
        return len(self._requested)

    def with_items(self, items: Mapping[str, Item]) -> Sample:
        """The same with some items replaced."""
        return Sample({**self._items, **items}, self._requested, self.seed)

    def write_to(self, folder: Path) -> None:
        """Files of all requested modalities."""
        for name in self:
            self[name].save(folder / name)


class Result(Mapping[str, Any]):
    """Everything one call generated.

    ``result["depth"]`` is an :class:`Item` when a single sample was asked for, else a list of items. ``result.samples``
    is always the list of :class:`Sample`.

    Attributes:
        plan: what was done.
        super_resolution: what was done after it by a second model; None where there was none.
        seeds: one per sample.
        fit: how pictures became squares.
        samples: the results sample by sample.
        batched: whether several samples were asked for.
        given: the inputs.
        outcome: what running ``plan`` gave.
    """

    def __init__(
        self, plan: Plan, outcome: Outcome, codecs: Codecs, seeds: Sequence[int], given: Given, fit: Fit
    ) -> None:
        self.plan = plan
        self.super_resolution: Plan | None = None
        self.seeds = tuple(seeds)
        self.fit: Fit = fit
        self.batched = given.batched
        self.given = given
        self.outcome = outcome
        self._codecs = codecs
        self._scenes = [
            (Background(picture), letterbox)
            for picture, letterbox in zip(given.pictures, given.letterboxes, strict=True)
        ]
        self.samples = [
            Sample(items, plan.requested, seed)
            for items, seed in zip(self._items(plan, outcome, codecs), seeds, strict=True)
        ]
        for row, ((background, _), sample) in enumerate(zip(self._scenes, self.samples, strict=True)):
            background.tokenized = sample._items.get("rgb") or self._given_as_tokens(row)

    def _given_as_tokens(self, row: int) -> Item | None:
        """The picture of all the tokens of RGB, where they are given: an earlier result was edited, for example.

        A diffusion decoder draws it with the seed of this result: not quite the picture that the tokens were before.
        """
        background, letterbox = self._scenes[row]
        for name, track in self.given.canvas.tracks.items():
            spec = self.given.canvas.spec(name)
            if spec.modality == "rgb" and spec.kind is StreamKind.TOKENS and track.known[row].all():
                drawn = Sampling(seed=self.seeds[row])
                return Item(spec, self._codecs, track.ids[row], None, drawn, background, letterbox)
        return None

    def only(self, row: int) -> Result:
        """The result of one sample alone, as if nothing else had been asked for (before super-resolution)."""
        given, outcome = self.given.only(row), self.outcome.take([row])
        whole = self.outcome.canvas.tracks
        kept = {
            name: given.canvas.tracks[name] for name, track in self.given.canvas.tracks.items() if track is whole[name]
        }
        outcome.canvas = replace(outcome.canvas, tracks={**outcome.canvas.tracks, **kept})  # shared, as in all results
        return Result(self.plan, outcome, self._codecs, [self.seeds[row]], given, self.fit)

    def with_finer(self, plan: Plan, outcome: Outcome, codecs: Codecs) -> Result:
        """The result with the items that a super-resolution model made in the place of the coarse ones."""
        finer = copy.copy(self)
        finer.super_resolution = plan
        made = self._items(plan, outcome, codecs)
        finer.samples = [sample.with_items(items) for sample, items in zip(self.samples, made, strict=True)]
        return finer

    def _items(self, plan: Plan, outcome: Outcome, codecs: Codecs) -> list[dict[str, Item]]:
        """Items by modality, for every sample."""
        return [
            {target.modality: _item(target, outcome, codecs, row, self.seeds[row], *scene) for target in plan.targets}
            for row, scene in enumerate(self._scenes)
        ]

    @property
    def canvas(self) -> Canvas:
        """All inputs and targets of ``plan``, as streams."""
        return self.outcome.canvas

    def __getitem__(self, modality: str) -> Any:
        items = [sample[modality] for sample in self.samples]
        return items if self.batched else items[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.requested)

    def __len__(self) -> int:
        return len(self.plan.requested)

    def save(self, folder: str | Path) -> None:
        """Write values, pictures, tokens, plan and seeds into a folder (several samples: one sub-folder each).

        Everything is computed and written beside the folder first; then the files are moved in, the plan last. The
        folder holds all that :meth:`~open4m.generation.pipeline.AnyToAny.repeat` and ``edit`` need.
        """
        for items in _by_model(item for sample in self.samples for item in sample.values()):
            decode_together(items)
        with filled_folder(folder, PLAN_FILE) as temporary:
            for number, sample in enumerate(self.samples):
                sample.write_to(temporary / f"{number:04d}" if self.batched else temporary)
            write_tokens(temporary / TOKENS_FILE, self.given, self.outcome)
            write_json(temporary / PLAN_FILE, Record.of(self).to_dict())


def _by_model(items: Iterable[Item]) -> Iterator[list[Item]]:
    """A second model may have made some of them."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(id(item._codecs), []).append(item)
    yield from groups.values()


def _item(
    target: TargetPlan,
    outcome: Outcome,
    codecs: Codecs,
    row: int,
    seed: int,
    background: Background,
    letterbox: View | None,
) -> Item:
    stream = target.stream
    spec, track = outcome.canvas.spec(stream), outcome.canvas.tracks[stream]
    ids = track.ids[row][track.known[row]] if spec.kind is StreamKind.SEQUENCE else track.ids[row]
    found = outcome.probabilities.get(stream)
    probabilities = None if found is None else found[row]
    repeats = (
        [torch.tensor(ids, dtype=torch.int64) for ids in outcome.repeated[stream][row]]
        if stream in outcome.repeated
        else []
    )
    item = Item(spec, codecs, ids, probabilities, target.value_sampling(seed), background, letterbox, repeats)
    if stream in outcome.merged:
        item.hold(outcome.merged[stream][row])
    return item
