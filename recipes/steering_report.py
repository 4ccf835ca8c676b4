"""Everything that docs/steering.md shows, made again: its pictures, and its numbers in docs/steering-results.md.

python -m recipes.steering_report
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from PIL import Image
from rich.console import Console

from open4m import load
from open4m.app.steering import FOLLOWS, MERGING, PATHS, READING, UNCERTAINTY, draw_ensembles, draw_strip
from open4m.evaluation import evaluation_samples
from open4m.evaluation.heldout import SHARD_SIZE, VIEWS
from open4m.evaluation.tables import markdown_table
from open4m.files import atomic_path, write_bytes
from open4m.steering.controls import parse_control
from open4m.steering.ensembles import ensemble_study
from open4m.steering.paths import path_study
from open4m.steering.sweep import reading, sweep
from open4m.steering.tables import Rows, ensemble_table, path_table, reading_table, sweep_table, uncertainty_table

FIELDS = (
    *("brightness", "contrast", "saturation", "colorfulness", "entropy", "aesthetic_score", "walkability"),
    *("objectness", "semantic_diversity", "geometric_complexity", "n_humans", "n_coco_instances", "caption_n_words"),
)
CONTROLS = (*(f"metadata.{field}" for field in FIELDS), "color_palette", "det.person=0,1,2,3")
BEST_OF = tuple(f"metadata.{field}" for field in ("brightness", "saturation", "contrast", "colorfulness"))
"""Controls that are also swept, beside captions, with the best of several candidates. What is measured of them is
measured without the model, which is the judge."""
VIA = {
    "metadata.semantic_diversity": ("semseg",),
    "metadata.n_humans": ("det",),
    "metadata.n_coco_instances": ("det",),
}
"""Controls that are also swept with something on the way to the picture, in which they can be counted."""
DRAWN = {
    "metadata.brightness": True,
    "metadata.saturation": True,
    "metadata.walkability": False,
    "color_palette": False,
}
"""Controls whose sweeps are drawn, beside captions or alone."""
TARGETS = ("depth", "normal", "semseg", "canny_edge", "sam_edge")
_CELL, _COLOURS = 112, 96


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        model: name or folder.
        out: folder of the documents.
        controls: that are swept.
        contexts: held-out scenes in which each control is swept, at most 24.
        scenes: held-out views of the ensembles, at most 72.
        samples: of each view.
        best_of: candidates of each picture in a second sweep of some controls; 1 = none.
        batch_size: generated together.
    """

    model: str = "scenes-tiny"
    out: Path = Path("docs")
    controls: tuple[str, ...] = CONTROLS
    contexts: int = 12
    scenes: int = 72
    samples: int = 8
    best_of: int = 4
    batch_size: int = 16


def main(settings: Settings) -> None:
    """Sweep, merge, compare; write pictures and tables."""
    model, told = load(settings.model), Console()
    samples, _ = evaluation_samples(model, limit=SHARD_SIZE)
    firsts = samples[::VIEWS]

    def tell(what: str, done: int, total: int) -> None:
        if done == total:
            told.print(f"{what}: {done}")

    options = {"batch_size": settings.batch_size, "progress": tell}
    sweeps, readings = [], {}
    for text in settings.controls:
        control, asked = parse_control(text)
        values = asked or control.usual(firsts)
        for contexts in _contexts(control.output, firsts[: settings.contexts]):
            again = max(1, settings.best_of) if contexts[0] and control.name in BEST_OF else 1
            counts = sorted({1, again})
            straight = [sweep(model, control, values, contexts, best_of=n, **options) for n in counts]
            sweeps += straight
            if control.name in VIA:
                sweeps.append(sweep(model, control, values, contexts, via=VIA[control.name], **options))
            if DRAWN.get(control.name) == bool(contexts[0]):
                strip = draw_strip(straight[0], rows=2, size=_CELL)
                _save(strip, settings.out / f"steering-{control.name.rpartition('.')[2]}.png")
        if control.reads:
            found = reading(model, control, samples, **options)
            readings |= {(control.name, measure): value for measure, value in zip(control.measures, found, strict=True)}

    views = samples[:: math.ceil(len(samples) / settings.scenes)]
    study = ensemble_study(model, views, TARGETS, count=settings.samples, **options)
    shown = [study.items[target][row] for target, row in (("normal", 0), ("depth", 0), ("semseg", 1))]
    _save(draw_ensembles(shown, _CELL), settings.out / "steering-ensemble.png")
    paths = path_study(model, views, **options)
    tables = {
        f"## Sweeps\n\n{settings.contexts} contexts. {FOLLOWS}": sweep_table(sweeps),
        f"## Reading\n\n{len(samples)} held-out views. {READING}": reading_table(readings),
        f"## Ensembles\n\n{len(views)} held-out views. {MERGING}": ensemble_table(study),
        f"## Uncertainty\n\n{UNCERTAINTY}": uncertainty_table(study),
        f"## Other paths\n\n{PATHS}": path_table(paths),
    }
    _write(settings, tables)


def _contexts(output: str, scenes: Sequence[Mapping[str, Any]]) -> list[list[dict[str, Any]]]:
    """What is given with a control: for captions the pictures; for pictures the captions, and nothing at all."""
    if output == "caption":
        return [[{"rgb": scene["rgb"]} for scene in scenes]]
    return [[{"caption": scene["caption"]} for scene in scenes], [{} for _ in scenes]]


def _write(settings: Settings, tables: dict[str, Rows]) -> None:
    changed = "".join(f" --{name.replace('_', '-')} {value}" for name, value in _given(settings))
    title = f"# Steering {settings.model}: what was measured\n\n`python -m recipes.steering_report{changed}`\n"
    parts = [f"\n{text}\n\n{markdown_table(*table, left=2)}" for text, table in tables.items()]
    write_bytes(settings.out / "steering-results.md", (title + "".join(parts)).encode())


def _given(settings: Settings) -> Sequence[tuple[str, object]]:
    """What differs from the defaults, as it does on the command line."""
    usual = Settings()
    given = [(name, getattr(settings, name)) for name in ("model", "contexts", "scenes", "samples", "best_of")]
    changed = [(name, value) for name, value in given if value != getattr(usual, name)]
    return changed if settings.controls == usual.controls else [("controls", " ".join(settings.controls)), *changed]


def _save(image: Image.Image, path: Path) -> None:
    """As a small PNG of few colours."""
    with atomic_path(path) as temporary:
        image.quantize(_COLOURS, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
