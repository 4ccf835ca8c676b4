"""Noise schedules and samplers: the reference's numbers, and what must hold for any of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from benchmarks.detokenize import Mixture
from open4m.errors import CheckpointError, GenerationError
from open4m.tokenizers.diffusion import Diffusion, Sampling, Spacing, ddim, ddpm, dpm_solver, signal_levels, time_steps
from tests.reference import verified

SCHEDULES = ("linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2", "shifted_cosine:0.5", "shifted_cosine:1.0")
PREDICTIONS = ("sample", "epsilon", "v_prediction")
SPACINGS: tuple[Spacing, ...] = ("trailing", "leading", "linspace")


def test_schedules_and_steps_equal_the_reference() -> None:
    report = verified("diffusion_schedules")
    assert not report.unread
    assert {item: check.parts for item, check in report.checks.items()} == {
        "signal levels": 8,
        "time steps": 27,
        "predicted values": 32,
        "DDIM steps": 32,
    }


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_fall_from_signal_to_noise(schedule: str, zero: bool) -> None:
    levels = signal_levels(schedule, 200, zero)
    assert levels.dtype == torch.float32 and levels.shape == (200,)
    assert bool((levels.diff() <= 0).all()) and 0.99 < levels[0] <= 1 and levels[-1] >= 0
    assert (levels[-1] == 0) == (zero or schedule.startswith("shifted"))
    assert bool((levels[:-1] > 0).all())


@pytest.mark.parametrize("name", ["cosine", "shifted_cosine:", "shifted_cosine:-1", "shifted_cosine:x", "linear:2"])
def test_unknown_schedules(name: str) -> None:
    with pytest.raises(CheckpointError, match="beta_schedule"):
        signal_levels(name, 10, True)


@given(st.integers(1, 400), st.integers(0, 600), st.sampled_from(SPACINGS))
def test_time_steps_fall_and_stay_inside(steps: int, more: int, spacing: Spacing) -> None:
    total = steps + more
    visited = time_steps(steps, total, spacing)
    assert visited == sorted(set(visited), reverse=True)
    assert 0 <= visited[-1] <= visited[0] < total
    assert len(visited) >= steps if spacing == "trailing" else len(visited) == steps
    if spacing != "leading":
        assert visited[0] == total - 1


def test_impossible_numbers_of_steps() -> None:
    for steps in (0, -1, 1001):
        with pytest.raises(GenerationError, match="expected 1…1000"):
            time_steps(steps, 1000, "trailing")


@given(st.integers(1, 98), st.sampled_from(PREDICTIONS), st.sampled_from(SCHEDULES), st.integers(0, 2**31))
def test_a_perfect_prediction_gives_value_and_noise_back(t: int, prediction: str, schedule: str, seed: int) -> None:
    diffusion = Diffusion(signal_levels(schedule, 100, True), prediction, clip=False)
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 2, 1, 3, 3, generator=generator).double()
    levels = torch.tensor([t, 98])
    diffusion = Diffusion(diffusion.levels.double(), prediction, clip=False)
    x = diffusion.noised(x0, noise, levels)
    found = diffusion.estimate(diffusion.target(x0, noise, levels), x, levels)
    assert_close(found, (x0, noise), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_perfect_networks_restore_the_value(prediction: str, spacing: Spacing, steps: int) -> None:
    diffusion = Diffusion(signal_levels("linear", 100, True), prediction, clip=True)
    x0 = torch.rand(3, 2, 4, 4) * 2 - 1

    def perfect(x: Tensor, t: Tensor) -> Tensor:
        level = diffusion.levels[t].view(-1, 1, 1, 1)
        signal, spread = level.sqrt(), (1 - level).sqrt()
        return diffusion.target(x0, (x - signal * x0) / spread, t)

    def draw() -> Tensor:
        return torch.randn_like(x0)

    if spacing != "linspace" or steps != 3:  # its last stride overshoots: 99, 49, 0 by strides of 33
        assert_close(ddim(diffusion, perfect, draw(), steps, spacing), x0, atol=1e-4, rtol=0)
    assert_close(dpm_solver(diffusion, perfect, draw(), steps), x0, atol=1e-4, rtol=0)
    if spacing == "leading":
        assert_close(ddpm(diffusion, perfect, draw(), steps, draw), x0, atol=1e-4, rtol=0)


def test_ddpm_draws_the_variance_of_its_posterior() -> None:
    """With x0 known, what is drawn at a lower level has the moments of q(x_to | x0)."""
    diffusion = Diffusion(signal_levels("squaredcos_cap_v2", 100, False), "sample", clip=False)
    x0 = torch.full((20_000, 1, 1, 1), 0.7)
    t = torch.full((len(x0),), 80)
    x = diffusion.noised(x0, torch.randn_like(x0), t)
    lower = diffusion.ddpm_step(x0, x, t, t - 30, torch.randn_like(x0))
    level = diffusion.levels[50]
    assert_close(lower.mean(), 0.7 * level.sqrt(), atol=0.02, rtol=0)
    assert_close(lower.var(), 1 - level, atol=0.02, rtol=0)


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    device = torch.device("cpu")
    shape = (2, 4, 4)
    together = Sampling(seed=(5, 6, 7)).noise_source(3, shape, device)
    alone = Sampling(seed=6).noise_source(1, shape, device)
    for _ in range(2):
        batch, single = together(), alone()
        assert torch.equal(batch[1:2], single)
        assert not torch.equal(batch[0], batch[1])
    same = Sampling(seed=6).noise_source(2, shape, device)()
    assert torch.equal(same[0], same[1])
    with pytest.raises(GenerationError, match="2 seeds given for 3 samples"):
        Sampling(seed=(1, 2)).noise_source(3, shape, device)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "shifted_cosine:0.5"])
def test_the_second_order_solver_needs_fewer_steps(prediction: str, schedule: str) -> None:
    """Against the exact path of a mixture of two normal distributions, of which the best denoiser is known."""
    mixture = Mixture(Diffusion(signal_levels(schedule, 1000, True), prediction, clip=False))
    first = {steps: mixture.error("ddim", steps) for steps in (10, 20, 50)}
    second = {steps: mixture.error("dpm++", steps) for steps in (10, 12, 20, 200)}
    assert second[200] < 0.003 and second[20] < second[10] < first[10]  # in the limit both are the same path
    assert second[20] < first[20] / 2
    if schedule == "linear":  # that of the published decoders
        assert second[12] < first[50]


def test_the_solver_visits_falling_levels() -> None:
    for schedule in SCHEDULES:
        for zero in (True, False):
            diffusion = Diffusion(signal_levels(schedule, 100, zero), "sample", clip=False)
            for steps in (1, 2, 7, 100):
                visited = diffusion.solver_levels(steps)
                assert visited == sorted(set(visited), reverse=True)
                assert visited[0] == 99 and visited[-1] >= 0 and len(visited) <= steps
    with pytest.raises(GenerationError, match="expected 1…100"):
        diffusion.solver_levels(101)
