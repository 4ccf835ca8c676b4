"""Control from the command line: weights, settings, plans, masks, metadata, intermediates, edits, repetition."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import values

from open4m.cli import main
from open4m.generation import Plan
from open4m.modalities.metadata import FIELDS
from open4m.modalities.registry import get_modality
from tests.cli.commands import everything_in, noise, refused, save


def printed_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> Plan:
    assert main(["generate", *arguments, "--plan", "--json"]) == 0
    return Plan.from_dict(json.loads(capsys.readouterr().out)["plan"])


def record(folder: Path) -> Any:
    return json.loads((folder / "plan.json").read_text())


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in everything_in(folder) if name != "index.html"}


@pytest.mark.usefixtures("place")
def test_the_plan_follows_the_options(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    both = (
        "--caption",
        "snow",
        "--color-palette",
        "c.json",
        "--to",
        "rgb",
        "--via",
        "canny_edge,normal",
        "--model",
        model,
    )
    plan = printed_plan(
        capsys, *both, "--guidance", "caption=-1", "normal=2", "--set", "rgb.steps=3", "normal.top_p=.5"
    )
    assert [t.modality for t in plan.targets] == ["canny_edge", "normal", "rgb"] and plan.requested == ("rgb",)
    assert plan["canny_edge"].guidance == {"caption": -1.0}
    assert plan["rgb"].guidance == {"caption": -1.0, "tok_normal@32": 2.0}
    assert plan["rgb"].steps == 3 and plan["normal"].top_p == 0.5
    assert printed_plan(capsys, *both, "--guidance", "-1")["rgb"].guidance == -1.0


@pytest.mark.usefixtures("place")
def test_wrong_options_say_what_was_expected(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(8, 8), place / "p.png")
    save(noise(4, 16)[..., 0], place / "wide.png")
    cases = {
        ("--set", "depth.step=2"): "Did you mean 'steps'",
        ("--set", "dept.steps=2"): "Did you mean 'depth'",
        ("--set", "steps"): "expected NAME=VALUE, such as --set rgb.steps=12",
        ("--set", "depth.steps=two"): "depth.steps is 'two'; expected a whole number",
        ("--set", "depth.steps=1", "depth.steps=2"): "depth.steps is given twice",
        ("--guidance", "strong"): "'strong' is no number",
        ("--guidance", "nan"): "guidance is nan; expected a finite number",
        ("--guidance", "rgb=inf"): "is inf; expected a finite number",
        ("--guidance", "rbg=2"): "Did you mean 'rgb'",
        ("--via", "depth"): "asked for and is to be generated on the way",
        ("--metadata", "brightnes=3"): "Did you mean 'brightness'",
        ("--metadata", "brightness=high"): "'high' is no number",
        ("--metadata", "brightness=900"): "brightness=900: expected 0…255",
        ("--mask", "normal=p.png"): "normal is not given",
        ("--mask", "p.png", "rgb=p.png"): "rgb has two masks",
        ("--mask", "none.png"): "no such mask",
        ("--mask", "wide.png"): "the mask has 4 × 16 pixels, the picture 8 × 8",
        ("--load-plan", "p.json"): "leave out --to",
    }
    for options, expected in cases.items():
        assert expected in refused(capsys, "generate", "p.png", "--to", "depth", *options, "--model", model), options
    assert "no such file" in refused(capsys, "generate", "p.png", "--load-plan", "none.json", "--model", model)
    words = refused(capsys, "generate", "--caption", "a", "--mask", "p.png", "--to", "depth", "--model", model)
    assert "no picture or other grid is given" in words
    assert everything_in(place) == {"p.png", "wide.png"}


def test_metadata_in_natural_units_and_a_hole_in_a_picture(model: str, place: Path) -> None:
    save(noise(40, 60), place / "photo.png")
    hole = np.zeros((40, 60), np.uint8)
    hole[:, 30:] = 255
    Image.fromarray(hole).save(place / "hole.png")
    arguments = ["generate", "photo.png", "--mask", "hole.png", "--metadata", "brightness=200", "n_humans=2"]
    assert main([*arguments, "--to", "rgb", "metadata", "--set", "rgb.steps=2", "--out", "x", "--model", model]) == 0
    assert get_modality("rgb").read(place / "x" / "rgb.png").shape == (32, 32, 3)
    found = get_modality("metadata").read(place / "x" / "metadata.json")
    assert found["n_humans"] == 2 and abs(found["brightness"] - 200) < 6 and set(found) <= set(FIELDS)
    plan = Plan.from_dict(record(place / "x")["plan"])
    assert plan.inputs == ("tok_rgb@32", "metadata") and plan["rgb"].steps == 2


def test_results_are_repeated_edited_and_repainted(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end = ("--model", model)
    start = ["generate", "--caption", "a dog", "--to", "depth", "rgb", "--samples", "2", "--seed", "3", *end]
    assert main([*start, "--set", "rgb.steps=4", "--out", "first"]) == 0
    assert main(["repeat", "first", "--out", "second", *end]) == 0
    assert content(place / "first") == content(place / "second") and len(content(place / "first")) == 10
    again = ["--load-plan", "first", "--samples", "2", "--seed", "3", "--out", "third"]
    assert main(["generate", "--caption", "a dog", *again, *end]) == 0
    assert content(place / "third") == content(place / "first")
    get_modality("color_palette").write(values()["color_palette"], place / "c.json")
    capsys.readouterr()
    change = ["--color-palette", "c.json", "--to", "rgb", "--keep", "depth,caption", "--set", "rgb.steps=3"]
    assert main(["edit", "first", *change, "--json", *end]) == 0
    summary = json.loads(capsys.readouterr().out)["results"]
    assert summary == [{"folder": "edited", "page": "edited/index.html", "targets": ["rgb"], "seeds": [4, 5]}]
    assert record(place / "edited")["plan"]["targets"][0]["steps"] == 3
    assert record(place / "edited")["plan"]["inputs"] == ["tok_depth@32", "caption", "color_palette"]
    page = (place / "edited" / "index.html").read_text()
    assert "Palette: given" in page and "Depth: given" in page
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(place / "m.png")
    guided = ["--set", "depth.guidance=1.5"]
    assert main(["edit", "first", "--repaint", "depth=m.png", *guided, "--out", "anew", "--seed", "9", *end]) == 0
    assert record(place / "anew")["plan"]["targets"][0]["guidance"] == 1.5
    assert main(["repeat", "anew", "--out", "anew-again", *end]) == 0
    assert content(place / "anew") == content(place / "anew-again")
    assert record(place / "anew")["plan"]["inputs"] == ["tok_rgb@32", "tok_depth@32", "caption"]
    before = everything_in(place)
    capsys.readouterr()
    for arguments, expected in {
        ("edit", "first"): "Nothing is to be changed and repainted",
        ("edit", "first", "--caption", "x", "--repaint", "rgb=m.png"): "Both at once",
        ("edit", "first", "--repaint", "rgb=m.png", "--to", "rgb"): "Leave out --to",
        ("edit", "first", "--repaint", "rgb=none.png"): "no such mask",
        ("edit", "first", "--caption", "x", "--to", "rgb", "--set", "rgb.step=2"): "Did you mean 'steps'",
        ("edit", "first", "--caption", "x", "--to", "rgb", "--set", "rgb"): "expected NAME=VALUE",
        ("edit", "first", "--repaint", "det=1"): "part of the result to draw anew 'det'",
        ("edit", "first", "--caption", "x", "--keep", "caption"): "caption is to be kept and to be changed",
        ("edit", "nowhere", "--caption", "x"): "no such file",
        ("repeat", "nowhere"): "no such file",
    }.items():
        assert expected in refused(capsys, *arguments, *end, "--out", "none"), arguments
    assert everything_in(place) == before
