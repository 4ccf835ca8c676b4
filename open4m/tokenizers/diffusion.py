"""Diffusion: noise schedules and samplers, as pure functions of tensors (spec: tokenizers §4).

Noise level t of T mixes a value x0 with noise ε: x_t = √ᾱ_t·x0 + √(1−ᾱ_t)·ε (Ho et al. 2020, arXiv 2006.11239).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import torch
from torch import Tensor

from open4m.errors import CheckpointError, GenerationError

Spacing = Literal["trailing", "leading", "linspace"]
Solver = Literal["ddim", "ddpm", "dpm++"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, C, H, W), t (B,) int64) → what the network predicts (B, C, H, W)."""

FIRST_BETA, LAST_BETA = 1e-4, 2e-2
LARGEST_BETA = 0.999
LARGEST_LOG_SNR = 15.0
LARGEST_SOLVED_LOG_SNR = 5.0
"""λ from which :func:`dpm_solver` goes to the value in one step: what is left there is less than a grey level."""


# -- noise schedules ------------------------------------------------------------------------------------------------
def signal_levels(schedule: str, steps: int, zero_terminal_snr: bool) -> Tensor:
    """ᾱ_t, the share of signal in the variance at each of ``steps`` noise levels: (steps,) float32 on the CPU.

    Args:
        schedule: ``linear``, ``scaled_linear``, ``sigmoid``, ``squaredcos_cap_v2`` (Nichol & Dhariwal 2021,
            arXiv 2102.09672) or ``shifted_cosine:s`` (Hoogeboom et al. 2023, arXiv 2301.11093; s < 1 = less noise).
        zero_terminal_snr: shift and scale √ᾱ so that the last level is pure noise (Lin et al. 2023, arXiv 2305.08891).
            Without effect on ``shifted_cosine``, which ends so anyway.

    Raises:
        CheckpointError: unknown schedule.
    """
    with torch.device("cpu"):  # also where a model is being built on another device
        name, _, shift = schedule.partition(":")
        if name == "shifted_cosine":
            return _shifted_cosine(schedule, shift, steps).float()
        if schedule not in _BETAS:
            known = ", ".join(_BETAS)
            raise CheckpointError(f"beta_schedule {schedule!r} is unknown. Expected {known} or shifted_cosine:<shift>.")
        levels = torch.cumprod(1 - _BETAS[schedule](steps), dim=0)
        if zero_terminal_snr:
            root = levels.sqrt()
            levels = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
        return levels.float()


