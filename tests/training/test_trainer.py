"""The trainer: schedules, exact resuming, signals, broken batches, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from open4m.errors import CheckpointError, TrainingError
from open4m.training.checkpoint import Counters, latest_checkpoint, load_checkpoint
from open4m.training.optimizer import WeightAverage, decays, make_optimizer, schedule
from open4m.training.trainer import Trainer, TrainSettings, step_seed
from tests.training.toy import ToyTask, settings, weights

ROOT = Path(__file__).parents[2]


def train(out: Path, task: ToyTask | None = None, **changes: object) -> ToyTask:
    task = task or ToyTask()
    assert Trainer(task, settings(**changes), out, show_progress=False).run().finished
    return task


def start(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def run_toy(out: Path, kill_at: int) -> int:
    return start(sys.executable, "-m", "tests.training.toy", str(out), "0.1", str(kill_at)).returncode


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def records(out: Path, phase: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["phase"] == phase]


def test_training_reduces_the_error_and_records_it(tmp_path: Path) -> None:
    task = ToyTask()
    before = task.evaluate(torch.device("cpu"))["error"]
    outcome = Trainer(task, settings(evaluate_every=10), tmp_path, show_progress=False).run()
    assert outcome.finished and outcome.steps == 30
    assert outcome.metrics["error"] < 0.7 * before
    assert task.evaluate(torch.device("cpu")) == pytest.approx(outcome.metrics)  # the averaged weights are left
    assert [r["step"] for r in records(tmp_path, "train")] == list(range(1, 31))
    assert [r["step"] for r in records(tmp_path, "validation")] == [10, 20, 30]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    for step in (6, 13):
        assert run_toy(tmp_path / "killed", kill_at=step) == -signal.SIGKILL
    train(tmp_path / "killed")
    train(tmp_path / "whole")
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    steps = [r["step"] for r in records(tmp_path / "killed", "train")]
    assert steps == list(range(1, 31))


def test_signals_save_and_stop(tmp_path: Path) -> None:
    task = ToyTask()
    task.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 9 else None
    outcome = Trainer(task, settings(), tmp_path / "stopped", show_progress=False).run()
    assert not outcome.finished and outcome.steps == 10
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train(tmp_path / "stopped")
    train(tmp_path / "whole")
    assert_same(weights(tmp_path / "stopped"), weights(tmp_path / "whole"))


def test_two_processes_equal_one(tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = start(*launch, "-m", "tests.training.toy", str(tmp_path / "two"), "0.0", "-1")
    assert result.returncode == 0, result.stderr
    train(tmp_path / "one", ToyTask(noise=0.0))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one.keys() - {"seen"}:  # each process sees its half only
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_broken_batches_are_skipped_without_a_trace(tmp_path: Path) -> None:
    task = train(tmp_path, ToyTask(broken=frozenset({3, 4, 12})), max_skipped=3)
    assert all(torch.isfinite(tensor).all() for tensor in task.model.state_dict().values())
    assert records(tmp_path, "train")[-1]["skipped"] == 3


def test_too_many_broken_batches_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"3 steps in a row.*step 7"):
        train(tmp_path, ToyTask(broken=frozenset(range(5, 30))), max_skipped=3)


def test_minutes_are_kept_and_anneal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = count(0.0, 0.01)  # a clock that no other work on the machine can disturb: 10 ms per look
    monkeypatch.setattr("open4m.training.trainer.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    train(tmp_path, steps=None, minutes=0.5 / 60, checkpoint_every=1000)
    rates = [r["learning_rate"] for r in records(tmp_path, "train")]
    assert max(rates) > 0.04 and rates[-1] < 0.001
    folder = latest_checkpoint(tmp_path)
    assert folder is not None and load_checkpoint(folder).counters.elapsed == pytest.approx(0.5, abs=0.02)
    steps = load_checkpoint(folder).counters.step
    train(tmp_path, steps=None, minutes=0.5 / 60, checkpoint_every=1000)  # complete: nothing is added
    folder = latest_checkpoint(tmp_path)
    assert folder is not None and load_checkpoint(folder).counters.step == steps


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert Trainer(ToyTask(), settings(), tmp_path, tensorboard=True, show_progress=False).run().finished
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx([r["loss"] for r in records(tmp_path, "train")], rel=1e-4)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(TrainingError, match=r"settings\.steps was 30, now 40"):
        train(tmp_path, steps=40)
    with pytest.raises(TrainingError, match=r"task\.name was 'toy', now 'other'"):
        train(tmp_path, ToyTask(name="other"))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(tmp_path)
    folder = latest_checkpoint(tmp_path)
    assert folder is not None
    (folder / "training.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="step-00000030"):
        train(tmp_path)


def test_settings_are_checked() -> None:
    for changes in ({"minutes": 1.0}, {"steps": None}, {"keep": 0}, {"warmup": 1.0}):
        with pytest.raises(TrainingError):
            settings(**changes)


def test_schedule_rises_and_falls() -> None:
    values = np.array([schedule(p, 0.1) for p in np.linspace(0, 1, 101)])
    np.testing.assert_allclose(values[:10], np.arange(10) / 10, atol=1e-9)
    assert values[10] == 1 and values[-1] == 0 and schedule(1.5, 0.1) == 0
    assert (np.diff(values[10:]) < 0).all()
    assert values[55] == pytest.approx(0.5)
    middle = TrainSettings(steps=10).progress(Counters(step=4))
    assert middle == pytest.approx(0.45)


def test_step_seeds_differ() -> None:
    seeds = {step_seed(s, i, r) for s in range(3) for i in range(50) for r in range(3)}
    assert len(seeds) == 450 and max(seeds) < 2**63


def test_decay_groups() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.linear = nn.LayerNorm(2), nn.Linear(2, 2)
            self.gamma, self.mask_token = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    model = nn.ModuleDict({"block": Block()})
    names = {n for n, _ in model.named_parameters() if decays(n)}
    assert names == {"block.linear.weight", "block.mask_token"}
    groups = make_optimizer(model, 1e-3, (0.9, 0.95), 0.05).param_groups
    assert [g["weight_decay"] for g in groups] == [0.05, 0.0]
    assert [len(g["params"]) for g in groups] == [2, 4]


def test_weight_average_follows_and_swaps() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        average = WeightAverage(model, decay=0.75)
        model.weight.fill_(4.0)
    average.update(model)
    assert torch.equal(average.tensors["weight"], torch.full((2, 2), 1.0))
    average.swap(model)
    assert torch.equal(model.weight, torch.full((2, 2), 1.0)) and average.tensors["weight"][0, 0] == 4.0
