"""AdamW groups, the learning-rate schedule and weight averaging (spec: training §2–3)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

NO_DECAY_SUFFIXES = (".bias", ".gamma", ".lookup_table_weight")


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter called ``name``: to all but norms, biases and gains."""
    return not ("norm." in name or ".norm" in name or name.endswith(NO_DECAY_SUFFIXES))


def make_optimizer(
    model: nn.Module, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters in two groups, with and without decay."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for n, p in named if decays(n)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=True)


def schedule(progress: float, warmup: float) -> float:
    """Factor of the learning rate: linear from 0 to 1 over the share ``warmup`` of the run, then a cosine to 0.

    ``progress`` is the share of the run that is done, in steps or in time; beyond 1 the factor stays 0.
    """
    if progress < warmup:
        return progress / warmup
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


class WeightAverage:
    """Exponential moving average of a model's parameters.

    Buffers (codebooks, which are averages already and whose codes may jump when they are revived) are not
    averaged: a model that is given the averaged parameters keeps its own.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present parameters."""
        for name, parameter in model.named_parameters():
            self.tensors[name].lerp_(parameter, 1.0 - self.decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the average and the model's parameters; twice = nothing."""
        for name, parameter in model.named_parameters():
            averaged = self.tensors[name].clone()
            self.tensors[name].copy_(parameter)
            parameter.copy_(averaged)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's state as (``<parameter name>/<moment>``, tensor)."""
    for name, parameter in model.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}/{moment}", value


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`optimizer_tensors`. Raises ``KeyError`` for a parameter the model does not have."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, moment = key.rpartition("/")
        parameter = parameters[name]
        device = parameter.device if value.ndim else value.device
        optimizer.state[parameter][moment] = value.to(device)
