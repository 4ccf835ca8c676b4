"""A task of a few parameters, and a program that trains it: for tests that need a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from open4m.training.distributed import World, world_from_environment
from open4m.training.trainer import Task, Trainer, TrainSettings, step_seed

BATCH = 8


class ToyModel(nn.Module):
    """A linear layer, noise from the global generator, and a buffer that forward passes change."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(4, 3)
            self.norm = nn.LayerNorm(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, noise: float) -> Tensor:
        if self.training:
            self.seen += x.sum()
        return self.norm(self.linear(x + noise * torch.randn_like(x)))


class ToyTask(Task[ToyModel, tuple[Tensor, Tensor]]):
    """Regress a fixed linear map. Steps in ``broken`` have batches that are not finite."""

    samples_per_step = BATCH

    def __init__(self, broken: frozenset[int] = frozenset(), noise: float = 0.1, name: str = "toy") -> None:
        self.model = ToyModel()
        self.broken, self.noise, self.name = broken, noise, name
        self.on_step: Callable[[int], None] = lambda step: None  # noqa: ARG005

    def batch(self, step: int, world: World) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step_seed(7, step, 0))
        x = torch.randn(BATCH, 4, generator=generator)
        y = x @ torch.linspace(-1, 1, 12).view(4, 3)
        if step in self.broken:
            x = x * float("nan")
        mine = slice(world.rank, None, world.size)
        return x[mine], y[mine]

    def loss(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss = (model(batch[0], self.noise) - batch[1]).square().mean()
        return loss, {"error": loss.detach()}

    def evaluate(self, device: torch.device) -> dict[str, float]:
        x, y = self.batch(10_000, World(device=device))
        return {"error": (self.model(x, 0.0) - y).square().mean().item()}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name}

    def before_step(self, step: int, world: World) -> None:  # noqa: ARG002
        self.on_step(step)

    def state_of_forward(self) -> tuple[Tensor, ...]:
        return (self.model.seen,)


def settings(**changes: Any) -> TrainSettings:
    """30 short steps in float32."""
    how_often: dict[str, Any] = {"steps": 30, "checkpoint_every": 4, "log_every": 1}
    how: dict[str, Any] = {"precision": "fp32", "learning_rate": 0.05, "average": 0.9, "warmup": 0.1}
    return TrainSettings(**(how_often | how | changes))


def weights(out: Path) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint."""
    from open4m.training.checkpoint import latest_checkpoint, load_checkpoint

    folder = latest_checkpoint(out)
    assert folder is not None
    checkpoint = load_checkpoint(folder)
    return {k: v.numpy() for k, v in (checkpoint.model | checkpoint.training).items()}


def main(out: str, noise: str, kill_at: str) -> None:
    """Train the toy; at step ``kill_at`` (-1 = never) the process kills itself without warning."""
    torch.set_num_threads(1)
    task = ToyTask(noise=float(noise))

    def kill(step: int) -> None:
        if step == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    task.on_step = kill
    with world_from_environment() as world:
        Trainer(task, settings(), out, world, show_progress=False).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
