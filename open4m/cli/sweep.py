"""``open4m sweep``: one control over several values, and whether what is generated follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.cli.bars import Bars
from open4m.cli.options import Given, Loading, Words, inputs_of, name_list, weights
from open4m.errors import GenerationError

if TYPE_CHECKING:
    from open4m.generation import AnyToAny
    from open4m.steering.tables import Rows


def sweep(
    controls: Positional[Annotated[tuple[str, ...], arg(metavar="CONTROL[=A,B,…] ...", help_behavior_hint="")]] = (),
    *,
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    contexts: int = 4,
    alone: bool = False,
    via: Annotated[Words, arg(metavar="MODALITY ...", help_behavior_hint="")] = (),
    best_of: int = 1,
    guidance: Annotated[Words, arg(metavar="NUMBER|INPUT=NUMBER ...", help_behavior_hint="")] = (),
    out: Path = Path("out/sweep"),
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    seed: int = 0,
    batch_size: int = 16,
) -> None:
    """Vary one thing, generate, and measure whether the pictures follow it: strips, page, rank correlations.

    For example:

    open4m sweep metadata.brightness=40,80,120,160,200 --caption "a red couch in a room"

    open4m sweep metadata.saturation color_palette=#b03030,#3080b0,#309040 det.person=0,1,2,3 --contexts 8

    Args:
        controls: metadata.FIELD in natural units, color_palette as #rrggbb (its first colour), det.CLASS as the number
            of boxes; without values, some that are usual in the held-out scenes.
        given: what else the model sees.
        contexts: seeds of what is given; with nothing given, so many held-out scenes are looked at, and their captions
            are given (for metadata.caption_…: their pictures).
        alone: give nothing but the control.
        via: what to generate first, in this order, such as semseg.
        best_of: draw so many candidates of every picture and keep the one from which the model best reads what was
            given.
        guidance: a number weighs the control alone, above 1 exaggerates it; or weights as for open4m generate, such as
            caption=2 metadata=5, of the control and of what else is given.
        out: where strips, sweep.json, sweep.md and index.html go.
        model: name or folder of the model.
        loading: how the model is loaded.
        seed: same seed, same result.
        batch_size: pictures generated together.
    """
    from open4m.app.steering import write_sweeps
    from open4m.steering.controls import parse_control
    from open4m.steering.sweep import sweep as run
    from open4m.steering.sweep import sweep_plan
    from open4m.steering.tables import sweep_table

    if not controls:
        raise GenerationError("Nothing to vary. Try: open4m sweep metadata.brightness=40,120,200")
    if contexts < 1:
        raise GenerationError(f"--contexts is {contexts}; expected at least 1.")
    wanted = [parse_control(text) for text in controls]
    values = inputs_of(given)
    if values and alone:
        raise GenerationError(f"--alone, yet {', '.join(values)} given. Leave out one of them.")
    weighed, on_the_way = weights(guidance), name_list(via)
    loaded = loading.load(model)
    scenes = _scenes(loaded)
    jobs = [
        (
            *(control, asked or control.usual(scenes)),
            [loaded.view(values)] * contexts if values or alone else _contexts(scenes, control.output, contexts),
        )
        for control, asked in wanted
    ]
    for control, _, beside in jobs:  # all of them, before the first one is worked on
        sweep_plan(loaded, control, beside[0], via=on_the_way, guidance=weighed, best_of=best_of)
    with Bars(quiet=False) as bars:
        options = {"seed": seed, "batch_size": batch_size, "progress": bars.tell}
        made = [run(loaded, *job, via=on_the_way, guidance=weighed, best_of=best_of, **options) for job in jobs]
    page = write_sweeps(out, loaded.bundle.info.name, made)
    print_table("Does it follow?", sweep_table(made))
    Console(stderr=True).print(f"[bold green]done[/] {escape(str(page))}", highlight=False, soft_wrap=True)


def _scenes(model: AnyToAny) -> list[dict[str, Any]]:
    """The shipped held-out scenes, of each its first view only."""
    from open4m.evaluation.heldout import SHARD_SIZE, VIEWS, heldout_values

    known = {*model.inputs, *model.targets}
    names = [name for name in ("rgb", "caption", "metadata") if name in known]
    return [model.view(values) for values in heldout_values(names, SHARD_SIZE)[::VIEWS]]


def _contexts(scenes: list[dict[str, Any]], output: str, count: int) -> list[dict[str, Any]]:
    """What is given with a control: captions where pictures are made, pictures where captions are."""
    name = "rgb" if output == "caption" else "caption"
    if count > len(scenes):
        raise GenerationError(f"--contexts is {count}; {len(scenes)} held-out scenes ship with the package.")
    found = [{name: scene[name]} for scene in scenes[:count] if name in scene]
    if not found:
        raise GenerationError(f"This model knows no {name}, which would be given. Give something else, or --alone.")
    return found


def print_table(title: str, table: Rows) -> None:
    """To the terminal."""
    header, rows = table
    shown = Table(*header, title=escape(title))
    for row in rows:
        shown.add_row(*map(escape, row))
    console = Console()
    console.print(shown, width=None if console.is_terminal else 160)
