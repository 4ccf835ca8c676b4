"""Ensembles: several samples of one input merged into one answer, and a map of where they disagree (4M-21, Table 5)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open4m.errors import GenerationError, UnknownNameError
from open4m.files import filled_folder, write_bytes, write_json
from open4m.generation.plan import Plan
from open4m.generation.result import Item, Result
from open4m.generation.stored import PLAN_FILE
from open4m.modalities.drawing import fit_square, heat_map
from open4m.modalities.merging import Merged

ENSEMBLE_FILE = "ensemble.json"
SAMPLES_FOLDER = "samples"
_TEMPERATURE = 1.0
_SHARPEST = 1e-6


def sampling_plan(plan: Plan, temperature: float = _TEMPERATURE) -> Plan:
    """``plan`` with targets that are drawn, so that samples with different seeds differ.

    By default what follows nearly surely from the input is a best guess: temperature near 0, decoded from the mean of
    the distribution. All its samples are alike. Here every target is decoded from the ids that were drawn, at
    ``temperature`` or its own, whichever is higher. Top-p and top-k stay as they are: at temperature 1 ids are drawn
    from the distribution that the model predicts without its unlikeliest ids, with ``top_p`` and ``top_k`` 0
    (:meth:`Plan.edit`) from all of it.
    """
    drawn = [replace(t, decode="tokens", temperature=max(t.temperature, temperature)) for t in plan.targets]
    return replace(plan, targets=tuple(drawn))


class MergedItem:
    """One modality of an ensemble, merged on first use by its :meth:`~open4m.modalities.base.Modality.merge`."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)
        """The samples."""
        self.modality = items[0].modality

    @cached_property
    def merged(self) -> Merged[Any]:
        """Value and spread of all of the square that the model sees."""
        return self.modality.merge([item.square for item in self.items])

    @cached_property
    def item(self) -> Item:
        """The merged value with what draws and saves it."""
        return self.items[0].holding(self.merged.value)

    @property
    def value(self) -> Any:
        """What the modality's card describes, without the bars of a letterbox."""
        return self.item.value

    @property
    def image(self) -> Image.Image:
        """A picture of the value."""
        return self.item.image

    @property
    def spread(self) -> np.ndarray:
        """float32, larger where the samples disagree: see :class:`~open4m.modalities.merging.Merged`."""
        spread = self.merged.spread
        return self.item.cut(spread) if spread.ndim == 2 else spread

    @property
    def unit(self) -> str:
        """What the numbers of ``spread`` are."""
        return self.merged.unit

    def draw_spread(self, size: int = 224) -> Image.Image | None:
        """Per-pixel uncertainty in Turbo colours, from 0 (blue) to its 99th percentile; None where there is no map."""
        spread = self.spread
        if spread.ndim != 2:
            return None
        known = spread[np.isfinite(spread)]
        top = float(np.percentile(known, 99)) if known.size else 0.0
        return fit_square(heat_map(spread, 0.0, max(top, _SHARPEST)), size, smooth=False)

    def describe(self) -> str:
        """The spread in one line."""
        return f"uncertainty {self.merged.uncertainty:.3g} ({self.unit})"

    def save(self, path: Path) -> None:
        """Write value and picture as :meth:`~open4m.generation.result.Item.save` does, ``….spread.npy`` (float32) and,
        where it is a map, ``….spread.png``."""
        self.item.save(path)
        buffer = io.BytesIO()
        np.save(buffer, self.spread.astype(np.float32), allow_pickle=False)
        write_bytes(path.with_name(f"{path.name}.spread.npy"), buffer.getvalue())
        drawn = self.draw_spread()
        if drawn is not None:
            drawn.save(path.with_name(f"{path.name}.spread.png"))


class Ensemble(Mapping[str, MergedItem]):
    """All samples of a result, which must be of one input, merged: modality → :class:`MergedItem`.

    Raises:
        GenerationError: fewer than two samples, samples of different inputs, or samples that cannot differ.
    """

    def __init__(self, result: Result) -> None:
        _check(result)
        self.result = result
        samples = result.samples
        self._merged = {name: MergedItem([sample[name] for sample in samples]) for name in result}

    def __getitem__(self, modality: str) -> MergedItem:
        if modality not in self._merged:
            raise UnknownNameError("merged result", modality, self._merged)
        return self._merged[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: the plan, the seeds, and the mean uncertainty of every modality (None where there is none)."""
        means = {name: item.merged.uncertainty for name, item in self.items()}
        return {
            "samples": len(self.result.samples),
            "seeds": list(self.result.seeds),
            "uncertainty": {
                name: {"mean": mean if np.isfinite(mean) else None, "unit": self[name].unit}
                for name, mean in means.items()
            },
            "plan": self.result.plan.to_dict(),
        }

    def save(self, folder: str | Path) -> None:
        """Write all merged values, pictures, uncertainties and ``ensemble.json`` into a folder.

        The samples lie in its folder ``samples``, as :meth:`~open4m.generation.result.Result.save` writes them, so that
        they can be repeated and edited.
        """
        with filled_folder(folder, f"{SAMPLES_FOLDER}/{PLAN_FILE}", ENSEMBLE_FILE) as temporary:
            self.result.save(temporary / SAMPLES_FOLDER)
            for name, item in self.items():
                item.save(temporary / name)
            write_json(temporary / ENSEMBLE_FILE, self.to_dict())


def _check(result: Result) -> None:
    if len(result.samples) < 2:
        raise GenerationError("An ensemble needs at least two samples of the input: model.generate(…, samples=8).")
    require_one_input(result)
    plan = result.plan
    alike = [t.modality for t in plan.targets if t.decode == "expected" and t.modality in plan.requested]
    if alike and not plan.chained:
        raise GenerationError(
            f"All samples of {', '.join(alike)} are alike: they are the mean of what the model expects. Draw them: "
            "model.generate(…, plan=sampling_plan(model.plan(targets, inputs)), samples=8)."
        )


def require_one_input(result: Result) -> None:
    """Raise :class:`GenerationError` if the samples of a result were given different things."""
    for name, track in result.given.canvas.tracks.items():
        parts = [part for part in (track.ids, track.known, track.dense) if part is not None]
        if not all(bool((part == part[:1]).all()) for part in parts):
            raise GenerationError(f"The samples differ in {name}: expected samples of one input.")
