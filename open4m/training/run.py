"""What the command line calls: train a tokenizer; pre-train a model and put it into a bundle."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from open4m.errors import TrainingError
from open4m.hub.bundle import Bundle, BundleInfo, load_bundle, save_bundle
from open4m.tokenizers.io import load_tokenizer, save_tokenizer
from open4m.tokenizers.text import TextTokenizer
from open4m.training.distributed import world_from_environment
from open4m.training.pretrain_task import PretrainTask
from open4m.training.recipe import PretrainRecipe, TokenizerRecipe
from open4m.training.text_vocabulary import learn_text
from open4m.training.tokenizer_task import TokenizerTask
from open4m.training.trainer import Outcome, Precision, Trainer, TrainSettings

RUN, BUNDLE = "run", "bundle"
"""Folders of a run's checkpoints and metrics, and of the system that pre-training makes."""


def train_tokenizer(
    recipe: TokenizerRecipe,
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

    ``out/<recipe.name>/`` becomes a tokenizer folder (``config.json``, ``model.safetensors``) when the run is complete;
    ``out/<recipe.name>/run/`` holds its metrics and checkpoints. Without ``minutes`` and ``steps`` it takes the time of
    the recipe. A recipe with ``encoder_of`` finds that tokenizer in ``out``.

    Raises:
        DataError: the tokenizer that the recipe builds on is missing.
        TrainingError: the run ended before quantization began, or the folder holds another run.
    """
    folder = Path(out) / recipe.name
    settings = TrainSettings(
        steps=steps,
        minutes=minutes if minutes or steps else recipe.minutes,
        learning_rate=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        average=recipe.average,
        seed=seed,
    )
    encoder = Path(out) / recipe.encoder_of if recipe.encoder_of else None
    with world_from_environment() as world:
        task = TokenizerTask(recipe, data, seed, encoder)
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


def pretrain(
    recipe: PretrainRecipe,
    data: str | Path,
    tokenizers: str | Path,
    out: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    learning_rate: float | None = None,
    start: str | Path | None = None,
    precision: Precision = "auto",
    evaluate_every: int = 1000,
    tensorboard: bool = False,
    show_progress: bool = True,
) -> Outcome:
    """Train a model on the tokenized splits ``train`` and ``val`` of ``data``; the same call resumes it.

    ``out/bundle/`` is the trained system when the run is complete; ``out/run/`` holds its metrics and checkpoints.
    The text vocabulary is ``tokenizers/text_tokenizer.json``, learned first if it is missing. Without ``minutes``
    and ``steps`` it takes the time of the recipe. ``start`` names a trained bundle to go on from (:func:`warm_start`)
    instead of random weights; a short run then wants a peak ``learning_rate`` below the recipe's.

    Raises:
        DataError: folders of the data or tokenizers are missing.
        TrainingError: ``out`` holds another run, or gradients were not finite again and again.
    """
    settings = TrainSettings(
        steps=steps,
        minutes=minutes if minutes or steps else recipe.minutes,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        warmup=recipe.warmup,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        seed=seed,
        precision=precision,
        evaluate_every=evaluate_every,
    )
    with world_from_environment() as world:
        if world.is_main:
            learn_text(data, tokenizers)
        world.barrier()
        text = learn_text(data, tokenizers)
        bundle = None if start is None else load_bundle(start)
        task = PretrainTask(recipe, data, tokenizers, text, world, seed, bundle)
        if task.fresh and world.is_main and show_progress:
            Console().print(f"not in {start}, or with other ids, so trained from scratch: {', '.join(task.fresh)}")
        trainer = Trainer(task, settings, Path(out) / RUN, world, tensorboard=tensorboard, show_progress=show_progress)
        outcome = trainer.run()
        if outcome.finished and world.is_main:
            task.model.trained = True
            save_bundle(make_bundle(recipe, task, text, tokenizers, outcome, bundle), Path(out) / BUNDLE)
    return outcome


def make_bundle(
    recipe: PretrainRecipe,
    task: PretrainTask,
    text: TextTokenizer,
    tokenizers: str | Path,
    outcome: Outcome,
    start: Bundle | None = None,
) -> Bundle:
    """The trained model with the tokenizers of its streams."""
    stream_tokenizers = {
        spec.name: recipe.tokenizer_of[spec.modality]
        for spec in task.model.config.targets
        if spec.modality in recipe.tokenizer_of
    }
    provenance = {
        "recipe": recipe.name,
        "data": "scenes rendered by open4m; features by freely licensed stand-ins (open4m.labeling.teachers)",
        "steps": outcome.steps,
        "samples": outcome.steps * recipe.batch_size,
        "validation_loss": {name: round(value, 4) for name, value in outcome.metrics.items()},
    }
    if start is not None:
        provenance["start"] = {"name": start.info.name, **start.info.provenance}
    info = BundleInfo(
        name=recipe.name,
        description=recipe.description,
        image_size=recipe.image_size,
        patch_size=recipe.patch_size,
        stream_tokenizers=stream_tokenizers,
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        provenance=provenance,
        generation={situation: dict(changes) for situation, changes in recipe.generation.items()},
    )
    models = {name: load_tokenizer(Path(tokenizers) / name) for name in set(stream_tokenizers.values())}
    return Bundle(info, task.model.eval(), models, text)
