"""``open4m generate``: any picture, or any inputs by modality, into any modalities."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.cli.options import Given, Loading, Words, assignments, inputs_of, masked, name_list, weights
from open4m.cli.results import Results
from open4m.errors import GenerationError
from open4m.modalities.registry import get_modality
from open4m.modalities.view import Fit

if TYPE_CHECKING:
    from open4m.generation import Plan


def generate(
    files: Positional[Annotated[tuple[Path, ...], arg(help_behavior_hint="")]] = (),
    *,
    to: Annotated[Words, arg(metavar="MODALITY ...", help_behavior_hint="")] = (),
    via: Annotated[Words, arg(metavar="MODALITY ...", help_behavior_hint="")] = (),
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    out: Path = Path("out"),
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    seed: int = 0,
    samples: int = 1,
    ensemble: int = 1,
    best_of: int = 1,
    fit: Fit = "crop",
    repeats: int | None = None,
    guidance: Annotated[Words, arg(metavar="NUMBER|INPUT=NUMBER ...", help_behavior_hint="")] = (),
    settings: Annotated[Words, arg(name="set", metavar="TARGET.SETTING=VALUE ...", help_behavior_hint="")] = (),
    mask: Annotated[Words, arg(metavar="[MODALITY=]FILE ...", help_behavior_hint="")] = (),
    load_plan: Path | None = None,
    super_resolution: str | None = None,
    plan: bool = False,
    json: bool = False,
) -> None:
    """Predict modalities from a picture, or from any other modalities.

    For example:

    open4m generate photo.jpg --to depth normal caption

    open4m generate --caption "a red couch in a room" --to rgb depth --samples 4

    open4m generate --depth d.png --color-palette colours.json --to rgb --plan

    open4m generate --caption "a street" --metadata brightness=60 n_humans=2 --guidance caption=2 metadata=3 --to rgb

    open4m generate --caption "a beach" --metadata brightness=90 --to rgb --best-of 8

    open4m generate photo.jpg --mask hole.png --to rgb --set rgb.steps=12 rgb.temperature=0.7

    Args:
        files: pictures of any size and kind; each gets a folder of its own.
        to: modalities to predict; without it, all that the model can predict.
        via: modalities to predict first, in this order; the others see them.
        given: inputs by modality, besides or instead of pictures.
        out: where values, pictures and index.html go.
        model: name or folder of the model.
        loading: how the model is loaded.
        seed: same seed, same result.
        samples: variations per input.
        ensemble: merge so many samples per input into one, with maps of where they disagree.
        best_of: draw so many samples per input and keep the one from which the model best reads what was given; it is
            no part of the plan.
        fit: the model sees squares: the largest centred one of a picture, or all of it between bars.
        repeats: how often sequences (boxes, captions, …) are drawn, to be merged; default: as the model asks for.
        guidance: how strongly everything given counts, or each of several inputs: 0 ignores it, more follows it, a
            negative number gets away from it. One weight of 1 = as the model sees it; several add up as if the inputs
            were independent, which is not how it sees them together.
        settings: of single targets, such as rgb.steps, depth.temperature, rgb.guidance, rgb.scheme; --plan shows them.
        mask: a picture that hides a part of what is given: white is open, and predicted if the modality is asked for.
        load_plan: a plan.json of earlier results (or of --plan --json) to follow instead of the default.
        super_resolution: a second model that raises the resolution of the results.
        plan: only print what would be done.
        json: print a JSON summary (with --plan: the plan) instead of text.
    """
    from open4m.generation import Ensemble, preview_upscale, sampling_plan
    from open4m.generation import best_of as choose_best
    from open4m.generation.agreement import check_best_of, check_samples_differ
    from open4m.generation.settings import with_settings
    from open4m.hub import describe

    inputs = inputs_of(given)
    jobs = [replace(job, inputs=masked(mask, job.inputs)) for job in _jobs(files, inputs, out)]
    drawn = _number_of_samples(samples, ensemble, best_of)
    if not jobs[0].inputs and not to and load_plan is None:
        raise GenerationError("Nothing is given and nothing asked for. Try: open4m generate photo.jpg --to depth")
    planned = _planned(model, loading, jobs[0].inputs, to, via, guidance, load_plan)
    if ensemble > 1:
        planned = sampling_plan(planned)
    planned = with_settings(planned, assignments("--set", settings, "rgb.steps=12"))  # what is said has the last word
    if ensemble > 1:
        check_samples_differ(planned)
    if repeats is not None:
        planned = _repeated(planned, repeats)
    if best_of > 1:
        check_best_of(describe(model).config, planned, best_of)
    plans = {"plan": planned}
    if super_resolution is not None:
        plans["super_resolution"] = preview_upscale(super_resolution, planned, loading.format)
    if plan:
        tables = "\n\n".join(map(str, plans.values()))
        print(json_module.dumps({name: p.to_dict() for name, p in plans.items()}, indent=2) if json else tables)
        return
    loaded = loading.load(model)
    finer = None if super_resolution is None else loading.load(super_resolution)
    seen = [loaded.view(job.inputs, fit) for job in jobs]  # a bad file is found before the first one is worked on
    with Results(loaded, json) as results:
        for job, values in zip(jobs, seen, strict=True):
            result = loaded.generate(
                job.inputs,
                seed=seed,
                samples=drawn if drawn > 1 else None,
                plan=planned,
                fit=fit,
                super_resolution=finer if best_of == 1 else None,
                progress=results.progress(job.name),
            )
            if best_of > 1:
                result = choose_best(loaded, result)
                result = result if finer is None else finer.upscale(result, progress=results.progress(job.name))
            if ensemble > 1:
                results.write_ensemble(Ensemble(result), job.folder, job.name, values)
            else:
                results.write(result, job.folder, job.name, values)


def _number_of_samples(samples: int, ensemble: int, best_of: int) -> int:
    """How many are drawn per input."""
    counts = {"--samples": samples, "--ensemble": ensemble, "--best-of": best_of}
    for option, count in counts.items():
        if count < 1:
            raise GenerationError(f"{option} is {count}; expected at least 1.")
    several = [option for option, count in counts.items() if count > 1]
    if len(several) > 1:
        raise GenerationError(
            f"{' and '.join(several)}: --samples gives variations, --ensemble merges them, --best-of keeps one. Leave "
            "out all but one."
        )
    return max(counts.values())


def _planned(
    model: str,
    loading: Loading,
    inputs: dict[str, Any],
    to: Words,
    via: Words,
    guidance: Words,
    load_plan: Path | None,
) -> Plan:
    """What is to be done, but for single settings. What cannot be done is refused before anything is loaded."""
    from open4m.generation import Masked, preview
    from open4m.generation.stored import read_plan

    targets, on_the_way = name_list(to), name_list(via)
    for name in (*targets, *on_the_way):
        get_modality(name)
    if load_plan is None:
        hidden = [name for name, value in inputs.items() if isinstance(value, Masked)]
        return preview(
            *(model, targets, list(inputs), loading.format),
            partial=hidden,
            via=on_the_way,
            guidance=weights(guidance),
        )
    if targets or on_the_way or guidance:
        raise GenerationError("--load-plan says it all. Leave it out, or leave out --to, --via and --guidance.")
    return read_plan(load_plan)


def _repeated(plan: Plan, repeats: int) -> Plan:
    """The plan with every sequence drawn so often."""
    sequences = [target.modality for target in plan.targets if target.is_sequence]
    if not sequences:
        raise GenerationError("--repeats is for sequences, none of which is asked for. Add one, such as det, to --to.")
    for name in sequences:
        plan = plan.edit(name, repeats=repeats)
    return plan


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
