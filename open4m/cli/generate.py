"""``open4m generate``: any picture, or any inputs by modality, into any modalities."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.errors import GenerationError
from open4m.modalities.base import Modality
from open4m.modalities.registry import all_modalities, get_modality
from open4m.modalities.view import Fit


def _option(modality: Modality[Any]) -> Any:
    """A file, or a text for ``--caption``; the help names the kinds of file."""
    metavar = "TEXT" if modality.name == "caption" else "|".join(modality.extensions[:2]).upper()
    return Annotated[str | None, arg(metavar=metavar, help=modality.card.title + ".", help_behavior_hint="")]


Given = make_dataclass(
    "Given", [(name, _option(modality), field(default=None)) for name, modality in all_modalities().items()]
)
"""One option per registered modality."""


def generate(
    files: Positional[Annotated[tuple[Path, ...], arg(help_behavior_hint="")]] = (),
    *,
    to: Annotated[tuple[str, ...], arg(metavar="MODALITY ...", help_behavior_hint="")] = (),
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    out: Path = Path("out"),
    model: str = "scenes-tiny",
    seed: int = 0,
    samples: int = 1,
    ensemble: int = 1,
    fit: Fit = "crop",
    repeats: int | None = None,
    super_resolution: str | None = None,
    plan: bool = False,
    json: bool = False,
) -> None:
    """Predict modalities from a picture, or from any other modalities.

    For example:

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
        ensemble: merge so many samples per input into one, with maps of where they disagree.
        fit: the model sees squares: the largest centred one of a picture, or all of it between bars.
        repeats: how often sequences (boxes, captions, …) are drawn, to be merged; default: as the model asks for.
        super_resolution: a second model that raises the resolution of the results.
        plan: only print what would be done.
        json: print a JSON summary (with --plan: the plan) instead of text.
    """
    import open4m
    from open4m.app.generated import write_ensemble, write_generated
    from open4m.generation import preview, preview_upscale, sampling_plan

    inputs = {name: value for name, value in asdict(given).items() if value is not None}
    jobs = _jobs(files, inputs, out)
    names = [*(["rgb"] if files else []), *inputs]
    for option, count in (("--samples", samples), ("--ensemble", ensemble)):
        if count < 1:
            raise GenerationError(f"{option} is {count}; expected at least 1.")
    if samples > 1 and ensemble > 1:
        raise GenerationError("--samples gives variations, --ensemble merges them. Leave out one of the two.")
    if not names and not to:
        raise GenerationError("Nothing is given and nothing asked for. Try: open4m generate photo.jpg --to depth")
    for name in to:
        get_modality(name)
    planned = preview(model, to, names)  # also refuses what cannot be done, before anything is loaded or fetched
    wanted = list(planned.requested)
    if repeats is not None:
        sequences = [target.modality for target in planned.targets if target.is_sequence]
        if not sequences:
            raise GenerationError(
                "--repeats is for sequences, none of which is asked for. Add one, such as det, to --to."
            )
        for name in sequences:
            planned = planned.edit(name, repeats=repeats)
    if ensemble > 1:
        planned = sampling_plan(planned)
    plans = {"plan": planned}
    if super_resolution is not None:
        plans["super_resolution"] = preview_upscale(super_resolution, planned)
    if plan:
        tables = "\n\n".join(map(str, plans.values()))
        print(json_module.dumps({name: p.to_dict() for name, p in plans.items()}, indent=2) if json else tables)
        return
    loaded = open4m.load(model)
    finer = None if super_resolution is None else open4m.load(super_resolution)
    seen = [loaded.view(job.inputs, fit) for job in jobs]  # a bad file is found before the first one is worked on
    console, summary = Console(stderr=True), []
    with Progress(console=console, disable=json or not console.is_terminal) as progress:
        for job, values in zip(jobs, seen, strict=True):
            task = progress.add_task(escape(job.name), total=None)
            result = loaded.generate(
                job.inputs,
                wanted,
                seed=seed,
                samples=max(samples, ensemble) if max(samples, ensemble) > 1 else None,
                plan=planned,
                fit=fit,
                super_resolution=finer,
                progress=lambda name, done, total, task=task, job=job: progress.update(
                    task, description=escape(f"{job.name}: {name}"), completed=done, total=total
                ),
            )
            page = job.folder / "index.html"
            if ensemble > 1:
                merged = result.ensemble()
                merged.save(job.folder)
                write_ensemble(page, loaded, values, merged, job.name)
            else:
                result.save(job.folder)
                write_generated(page, loaded, values, result, job.name)
            summary.append({"folder": str(job.folder), "page": str(page), "targets": wanted, "seeds": [*result.seeds]})
    info = loaded.bundle.info
    if json:
        print(json_module.dumps({"model": info.name, "licence": info.licence, "results": summary}, indent=2))
        return
    console.print(escape(f"licence of the weights: {info.licence}"), highlight=False)
    for entry in summary:
        console.print(f"[bold green]done[/] {escape(entry['page'])}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class _Job:
    """One input: what it is called, what is given, and where the results go."""

    name: str
    inputs: dict[str, Any]
    folder: Path


def _jobs(files: Sequence[Path], inputs: dict[str, Any], out: Path) -> list[_Job]:
    """Several pictures get a folder each; pictures of one name would overwrite each other and are refused."""
    if not files:
        return [_Job("generated", inputs, out)]
    if "rgb" in inputs:
        raise GenerationError("Pictures are given both as FILES and as --rgb. Give them once.")
    stems = [path.stem for path in files]
    repeated = sorted({stem for stem in stems if stems.count(stem) > 1})
    if repeated:
        raise GenerationError(
            f"Several pictures are called {', '.join(repeated)}. Rename them, or run them one after the other."
        )
    folders = [out] if len(files) == 1 else [out / stem for stem in stems]
    return [_Job(path.name, {"rgb": path, **inputs}, folder) for path, folder in zip(files, folders, strict=True)]
