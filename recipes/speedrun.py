"""The whole story in one script, at small width: render → tokenizers → tokens → pre-train → scores.

    python -m recipes.speedrun --out out/speedrun

An estimated 30 minutes on two idle cores. Five modalities instead of eighteen; everything else is the code that trains
the bundled model. Every stage resumes where it stopped, and the last one writes ``report.md`` and a gallery.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console

TOKENIZERS = ("rgb", "semseg", "depth", "normal")
"""Longest first, so that two processes end together."""


@dataclass(frozen=True)
class Speedrun:
    """Sizes and times of the run.

    Attributes:
        out: folder of everything it makes.
        views: rendered for training; a twentieth as many are held out.
        tokenizer_minutes: per tokenizer; two are trained at a time.
        pretrain_minutes: of the masked model.
        evaluated: held-out views that the scores are computed on.
        seed: of the world, the weights and the order of the data.
    """

    out: Path = Path("out/speedrun")
    views: int = 4000
    tokenizer_minutes: float = 2.5
    pretrain_minutes: float = 18.0
    evaluated: int = 96
    seed: int = 0


def main(run: Speedrun) -> None:
    """Run all stages; finished ones are skipped."""
    import open4m
    from open4m.app.gallery import write_report
    from open4m.evaluation import evaluate, read_values
    from open4m.evaluation.tables import markdown
    from open4m.files import write_json
    from open4m.scenes import render_dataset
    from open4m.training.run import pretrain
    from open4m.training.tokenize import tokenize_dataset
    from recipes.scenes_tiny import pretrain_recipe
    from recipes.tokenizers import TOKENIZER_OF

    console, cores = Console(), os.cpu_count() or 1
    data, tokenizers = run.out / "data", run.out / "tokenizers"
    console.rule("1/5 render")
    for split, count, seed in (("train", run.views, run.seed), ("val", run.views // 20, run.seed + 1)):
        render_dataset(data, count=count, seed=seed, split=split, workers=cores, shard_size=250)
    console.rule("2/5 tokenizers")
    _train_tokenizers(data, tokenizers, run, workers=min(2, cores))
    console.rule("3/5 tokens")
    for split in ("train", "val"):
        tokenize_dataset(data, split, tokenizers, TOKENIZER_OF, workers=cores)
    console.rule("4/5 pre-train")
    recipe = pretrain_recipe("scenes-speedrun")
    pretrain(recipe, data, tokenizers, run.out / "model", minutes=run.pretrain_minutes, seed=run.seed)
    console.rule("5/5 scores")
    model = open4m.load(run.out / "model" / "bundle")
    names = [name for name in recipe.modalities if name != "rgb"]
    samples = read_values(data, "val", ["rgb", *names], run.evaluated)
    report, predictions = evaluate(model, samples, [("rgb",)], names, data="speedrun/val", seed=run.seed)
    write_json(run.out / "report.json", report.to_dict())
    write_report(run.out, report, None, samples, predictions)
    console.print(markdown(report), highlight=False)


def _train_tokenizers(data: Path, out: Path, run: Speedrun, workers: int) -> None:
    """One process per tokenizer, one thread each: faster on few cores than one process with many threads."""
    from open4m.training.run import train_tokenizer
    from recipes.tokenizers import tokenizer_recipe

    train = partial(
        train_tokenizer, data=data, out=out, minutes=run.tokenizer_minutes, seed=run.seed, show_progress=False
    )
    todo = [tokenizer_recipe(name) for name in TOKENIZERS if not (out / name / "config.json").exists()]
    context = multiprocessing.get_context("spawn")
    with (
        Console().status(f"training {', '.join(recipe.name for recipe in todo)}"),
        ProcessPoolExecutor(workers, context, initializer=_single_thread) as pool,
    ):
        for recipe, outcome in zip(todo, pool.map(train, todo), strict=True):
            Console().print(recipe.name, outcome.metrics)


def _single_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main(tyro.cli(Speedrun, description=__doc__))
