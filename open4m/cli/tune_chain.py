"""``open4m tune-chain``: search the plan for a target."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from tyro.conf import OmitArgPrefixes, Positional

from open4m.cli.options import Loading
from open4m.cli.sweep import print_table


def tune_chain(
    targets: Positional[tuple[str, ...]],
    *,
    given: tuple[str, ...] = ("rgb",),
    minutes: float = 5.0,
    trials: int | None = None,
    via: tuple[str, ...] = (),
    data: Path | None = None,
    split: str = "heldout",
    search: int = 24,
    report: int = 48,
    seed: int = 0,
    batch_size: int = 16,
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    out: Path = Path("out/tuned"),
) -> None:
    """Search, for each target, intermediates to think of first, steps, temperature and guidance; keep the best plan.

    For example: open4m tune-chain depth semseg --minutes 20

    May be stopped at any time: OUT/TARGET/plan.json is the best plan so far, trials.json what was tried. The same
    command goes on from there. At the end, report.md compares the plan with the default on other scenes.

    Args:
        targets: what is predicted; each has its own search, and an equal part of the time.
        given: modalities the model sees.
        minutes: of search in all; the comparison at the end comes on top.
        trials: at most so many plans per target.
        via: modalities that may be intermediates; default: all grids.
        data: root of a data set; default: the held-out scenes.
        split: of ``data``. Never give a split the model was trained on.
        search: samples of the search.
        report: samples of the comparison, others than those.
        seed: of search and generation.
        batch_size: samples generated together.
        model: name or folder of the model.
        loading: how the model is loaded; a search goes on with the number format that it began with.
        out: folder; each target has one in it.
    """
    from open4m.app.steering import write_trials, write_tuned
    from open4m.evaluation import evaluation_samples
    from open4m.evaluation.heldout import VIEWS
    from open4m.files import read_json
    from open4m.steering.chains import Search, Trial, compare
    from open4m.steering.runs import scenes_with
    from open4m.steering.tables import comparison_table

    loaded, console = loading.load(model), Console(stderr=True)
    first = -(-search // VIEWS) * VIEWS  # views of one scene follow each other: no scene is in both parts
    samples, _ = evaluation_samples(loaded, data, split, first + report, needed=(*given, *targets))
    for target in targets:
        scenes_with(samples[first:], (*given, target))  # before time is spent
    for target in targets:
        folder = out / target
        found = Search(loaded, target, samples[:search], given, via or None, seed, batch_size)
        if (folder / "trials.json").is_file():
            found.resume(read_json(folder / "trials.json"))

        def tell(trial: Trial, found: Search = found, folder: Path = folder) -> None:
            write_trials(folder, found)
            mark = "[green]best[/] " if trial is found.best else ""
            part = "" if trial.scenes == len(found.samples) else f" (dropped after {trial.scenes} scenes)"
            text = f"{found.target} {len(found.trials)}: {trial.change}: {trial.score:.4g}{part}"
            console.print(mark + escape(text), highlight=False)

        found.run(60 * minutes / len(targets), trials, tell)
        start, best = found.trials[0].plan, found.best.plan
        compared = compare(loaded, target, samples[first:], start, best, given, seed=seed, batch_size=batch_size)
        write_tuned(folder, found, compared)
        print_table(f"{target}: default and tuned plan on other scenes", comparison_table(target, compared))
        print(best)
        console.print(f"[bold green]done[/] {escape(str(folder / 'plan.json'))}", highlight=False, soft_wrap=True)
