"""The one training loop. What is trained is a :class:`Task`; how long and how, a :class:`TrainSettings`.

Every random number of step s is drawn from generators seeded by (seed, s, rank), so that a run that was killed and
resumed ends with the same bits as one that was not (with a budget in steps, on the same machine with the same number
of threads; with a budget in minutes the schedule follows the clock).
"""

from __future__ import annotations

import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from open4m.errors import TrainingError
from open4m.files import read_json, write_json
from open4m.precision import fast_dtype
from open4m.training.checkpoint import (
    Checkpoint,
    Counters,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from open4m.training.distributed import World
from open4m.training.metrics import MetricsLog, progress_bar
from open4m.training.optimizer import (
    WeightAverage,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
    schedule,
)

Model = TypeVar("Model", bound=nn.Module)
Batch = TypeVar("Batch")
Precision = Literal["auto", "bf16", "fp32"]


class Task(ABC, Generic[Model, Batch]):
    """What is trained, on what, and how it is judged.

    Attributes:
        model: the network.
        samples_per_step: samples of a step over all processes, for the displayed rate.
    """

    model: Model
    samples_per_step: int

    @abstractmethod
    def batch(self, step: int, world: World) -> Batch:
        """The batch of a step on ``world.device``: a pure function of (step, rank)."""

    @abstractmethod
    def loss(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar loss and detached scalars to be logged. ``model`` is :attr:`model`, perhaps wrapped."""

    @abstractmethod
    def evaluate(self, device: torch.device) -> dict[str, float]:
        """Scores of :attr:`model` (in evaluation mode, without gradients) on held-out data."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON-able facts (configuration, data) that must be the same when a run is resumed."""

    def before_step(self, step: int, world: World) -> None:
        """Called before each step; for changes of the model in the course of training. Default: nothing."""

    def state_of_forward(self) -> Iterable[Tensor]:
        """Buffers that the forward pass changes; they are put back when a step is skipped. Default: none."""
        return ()


@dataclass(frozen=True)
class TrainSettings:
    """How a run goes. Exactly one of ``steps`` and ``minutes`` is given.

    Attributes:
        steps: length in optimizer steps; exactly repeatable and resumable.
        minutes: length in wall-clock time, evaluation included, over all starts of the run; the schedule follows
            the clock, so that any budget ends annealed.
        learning_rate: its maximum.
        warmup: share of the run with a linear increase from 0; a cosine to 0 follows.
        weight_decay: for all parameters but norms and biases.
        betas: of AdamW.
        clip: largest gradient norm.
        average: decay of the moving average of the weights that is evaluated and kept; 0 = none.
        seed: of everything random.
        evaluate_every, checkpoint_every: steps; both are also done at the end.
        keep: number of checkpoints kept.
        log_every: steps between records of training numbers.
        max_skipped: so many steps in a row with non-finite gradients end the run with an error.
        precision: ``auto`` = bfloat16 autocast where the device is fast at it, or always ``bf16`` or ``fp32``.
    """

    steps: int | None = None
    minutes: float | None = None
    learning_rate: float = 1e-3
    warmup: float = 0.02
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    average: float = 0.0
    seed: int = 0
    evaluate_every: int = 1000
    checkpoint_every: int = 500
    keep: int = 2
    log_every: int = 20
    max_skipped: int = 10
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise TrainingError("Give the length of a run either in steps or in minutes.")
        if min(self.evaluate_every, self.checkpoint_every, self.keep, self.log_every, self.max_skipped) < 1:
            raise TrainingError("evaluate_every, checkpoint_every, keep, log_every and max_skipped must be at least 1.")
        if not 0 <= self.warmup < 1 or not 0 <= self.average < 1:
            raise TrainingError(f"warmup ({self.warmup}) and average ({self.average}) must be in [0, 1).")

    def progress(self, counters: Counters) -> float:
        """Share of the run that is done, as the schedule sees it: in the middle of the coming step, or now."""
        if self.steps is not None:
            return (counters.step + 0.5) / self.steps
        assert self.minutes is not None
        return counters.elapsed / (60.0 * self.minutes)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        finished: False if it was stopped by a signal; run it again to go on.
        steps: optimizer steps done.
        metrics: scores of the last evaluation; empty if it was stopped before any.
    """

    finished: bool
    steps: int
    metrics: dict[str, float]


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random in one step of one process; distinct steps and ranks are independent."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> 1)


class Trainer:
    """Runs a task. All state of a run is in ``out``: the same call again resumes it, or returns if it is complete.

    Args:
        out: folder for ``run.json``, ``metrics.jsonl`` and ``checkpoints/``.
        world: the processes that take part.
        tensorboard: also write ``out/tensorboard``.

    Raises:
        TrainingError: the folder holds a run of another task or with other settings.
    """

    def __init__(
        self,
        task: Task[Any, Any],
        settings: TrainSettings,
        out: str | Path,
        world: World | None = None,
        *,
        tensorboard: bool = False,
        show_progress: bool = True,
    ) -> None:
        self.task, self.settings, self.out = task, settings, Path(out)
        self.world = world or World()
        self.counters = Counters()
        self._tensorboard = tensorboard
        self._show_progress = show_progress and self.world.is_main
        self._dtype = self._choose_dtype()
        self._stop_requested = False
        task.model.to(self.world.device)
        self._optimizer = make_optimizer(task.model, settings.learning_rate, settings.betas, settings.weight_decay)
        self._average = WeightAverage(task.model, settings.average) if settings.average else None
        self._check_run()
        self._resume()
        self._wrapped = self.world.wrap(task.model)

    def run(self) -> Outcome:
        """Train until the budget is used up or SIGINT or SIGTERM asks to stop. Leaves :attr:`Task.model` averaged."""
        settings, counters = self.settings, self.counters
        metrics: dict[str, float] = {}
        evaluated = -1
        with self._signals(), MetricsLog(self.out, counters.step, self._tensorboard, self.world.is_main) as log:
            with progress_bar(self._show_progress) as bar:
                row = bar.add_task("training", total=1.0, text="")
                start = time.monotonic() - counters.elapsed
                while (progress := self._progress()) < 1.0:
                    record = self._step(progress)
                    counters.elapsed = time.monotonic() - start
                    bar.update(row, completed=progress, text=self._text(record))
                    if counters.step % settings.log_every == 0:
                        log.write("train", counters.step, counters.elapsed, _floats(record))
                    if counters.step % settings.evaluate_every == 0:
                        metrics, evaluated = self._evaluate(log), counters.step
                        counters.elapsed = time.monotonic() - start
                    if self.world.any(self._stop_requested):
                        self._save()
                        return Outcome(False, counters.step, metrics)
                    if counters.step % settings.checkpoint_every == 0:
                        self._save()
                self._save()
            if evaluated != counters.step:
                metrics = self._evaluate(log)
        if self._average is not None:
            self._average.swap(self.task.model)
        return Outcome(True, counters.step, metrics)

    # -- one step -----------------------------------------------------------------------------------------------
    def _step(self, progress: float) -> dict[str, Tensor]:
        settings, counters, step = self.settings, self.counters, self.counters.step
        torch.manual_seed(step_seed(settings.seed, step, self.world.rank))
        self.task.model.train()
        self.task.before_step(step, self.world)
        batch = self.task.batch(step, self.world)
        before = [tensor.clone() for tensor in self.task.state_of_forward()]
        with torch.autocast(self.world.device.type, self._dtype, enabled=self._dtype != torch.float32):
            loss, record = self.task.loss(self._wrapped, batch)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), settings.clip)
        rate = settings.learning_rate * schedule(progress, settings.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        counters.step += 1
        # Gradients are the same in all processes, so all of them decide alike.
        if torch.isfinite(norm):
            self._optimizer.step()
            if self._average is not None:
                self._average.update(self.task.model)
            counters.skipped_in_a_row = 0
        else:
            self._skip(before, float(loss.detach()))
        numbers = {"loss": loss.detach(), "gradient_norm": norm, "learning_rate": torch.tensor(rate)}
        return numbers | {"skipped": torch.tensor(counters.skipped)} | record

    def _skip(self, before: list[Tensor], loss: float) -> None:
        counters = self.counters
        for tensor, value in zip(self.task.state_of_forward(), before, strict=True):
            tensor.copy_(value)
        counters.skipped += 1
        counters.skipped_in_a_row += 1
        if counters.skipped_in_a_row >= self.settings.max_skipped:
            raise TrainingError(
                f"{self.out}: the gradients of {counters.skipped_in_a_row} steps in a row were not finite; the last "
                f"was step {counters.step - 1} (loss {loss}). Look at the data of these steps, or start anew in "
                "another folder with a lower learning rate or precision='fp32'."
            )

    # -- around the steps ---------------------------------------------------------------------------------------
    def _progress(self) -> float:
        return self.world.from_main(self.settings.progress(self.counters))

    def _evaluate(self, log: MetricsLog) -> dict[str, float]:
        """Scores of the (averaged) weights, computed by the main process while the others wait."""
        metrics: dict[str, float] = {}
        if self.world.is_main:
            model = self.task.model
            with self._averaged_weights(), torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(self.settings.seed)
                model.eval()
                with torch.autocast(self.world.device.type, self._dtype, enabled=self._dtype != torch.float32):
                    metrics = self.task.evaluate(self.world.device)
                model.train()
            log.write("validation", self.counters.step, self.counters.elapsed, metrics)
        self.world.barrier()
        return metrics

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        if self._average is None:
            yield
            return
        self._average.swap(self.task.model)
        try:
            yield
        finally:
            self._average.swap(self.task.model)

    def _choose_dtype(self) -> torch.dtype:
        fixed = {"bf16": torch.bfloat16, "fp32": torch.float32}
        return fixed.get(self.settings.precision) or fast_dtype(self.world.device)

    def _text(self, record: dict[str, Tensor]) -> str:
        counters = self.counters
        rate = counters.step * self.task.samples_per_step / max(counters.elapsed, 1e-9)
        return f"step {counters.step}  loss {float(record['loss']):.3f}  {rate:.1f} samples/s"

    # -- files and signals --------------------------------------------------------------------------------------
    def _check_run(self) -> None:
        """Refuse to resume a run of something else; a length in minutes or steps may not change either."""
        path = self.out / "run.json"
        wanted = {"task": self.task.describe(), "settings": asdict(self.settings), "processes": self.world.size}
        wanted["settings"]["betas"] = list(self.settings.betas)
        if path.exists():
            found = read_json(path)
            for key in wanted:
                if found.get(key) != wanted[key]:
                    raise TrainingError(
                        f"{self.out}: holds a run that differs: {_first_difference(found.get(key), wanted[key], key)}. "
                        "Give another folder, or the same settings."
                    )
        elif self.world.is_main:
            write_json(path, wanted)
        self.world.barrier()

    def _resume(self) -> None:
        folder = latest_checkpoint(self.out) if self.world.is_main or self.world.size == 1 else None
        self.world.barrier()
        folder = folder or latest_checkpoint(self.out)
        if folder is None:
            return
        checkpoint = load_checkpoint(folder)
        try:
            self.task.model.load_state_dict(checkpoint.model)
            parts = {"optimizer": {}, "average": {}}
            for key, tensor in checkpoint.training.items():
                part, _, name = key.partition("/")
                parts[part][name] = tensor
            restore_optimizer(self.task.model, self._optimizer, parts["optimizer"])
            if self._average is not None:
                self._average.tensors = {k: v.to(self.world.device) for k, v in parts["average"].items()}
        except (KeyError, RuntimeError) as error:
            raise TrainingError(f"{folder} does not fit this model: {error}") from error
        self.counters = checkpoint.counters

    def _save(self) -> None:
        if self.world.is_main:
            training = {f"optimizer/{k}": v for k, v in optimizer_tensors(self.task.model, self._optimizer)}
            if self._average is not None:
                training |= {f"average/{k}": v for k, v in self._average.tensors.items()}
            save_checkpoint(
                self.out, Checkpoint(self.counters, dict(self.task.model.state_dict()), training), self.settings.keep
            )
        self.world.barrier()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the run after the step, with a checkpoint. A second signal acts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        previous: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

        def request_stop(number: int, _frame: object) -> None:
            self._stop_requested = True
            signal.signal(number, previous[number])

        for number in numbers:
            signal.signal(number, request_stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _floats(record: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in record.items()}


def _first_difference(found: Any, wanted: Any, where: str) -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            if found.get(key) != wanted.get(key):
                return _first_difference(found.get(key), wanted.get(key), f"{where}.{key}")
    return f"{where} was {found!r}, now {wanted!r}"
