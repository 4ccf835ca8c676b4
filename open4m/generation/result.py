"""Result: what was generated – tokens at once, values and pictures when they are asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from open4m.errors import UnknownNameError
from open4m.files import atomic_path, write_json
from open4m.generation.codecs import Codecs
from open4m.generation.engine import Outcome
from open4m.generation.plan import Plan
from open4m.modalities.base import Modality
from open4m.modalities.registry import get_modality
from open4m.streams import StreamKind, StreamSpec

PLAN_FILE = "plan.json"


class Item:
    """One generated modality of one sample. Values and pictures are made on first use and kept."""

    def __init__(
        self,
        spec: StreamSpec,
        codecs: Codecs,
        tokens: Tensor,
        probabilities: Tensor | None,
        seed: int,
        background: Background,
    ) -> None:
        self.spec = spec
        self.modality: Modality[Any] = get_modality(spec.modality)
        self.tokens = tokens
        """(L,) int64: ids of the stream."""
        self._codecs = codecs
        self._probabilities = probabilities
        self._seed = seed
        self._background = background
        self._made: dict[str, Any] = {}

    @property
    def value(self) -> Any:
        """What the modality's card describes (numpy array, text, list of boxes, …)."""
        if "value" not in self._made:
            self._made["value"] = self._codecs.value(self.spec, self.tokens, self._probabilities, self._seed)
        return self._made["value"]

    @property
    def image(self) -> Image.Image:
        """A picture of the value (224 × 224), over the scene where the modality is an overlay."""
        return self.draw()

    def draw(self, size: int = 224) -> Image.Image:
        """As :attr:`image`, ``size`` × ``size`` pixels."""
        background = None if self.modality.name == "rgb" else self._background.picture
        return self.modality.draw(self.value, size, background)

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


class Background:
    """The scene behind overlays: the given picture, or the generated one, if there is either."""

    def __init__(self, given: Image.Image | None) -> None:
        self.given = given
        self.generated: Item | None = None

    @property
    def picture(self) -> Image.Image | None:
        """Decoded at first need."""
        if self.given is None and self.generated is not None:
            self.given = Image.fromarray(self.generated.value)
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
        seeds: one per sample.
        samples: the results sample by sample.
        batched: whether several samples were asked for.
    """

    def __init__(
        self,
        plan: Plan,
        outcome: Outcome,
        codecs: Codecs,
        seeds: Sequence[int],
        pictures: Sequence[Image.Image | None],
        batched: bool,
    ) -> None:
        self.plan = plan
        self.seeds = tuple(seeds)
        self.batched = batched
        self.samples = [
            _sample(plan, outcome, codecs, row, seed, Background(picture))
            for row, (seed, picture) in enumerate(zip(seeds, pictures, strict=True))
        ]

    def __getitem__(self, modality: str) -> Any:
        items = [sample[modality] for sample in self.samples]
        return items if self.batched else items[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan.requested)

    def __len__(self) -> int:
        return len(self.plan.requested)

    def save(self, folder: str | Path) -> None:
        """Write values, pictures, plan and seeds into a folder (several samples: one sub-folder each).

        Everything is computed and written beside the folder first; then the files are moved in, the plan last.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as name:
            temporary = Path(name)
            for number, sample in enumerate(self.samples):
                sample.write_to(temporary / f"{number:04d}" if self.batched else temporary)
            for path in sorted(p for p in temporary.rglob("*") if p.is_file()):
                final = folder / path.relative_to(temporary)
                final.parent.mkdir(parents=True, exist_ok=True)
                path.replace(final)
        write_json(folder / PLAN_FILE, {"plan": self.plan.to_dict(), "seeds": list(self.seeds)})


def _sample(plan: Plan, outcome: Outcome, codecs: Codecs, row: int, seed: int, background: Background) -> Sample:
    items: dict[str, Item] = {}
    for target in plan.targets:
        spec, canvas = outcome.canvas.spec(target.stream), outcome.canvas
        track = canvas.tracks[target.stream]
        ids = track.ids[row][track.known[row]] if spec.kind is StreamKind.SEQUENCE else track.ids[row]
        probabilities = outcome.probabilities.get(target.stream)
        items[target.modality] = Item(
            spec, codecs, ids, None if probabilities is None else probabilities[row], seed, background
        )
    background.generated = items.get("rgb")
    return Sample(items, plan.requested, seed)
