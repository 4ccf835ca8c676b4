"""``open4m generate``: any picture, or any inputs by modality, into any modalities."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.progress import Progress
from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.errors import GenerationError
from open4m.modalities.registry import all_modalities, get_modality

if TYPE_CHECKING:
    from open4m.generation.result import Result, Sample

Given = make_dataclass(
    "Given",
    [
        (name, Annotated[str | None, arg(metavar="VALUE", help=modality.card.title)], field(default=None))
        for name, modality in all_modalities().items()
    ],
)
"""One option per registered modality: a file, or a text for ``--caption``."""


def generate(
    files: Positional[tuple[Path, ...]] = (),
    *,
    to: tuple[str, ...] = (),
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    out: Path = Path("out"),
    model: str = "scenes-tiny",
    seed: int = 0,
    samples: int = 1,
    plan: bool = False,
    json: bool = False,
) -> None:
    """Predict modalities from a picture, or from any other modalities.

    Examples:
        open4m generate photo.jpg --to depth normal caption
        open4m generate --caption "a red couch in a room" --to rgb depth --samples 4
        open4m generate --depth d.png --color-palette colours.json --to rgb --plan

    Args:
        files: pictures of any size and kind; each gets a folder of its own.
        to: modalities to predict; without it, all that the model can predict.
        given: inputs by modality, besides or instead of pictures.
        out: where values, pictures and index.html go.
        model: name or folder of the model.
        seed: same seed, same result.
        samples: variations per input.
        plan: only print what would be done.
        json: print a JSON summary (with --plan: the plan) instead of text.
    """
    import open4m

    inputs = {name: value for name, value in asdict(given).items() if value is not None}
    if files and "rgb" in inputs:
        raise GenerationError("Pictures are given both as FILES and as --rgb. Give them once.")
    loaded = open4m.load(model)
    jobs = [(path.stem, {"rgb": path, **inputs}) for path in files] or [("", inputs)]
    names = [*(["rgb"] if files else []), *inputs]
    wanted = list(to) or [t for t in loaded.targets if t not in names]
    for name in wanted:
        get_modality(name)
    if plan:
        planned = loaded.plan(wanted, names)
        print(json_module.dumps(planned.to_dict(), indent=2) if json else planned)
        return
    console, summary = Console(stderr=True), []
    with Progress(console=console, disable=json) as progress:
        for stem, job in jobs:
            task = progress.add_task(stem or "generating", total=None)
            result = loaded.generate(
                job,
                wanted,
                seed=seed,
                samples=samples if samples > 1 else None,
                progress=lambda name, done, total, task=task: progress.update(
                    task, description=name, completed=done, total=total
                ),
            )
            folder = _folder(out, stem, [other for other, _ in jobs])
            result.save(folder)
            page = _write_page(loaded, result, job, folder)
            summary.append({"folder": str(folder), "page": str(page), "targets": wanted, "seeds": list(result.seeds)})
    if json:
        print(json_module.dumps(summary, indent=2))
    else:
        licence = loaded.bundle.info.licence
        console.print(f"licence of the weights: {licence}", highlight=False)
        for entry in summary:
            console.print(f"[bold green]done[/] {entry['page']}", highlight=False, soft_wrap=True)


def _folder(out: Path, stem: str, stems: list[str]) -> Path:
    """Several pictures get a folder each; pictures of one name would overwrite each other and are refused."""
    if len(stems) == 1:
        return out
    if stems.count(stem) > 1:
        raise GenerationError(f"Several pictures are called {stem!r}. Rename them, or run them one after the other.")
    return out / stem


def _write_page(loaded: Any, result: Result, job: dict[str, Any], folder: Path) -> Path:
    from open4m.app.page import Panel, Section, write_page

    def panels(sample: Sample) -> list[Panel]:
        return [Panel(get_modality(n).card.title, [("", sample[n].draw(240))]) for n in sample]

    shown = ", ".join(f"{name}: {value}" for name, value in job.items()) or "nothing"
    sections = [Section(f"Seed {sample.seed}", f"Given {shown}", panels=panels(sample)) for sample in result.samples]
    info = loaded.bundle.info
    page = folder / "index.html"
    write_page(page, "open4m generate", "", sections, f"Model {info.name}, licence of the weights: {info.licence}.")
    return page
