"""The bundled model on scenes it has never seen: it runs end to end and says more than can be said without looking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import open4m
from open4m.app.demo import HELDOUT, SPLIT
from open4m.cli import main
from open4m.evaluation import Report, evaluate, read_values
from open4m.generation.pipeline import AnyToAny

SAMPLES = 24
TARGETS = ("normal", "semseg", "imagebind")


@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return open4m.load("scenes-tiny")


@pytest.fixture(scope="module")
def samples() -> list[dict[str, Any]]:
    return read_values(HELDOUT, SPLIT, ["rgb", *TARGETS], SAMPLES)


@pytest.fixture(scope="module")
def report(model: AnyToAny, samples: list[dict[str, Any]]) -> Report:
    return evaluate(model, samples, [("rgb",)], TARGETS)[0]


@pytest.mark.parametrize(
    ("target", "metric", "better"),
    [
        ("normal", "mean_angle", min),
        ("semseg", "pixel_accuracy", max),
        ("semseg", "miou", max),
        ("imagebind", "cosine", max),
    ],
)
def test_it_beats_predictions_made_without_looking(report: Report, target: str, metric: str, better: Any) -> None:
    scores = next(entry for entry in report.targets if entry.target == target)
    own, blind = scores.model["rgb"][metric], scores.constant[metric]
    assert own != blind and better(own, blind) == own, (own, blind)


def test_every_modality_is_predicted_from_a_picture_and_drawn(model: AnyToAny, samples: list[dict[str, Any]]) -> None:
    targets = [name for name in model.targets if name != "rgb"]
    assert len(targets) == 16
    result = model.generate({"rgb": samples[0]["rgb"]}, targets, seed=3)
    for name in targets:
        assert result[name].image.size == (224, 224), name


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    picture = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    for name in ("a", "b"):
        out = str(tmp_path / name)
        assert main(["generate", str(picture), "--to", "depth", "normal", "det", "--out", out, "--seed", "5"]) == 0
    for file in ("depth.png", "normal.png", "det.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "a" / "index.html").is_file()
