"""``open4m generate`` with the options that change how pictures come in and how fine they come out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_model
from tiny_finer import finer

from open4m.cli import main
from open4m.generation import Plan
from open4m.hub.bundle import save_bundle
from open4m.modalities.registry import get_modality


def test_letterboxes_repeats_and_super_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = tmp_path, str(write_model(tmp_path / "tiny"))
    monkeypatch.chdir(place)
    save_bundle(finer().bundle, place / "finer", torch.float32)
    picture = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(place / "wide.png")
    common = ["generate", "wide.png", "--model", model, "--to", "depth", "sam_instance"]
    assert main([*common, "--fit", "letterbox", "--repeats", "2", "--out", "box"]) == 0
    assert get_modality("depth").read(place / "box" / "depth.png").shape == (16, 32)
    with Image.open(place / "box" / "sam_instance.picture.png") as drawn:
        assert drawn.size == (224, 112)
    record = json.loads((place / "box" / "plan.json").read_text())
    assert Plan.from_dict(record["plan"])["sam_instance"].repeats == 2 and record["fit"] == "letterbox"
    capsys.readouterr()
    assert main([*common, "--super-resolution", "finer", "--plan", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    assert Plan.from_dict(plans["super_resolution"])["depth"].stream == "tok_depth@64"
    assert main([*common, "--super-resolution", "finer", "--out", "fine"]) == 0
    assert get_modality("depth").read(place / "fine" / "depth.png").shape == (64, 64)
    assert "https://example.org/mit" in (place / "fine" / "index.html").read_text()
    capsys.readouterr()
    assert main([*common[:-1], "--repeats", "3", "--out", "none"]) == 2
    assert "--repeats is for sequences" in capsys.readouterr().err


def test_number_formats_and_compiled_blocks(
    model: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / "a.png")
    common = ["generate", "a.png", "--model", model, "--to", "depth", "color_palette"]
    memory = []
    for dtype in ("float32", "bfloat16", "int8"):
        assert main([*common, "--dtype", dtype, "--plan", "--json"]) == 0
        memory.append(json.loads(capsys.readouterr().out)["plan"]["needs"][0])
    assert len(set(memory)) == 3 and all("memory for weights" in line for line in memory)
    assert main([*common, "--dtype", "int8", "--out", "eight"]) == 0
    assert main([*common, "--out", "exact"]) == 0
    graphs: list[int] = []
    monkeypatch.setenv("CXX", sys.executable)  # none is needed, since nothing is compiled here
    monkeypatch.setattr(torch, "compile", lambda forward, **_: graphs.append(1) or forward)
    assert main([*common, "--compile", "--out", "compiled"]) == 0
    assert len(graphs) == 2 + 2  # blocks
    first, second = ((place / out / "depth.png").read_bytes() for out in ("exact", "compiled"))
    assert first == second
    assert get_modality("depth").read(place / "eight" / "depth.png").shape == (32, 32)


def test_ensembles_are_merged_and_shown_with_their_uncertainty(
    model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / "a.png")
    common = ["generate", "a.png", "--model", model, "--to", "depth", "color_palette"]
    assert main([*common, "--ensemble", "3", "--out", "o"]) == 0
    record = json.loads((place / "o" / "ensemble.json").read_text())
    assert record["samples"] == 3 and record["uncertainty"]["depth"]["mean"] > 0
    assert get_modality("depth").read(place / "o" / "depth.png").shape == (32, 32)
    page = (place / "o" / "index.html").read_text()
    assert "<h2>Merged</h2>" in page and page.count("<h2>Samples: ") == 2 and "ensemble.json" in page
    capsys.readouterr()
    said = ["--set", "depth.temperature=0.25", "color_palette.temperature=2"]  # what is said has the last word
    assert main([*common, "--ensemble", "3", *said, "--plan", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)["plan"]["targets"]
    assert [(t["modality"], t["temperature"], t["decode"]) for t in planned] == [
        ("depth", 0.25, "tokens"),
        ("color_palette", 2.0, "tokens"),
    ]
    alike = ["--set", "depth.temperature=0", "depth.decode=expected", "color_palette.temperature=0"]
    assert main([*common, "--ensemble", "3", *alike]) == 2
    assert "All samples of depth, color_palette are alike" in capsys.readouterr().err
    assert main([*common, "--ensemble", "2", "--samples", "2"]) == 2
    assert main([*common, "--ensemble", "0"]) == 2
    assert main([*common, "--best-of", "2", "--out", "p"]) == 2
    errors = capsys.readouterr().err
    assert "Leave out all but one" in errors and "--ensemble is 0" in errors
    assert "it can read nothing" in errors and not (place / "p").exists()


def test_the_best_of_several_samples_is_written(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["generate", "--caption", "a red ball", "--model", model, "--to", "rgb", "--seed", "5", "--json"]
    assert main([*common, "--best-of", "3", "--out", "o"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["results"]
    assert kept["seeds"][0] in (5, 6, 7)
    assert main([*common[:-2], str(kept["seeds"][0]), "--json", "--out", "p"]) == 0
    assert (place / "o" / "rgb.png").read_bytes() == (place / "p" / "rgb.png").read_bytes()
