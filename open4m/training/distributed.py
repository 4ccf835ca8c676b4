"""One or several processes: who am I, and agreeing on numbers. PyTorch's own tools, started by ``torchrun``.

Models are replicated (DDP). For models that do not fit into one device, FSDP2 takes the place of :meth:`World.wrap`:
``fully_shard`` each block of ``FourM.encoder`` and ``FourM.decoder``, then the model (the units of the published
runs, spec: training §4); checkpoints are then gathered by ``torch.distributed.checkpoint.state_dict``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        rank, size: number of this process, and of all.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` with gradients averaged over all processes.

        Streams that are absent from a batch leave parameters without gradient, hence ``find_unused_parameters``.
        Codebooks keep themselves in step, hence no broadcast of buffers.
        """
        if self.size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, devices, broadcast_buffers=False, find_unused_parameters=True)

    def from_main(self, value: float) -> float:
        """``value`` of rank 0, in all processes."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return shared.item()

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        if self.size == 1:
            return flag
        shared = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return bool(shared.item())

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world_from_environment() -> Iterator[World]:
    """The world that ``torchrun`` started (NCCL on GPUs, Gloo on CPUs), or this process alone on its best device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "WORLD_SIZE" not in os.environ:
        yield World(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
