"""``open4m ensemble``: what merging several samples brings, and what their spread tells."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from tyro.conf import OmitArgPrefixes, Positional

from open4m.cli.bars import Bars
from open4m.cli.options import Loading
from open4m.cli.sweep import print_table


def ensemble(
    model: Positional[str] = "scenes-tiny",
    *,
    to: tuple[str, ...] = ("depth", "normal", "semseg", "canny_edge", "sam_edge"),
    given: tuple[str, ...] = ("rgb",),
    samples: int = 8,
    through: tuple[str, ...] = ("normal", "semseg"),
    data: Path | None = None,
    split: str = "heldout",
    limit: int = 36,
    seed: int = 0,
    batch_size: int = 16,
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    out: Path = Path("out/ensemble"),
) -> None:
    """Measure ensembles on held-out scenes: the error of one sample and of several merged, and whether the places where
    the samples disagree are those that are wrong. (open4m generate --ensemble makes them.)

    Args:
        model: name or folder of the model.
        to: what is predicted; with the first of them, other paths are compared.
        given: modalities the model sees.
        samples: per scene.
        through: predictions through which the first target is reached as well; none leaves this out.
        data: root of a data set; default: the held-out scenes.
        split: of ``data``. Never give a split the model was trained on.
        limit: scenes.
        seed: same seed, same result.
        batch_size: samples generated together.
        loading: how the model is loaded.
        out: where ensemble.json, ensemble.md, pictures and index.html go.
    """
    from open4m.app.steering import write_ensembles
    from open4m.errors import GenerationError
    from open4m.evaluation import evaluation_samples
    from open4m.steering.ensembles import ensemble_study
    from open4m.steering.paths import path_study
    from open4m.steering.tables import ensemble_table, path_table, uncertainty_table

    if not to:
        raise GenerationError("Nothing is asked for. Try: open4m ensemble --to depth normal")
    loaded = loading.load(model)
    scenes, _ = evaluation_samples(loaded, data, split, limit, needed=(*given, *to))
    ways = [name for name in through if name != to[0]]
    options = {"seed": seed, "batch_size": batch_size}
    with Bars(quiet=False) as bars:
        study = ensemble_study(loaded, scenes, to, given, count=samples, progress=bars.tell, **options)
        paths = path_study(loaded, scenes, to[0], ways, given, progress=bars.tell, **options) if ways else None
    page = write_ensembles(out, loaded.bundle.info.name, study, paths)
    print_table("Errors", ensemble_table(study))
    print_table("Does the spread show them?", uncertainty_table(study))
    if paths is not None:
        print_table("Other paths", path_table(paths))
    Console(stderr=True).print(f"[bold green]done[/] {escape(str(page))}", highlight=False, soft_wrap=True)
