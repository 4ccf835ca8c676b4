"""What the command line calls: train a tokenizer, learn the text vocabulary, pre-train and bundle."""

from __future__ import annotations

from pathlib import Path

from open4m.errors import TrainingError
from open4m.tokenizers.io import save_tokenizer
from open4m.training.distributed import world_from_environment
from open4m.training.tokenizer_task import TokenizerTask
from open4m.training.trainer import Outcome, Trainer, TrainSettings
from recipes.tokenizers import TokenizerRecipe, tokenizer_recipe

RUN = "run"
"""Folder of a run's checkpoints and metrics, beside what it produces."""


def train_tokenizer(
    recipe: str | TokenizerRecipe,
    data: str | Path,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    tensorboard: bool = False,
    show_progress: bool = True,
) -> Outcome:
    """Train a tokenizer on the splits ``train`` and ``val`` of ``data``; the same call resumes it.

    ``out/<recipe>/`` becomes a tokenizer folder (``config.json``, ``model.safetensors``) when the run is complete;
    ``out/<recipe>/run/`` holds its metrics and checkpoints. Without ``minutes`` and ``steps`` it takes the time of
    the recipe.

    Raises:
        UnknownNameError: no such recipe.
        TrainingError: the run ended before quantization began, or the folder holds another run.
    """
    recipe = tokenizer_recipe(recipe) if isinstance(recipe, str) else recipe
    folder = Path(out) / recipe.name
    settings = TrainSettings(
        steps=steps,
        minutes=minutes if minutes or steps else recipe.minutes,
        learning_rate=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        seed=seed,
    )
    with world_from_environment() as world:
        task = TokenizerTask(recipe, data, seed)
        trainer = Trainer(task, settings, folder / RUN, world, tensorboard=tensorboard, show_progress=show_progress)
        outcome = trainer.run()
        if outcome.finished and not task.model.quantizing:
            raise TrainingError(
                f"{folder}: the run ended after {outcome.steps} steps, before quantization began (a late start after "
                f"{recipe.late_start} steps). Remove the folder and give it more steps or minutes."
            )
        if outcome.finished and world.is_main:
            save_tokenizer(task.model, folder)
    return outcome
