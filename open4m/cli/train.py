"""``open4m train``: label features, train tokenizers, pre-train."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from open4m.errors import TrainingError

app = SubcommandApp()


@app.command
def features(data: Path, splits: tuple[str, ...] = ("train", "val"), workers: int = 1) -> None:
    """Add feature maps, global features and sentence states to rendered splits.

    CLIP, DINOv2, ImageBind and T5 are replaced by freely licensed stand-ins; one of them is trained here on DATA.

    Args:
        data: root of the data set.
        splits: which splits; "train" comes first, since the stand-ins are fitted on it.
        workers: processes over disjoint shards.
    """
    from open4m.labeling.teachers import label_features

    for split in splits:
        label_features(data, split, workers=workers)


@app.command
def tokenizer(
    recipe: Positional[str],
    data: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    tensorboard: bool = False,
) -> None:
    """Train one tokenizer; the same command resumes it.

    Args:
        recipe: a name of recipes/tokenizers.py, such as depth.
        data: root of a data set with splits train and val.
        out: OUT/<recipe> becomes the tokenizer's folder.
        minutes: length of the run; default: the recipe's.
        steps: length in steps instead: resuming is then exact.
        seed: of initialisation and data order.
        tensorboard: also write TensorBoard files.
    """
    from open4m.training.run import train_tokenizer
    from recipes.tokenizers import tokenizer_recipe

    chosen = tokenizer_recipe(recipe)
    train_tokenizer(chosen, data, out, minutes=minutes, steps=steps, seed=seed, tensorboard=tensorboard)


@app.command
def pretrain(
    recipe: Positional[str],
    data: Path,
    tokenizers: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    tokens: float | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    start: str | None = None,
    tensorboard: bool = False,
) -> None:
    """Pre-train a model on tokenized data; the same command resumes it. Runs under torchrun as well.

    Args:
        recipe: a name of recipes/scenes_tiny.py, such as scenes-tiny.
        data: root of a data set with tokenized splits train and val (open4m tokenize).
        tokenizers: folder of trained tokenizers.
        out: OUT/bundle becomes the trained model.
        minutes: length of the run; default: the recipe's.
        steps: length in steps instead: resuming is then exact.
        tokens: length as a budget of visible plus predicted tokens instead, such as 5e8.
        seed: of initialisation, data order and masks.
        learning_rate: at its peak; default: the recipe's. Lower where a short run starts from a trained model.
        start: go on from a trained model (name or folder) of the same shape instead of random weights.
        tensorboard: also write TensorBoard files.
    """
    from open4m.training.run import pretrain as run
    from recipes.scenes_tiny import pretrain_recipe

    chosen = pretrain_recipe(recipe)
    if tokens is not None:
        if steps is not None:
            raise TrainingError("Give the length of a run either in steps or in tokens.")
        steps = chosen.steps_for(tokens)
    outcome = run(
        chosen,
        data,
        tokenizers,
        out,
        minutes=minutes,
        steps=steps,
        seed=seed,
        learning_rate=learning_rate,
        start=start,
        tensorboard=tensorboard,
    )
    if outcome.finished:
        Console().print(f"[bold green]done[/] {escape(str(out / 'bundle'))}", highlight=False, soft_wrap=True)
