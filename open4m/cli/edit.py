"""``open4m edit`` and ``open4m repeat``: go on from results, or make them again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.cli.options import Given, Loading, Words, assignments, inputs_of, name_list, weights
from open4m.cli.results import Results
from open4m.errors import GenerationError

if TYPE_CHECKING:
    from open4m.generation import Plan


def edit(
    folder: Positional[Path],
    *,
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    repaint: Annotated[Words, arg(metavar="MODALITY=REGION ...", help_behavior_hint="")] = (),
    to: Annotated[Words, arg(metavar="MODALITY ...", help_behavior_hint="")] = (),
    keep: Annotated[Words | None, arg(metavar="MODALITY ...", help_behavior_hint="")] = None,
    guidance: Annotated[Words, arg(metavar="NUMBER|INPUT=NUMBER ...", help_behavior_hint="")] = (),
    settings: Annotated[Words, arg(name="set", metavar="TARGET.SETTING=VALUE ...", help_behavior_hint="")] = (),
    out: Path = Path("edited"),
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    seed: int | None = None,
    json: bool = False,
) -> None:
    """Change something in results and generate the rest of them anew, or draw a part of them anew.

    For example, after: open4m generate --caption "a dog on a lawn" --to det rgb --out out

    open4m edit out --det moved.json --to rgb

    open4m edit out --color-palette warm.json --to rgb --keep caption det

    open4m edit out --repaint rgb=region.png

    open4m edit out --repaint det=0,2

    Args:
        folder: of results that open4m generate has written.
        given: what is changed, by modality: the new value.
        repaint: where to draw anew, with the rest of it fixed: a picture (white = anew) for rgb and other grids, names
            of fields for metadata, numbers (from 0) of boxes or people; lists with commas.
        to: what to generate anew after a change; without it, all that the results were asked for.
        keep: what the model goes on seeing; without it, after a change what was given, for repainting everything else.
        guidance: how strongly what it sees counts after a change, as for open4m generate.
        settings: of single targets, such as rgb.steps, as for open4m generate.
        out: where the new results go.
        model: name or folder of the model that made the results.
        loading: how the model is loaded.
        seed: without it, the one of the results + 1.
        json: print a JSON summary instead of text.
    """
    from open4m.generation.settings import with_settings

    changes = inputs_of(given)
    regions = {name: _region(name, text) for name, text in assignments("--repaint", repaint, "rgb=region.png").items()}
    if bool(changes) == bool(regions):
        both = "Both at once" if changes else "Nothing"
        raise GenerationError(f"{both} is to be changed and repainted. Give new values, such as --det, or --repaint.")
    if regions and (to or guidance):
        raise GenerationError("--repaint generates the modalities that it names. Leave out --to and --guidance.")
    changed_settings = assignments("--set", settings, "rgb.steps=12")
    loaded = loading.load(model)
    before = loaded.load_result(folder)

    def edited(plan: Plan) -> Plan:
        return with_settings(plan, changed_settings)

    kept = None if keep is None else name_list(keep)
    with Results(loaded, json) as results:
        told = results.progress(folder.name)
        if regions:
            result = loaded.repaint(before, regions, keep=kept, seed=seed, plan=edited, progress=told)
        else:
            result = loaded.edit(
                *(before, changes, name_list(to) or None),
                keep=kept, seed=seed, plan=edited, guidance=weights(guidance), progress=told,
            )  # fmt: skip
        results.write(result, out, folder.name)


def repeat(
    folder: Positional[Path],
    *,
    out: Path = Path("repeated"),
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    super_resolution: str | None = None,
    json: bool = False,
) -> None:
    """Generate results again from what is saved beside them: same inputs, same plan, same seeds, same bits.

    Args:
        folder: of results that open4m generate or open4m edit has written.
        out: where the new results go.
        model: name or folder of the model that made the results.
        loading: how the model is loaded.
        super_resolution: the second model, where there was one.
        json: print a JSON summary instead of text.
    """
    loaded = loading.load(model)
    finer = None if super_resolution is None else loading.load(super_resolution)
    with Results(loaded, json) as results:
        result = loaded.repeat(folder, super_resolution=finer, progress=results.progress(folder.name))
        results.write(result, out, folder.name)


def _region(modality: str, text: str) -> Any:
    """A file; or fields; or numbers."""
    if modality == "metadata":
        return text.split(",")
    if text.replace(",", "").isdigit():
        return [int(number) for number in text.split(",") if number]
    return Path(text)