def _between(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _squared_cosine(steps: int) -> Tensor:
    levels = torch.cos((_between(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2).square()
    return (1 - levels[1:] / levels[:-1]).clamp(max=LARGEST_BETA)


_BETAS: dict[str, Callable[[int], Tensor]] = {
    "linear": lambda steps: _between(FIRST_BETA, LAST_BETA, steps),
    "scaled_linear": lambda steps: _between(FIRST_BETA**0.5, LAST_BETA**0.5, steps).square(),
    "sigmoid": lambda steps: FIRST_BETA + (LAST_BETA - FIRST_BETA) * _between(-6, 6, steps).sigmoid(),
    "squaredcos_cap_v2": _squared_cosine,
}


def _shifted_cosine(schedule: str, shift: str, steps: int) -> Tensor:
    try:
        offset = math.log(float(shift))
    except ValueError as error:
        raise CheckpointError(f"beta_schedule {schedule!r}: expected a positive number after the colon.") from error
    log_snr = -2 * (torch.log(torch.tan(_between(0, 1, steps) * math.pi / 2)) + offset)
    levels = log_snr.clamp(-LARGEST_LOG_SNR, LARGEST_LOG_SNR).sigmoid()
    levels[-1] = 0.0
    return levels


def time_steps(steps: int, total: int, spacing: Spacing) -> list[int]:
    """Noise levels that sampling visits, the noisiest first.

    ``trailing`` begins at pure noise; where ``steps`` does not divide ``total`` it visits more levels than asked for,
    because its stride is rounded down (a quirk of the reference, kept for equal outputs). ``leading`` ends at level 0
    and never sees pure noise. ``linspace`` has both ends.
    """
    if not 1 <= steps <= total:
        raise GenerationError(f"{steps} diffusion steps: expected 1…{total}.")
    stride = total // steps
    match spacing:
        case "trailing":
            return list(range(total - 1, -1, -stride))
        case "leading":
            return [stride * i for i in reversed(range(steps))]
        case "linspace":
            return [round(t) - 1 for t in _between(total, 1, steps).tolist()]


# -- the process ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Diffusion:
    """A noise process, and what the network predicts about it.

    Attributes:
        levels: ᾱ (T,) of :func:`signal_levels`.
        prediction: ``sample`` (x0), ``epsilon`` (ε) or ``v_prediction`` (v = √ᾱ·ε − √(1−ᾱ)·x0; Salimans & Ho 2022,
            arXiv 2202.00512).
        clip: predicted values are kept in [-1, 1] while sampling. The reference's "dynamic thresholding" is the same,
            since its upper limit is 1; it cuts off values of standardised data that reach further.
    """

    levels: Tensor
    prediction: str
    clip: bool

    def _scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1−ᾱ), (B, 1, 1, 1); level −1 is the value without noise."""
        levels = torch.cat([self.levels, self.levels.new_ones(1)]).to(t.device)[t].view(-1, 1, 1, 1)
        return levels.sqrt(), (1 - levels).sqrt()

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of values (B, C, H, W) at levels t (B,)."""
        signal, spread = self._scales(t)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at x_t."""
        signal, spread = self._scales(t)
        match self.prediction:
            case "sample":
                return x0
            case "epsilon":
                return noise
            case _:
                return signal * noise - spread * x0

    def estimate(self, output: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, ε) that the network's output means at x_t.

        ε belongs to the x0 *before* clipping: a quirk of the reference, kept for equal outputs.
        """
        signal, spread = self._scales(t)
        match self.prediction:
            case "sample":
                x0, noise = output, (x_t - signal * output) / spread
            case "epsilon":
                x0, noise = (x_t - spread * output) / signal, output
            case _:
                x0, noise = signal * x_t - spread * output, signal * output + spread * x_t
        return (x0.clamp(-1, 1) if self.clip else x0), noise

    def ddim_step(self, output: Tensor, x_t: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at level ``to`` (B,), without fresh noise (Song et al. 2020, arXiv 2010.02502, with η = 0)."""
        x0, noise = self.estimate(output, x_t, t)
        return self.noised(x0, noise, to)

    def ddpm_step(self, output: Tensor, x_t: Tensor, t: Tensor, to: Tensor, noise: Tensor) -> Tensor:
        """x at level ``to`` (B,), drawn from q(x_to | x_t, x0) with ``noise`` (Ho et al. 2020, equations 6 and 7)."""
        x0, _ = self.estimate(output, x_t, t)
        (signal, spread), (signal_to, spread_to) = self._scales(t), self._scales(to)
        ratio = (signal / signal_to).square()  # α of the stride
        mean = signal_to * (1 - ratio) / spread.square() * x0 + ratio.sqrt() * (spread_to / spread).square() * x_t
        return mean + (1 - ratio).sqrt() * spread_to / spread * noise

    def solver_step(self, x0: Tensor, x_t: Tensor, t: int, to: int, before: tuple[int, Tensor] | None) -> Tensor:
        """x at level ``to``: DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

        Args:
            x0: predicted at x_t.
            t, to: levels of all samples.
            before: the level of the last step and x0 predicted there; None, or a step to or from a level without noise
                or without signal, is of first order, which is DDIM.
        """
        (signal, spread), (signal_to, spread_to) = self._scales(torch.tensor([t])), self._scales(torch.tensor([to]))
        if before is not None:
            ahead, behind = self._log_snr(to) - self._log_snr(t), self._log_snr(t) - self._log_snr(before[0])
            if math.isfinite(ahead):  # behind may be infinite: no slope can be told then
                x0 = x0 + ahead / (2 * behind) * (x0 - before[1])
        ratio = float(spread_to / spread)
        return ratio * x_t + float(signal_to - signal * ratio) * x0

    def solver_levels(self, steps: int) -> list[int]:
        """Levels that :func:`dpm_solver` visits: pure noise, then at equal distances of λ, as its order requires.

        Steps evenly spread over time, as DDIM takes them, cross most of λ in the last one, which is of first order. The
        first stride over noise becomes shorter with more steps, so that the path is met in the limit. Where two places
        fall on one level there are fewer steps.
        """
        total = len(self.levels)
        if not 1 <= steps <= total:
            raise GenerationError(f"{steps} diffusion steps: expected 1…{total}.")
        places = torch.tensor([self._log_snr(level) for level in range(total)], dtype=torch.float64)
        highest, lowest = min(float(places[0]), LARGEST_SOLVED_LOG_SNR), -math.log2(steps) / 2
        visited = [int((places - at).abs().argmin()) for at in _between(lowest, highest, steps - 1)]
        return [total - 1, *(level for level, _ in groupby(visited) if level < total - 1)]

    def _log_snr(self, level: int) -> float:
        """λ = log(√ᾱ/√(1−ᾱ)) of a level; ∞ for the value itself (−1), −∞ for pure noise."""
        share = 1.0 if level < 0 else float(self.levels[level])
        if share in (0.0, 1.0):
            return math.inf if share else -math.inf
        return math.log(share / (1 - share)) / 2


# -- sampling -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sampling:
    """How a diffusion decoder draws a value.

    Attributes:
        steps: noise levels visited. The published callers use 25 or 50.
        seed: of the noise. One per sample, or one that serves all of them: a sample's noise never depends on its batch.
        spacing: of DDIM, see :func:`time_steps`; DDPM always uses ``leading``, as the reference does.
        solver: ``ddim``, ``ddpm`` or ``dpm++``, which needs fewer steps for the same values as ``ddim``; None = what
            the tokenizer's configuration names, as published.
    """

    steps: int = 25
    seed: int | Sequence[int] = 0
    spacing: Spacing = "trailing"
    solver: Solver | None = None

    def noise_source(self, batch: int, shape: Sequence[int], device: torch.device) -> Callable[[], Tensor]:
        """A function that gives fresh noise (batch, *shape) at every call, drawn on the CPU for any ``device``."""
        seeds = [self.seed] * batch if isinstance(self.seed, int) else self.seed
        if len(seeds) != batch:
            raise GenerationError(f"{len(seeds)} seeds given for {batch} samples. Give one seed, or one per sample.")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return lambda: torch.stack([torch.randn(*shape, generator=g, device="cpu") for g in generators]).to(device)


def ddim(diffusion: Diffusion, denoise: Denoiser, x: Tensor, steps: int, spacing: Spacing) -> Tensor:
    """Values from pure noise x (B, C, H, W), deterministically."""
    total = len(diffusion.levels)
    for level in time_steps(steps, total, spacing):
        t, to = _pair(x, level, total // steps)
        x = diffusion.ddim_step(denoise(x, t).float(), x, t, to)
    return x


def dpm_solver(diffusion: Diffusion, denoise: Denoiser, x: Tensor, steps: int) -> Tensor:
    """Values from pure noise x (B, C, H, W): the path of :func:`ddim`, followed to second order."""
    before: tuple[int, Tensor] | None = None
    for level, to in pairwise([*diffusion.solver_levels(steps), -1]):
        t = torch.full((len(x),), level, device=x.device)
        x0, _ = diffusion.estimate(denoise(x, t).float(), x, t)
        x = diffusion.solver_step(x0, x, level, to, before)
        before = level, x0
    return x


def ddpm(diffusion: Diffusion, denoise: Denoiser, x: Tensor, steps: int, noise: Callable[[], Tensor]) -> Tensor:
    """Values from pure noise x (B, C, H, W), with fresh noise at every step but the last."""
    total = len(diffusion.levels)
    for level in time_steps(steps, total, "leading"):
        t, to = _pair(x, level, total // steps)
        fresh = noise() if level > 0 else torch.zeros_like(x)
        x = diffusion.ddpm_step(denoise(x, t).float(), x, t, to, fresh)
    return x


def _pair(x: Tensor, level: int, stride: int) -> tuple[Tensor, Tensor]:
    """A level and the one a stride below, −1 if there is none, as (B,) each.

    The reference subtracts the stride with ``linspace``, too, though its levels are not a stride apart: a quirk, kept
    for equal outputs.
    """
    t = torch.full((len(x),), level, device=x.device)
    return t, (t - stride).clamp(min=-1)
