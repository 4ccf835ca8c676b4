"""``open4m sweep``, ``ensemble`` and ``tune-chain`` with the tiny system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import everything_in, noise, refused, save
from PIL import Image
from tiny_data import write_data

from open4m.cli import main
from open4m.generation import Plan


def test_a_sweep_draws_its_strips_and_says_what_follows(
    model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["sweep", "metadata.brightness=40,120,200", "color_palette=#ff0000,#0000ff", "--model", model]
    assert main([*common, "--caption", "a red ball", "--contexts", "2", "--dtype", "bfloat16", "--out", "o"]) == 0
    assert "metadata.brightness" in capsys.readouterr().out
    expected = {"index.html", "sweep.json", "sweep.md", "metadata.brightness.png", "color_palette.png"}
    assert everything_in(place / "o") == expected
    record = json.loads((place / "o" / "sweep.json").read_text())
    first, second = record["sweeps"]
    assert first["values"] == ["40", "120", "200"] and first["contexts"] == 2 and first["seeds"] == [[0] * 3, [1] * 3]
    assert [check["measure"] for check in second["checks"]] == ["lightness L*", "green–red a*", "blue–yellow b*"]
    assert 0 < first["checks"][0]["chance"] <= 1 and Plan.from_dict(first["plan"]).inputs == ("caption", "metadata")
    with Image.open(place / "o" / "metadata.brightness.png") as strip:
        assert strip.width > strip.height  # three values, two contexts
    assert "rank correlation" in (place / "o" / "sweep.md").read_text()
    best = ["sweep", "metadata.brightness=40,200", "--model", model, "--contexts", "1", "--alone", "--best-of", "2"]
    assert main([*best, "--via", "depth", "--out", "p"]) == 0
    assert "metadata.brightness alone, via depth, best of 2" in (place / "p" / "sweep.md").read_text()


def test_a_bad_sweep_is_refused_before_anything_is_made(
    model: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing to vary" in refused(capsys, "sweep", "--model", model)
    assert "Did you mean 'brightness'" in refused(capsys, "sweep", "metadata.brightnes", "--model", model)
    both = refused(capsys, "sweep", "metadata.brightness", "--alone", "--caption", "a dog", "--model", model)
    assert "--alone, yet caption given" in both
    several = ["sweep", "metadata.brightness", "color_palette", "--alone", "--model", model]
    assert "metadata" in refused(capsys, *several, "--guidance", "metadata=3")  # of which the second has none
    both = ["sweep", "metadata.n_humans=0,1", "det.person=0,1", "--alone", "--via", "det", "--model", model]
    assert "det.person: det on the way, yet given" in refused(capsys, *both)
    assert "best of 0" in refused(capsys, *several, "--best-of", "0")
    assert "--contexts is 0" in refused(capsys, "sweep", "metadata.brightness", "--contexts", "0", "--model", model)
    # of a model that knows no captions the held-out scenes have none
    monkeypatch.setattr("open4m.cli.sweep._scenes", lambda _: [{"metadata": {"brightness": b}} for b in (9.0, 99.0)])
    short = ["sweep", "metadata.brightness", "--contexts", "2", "--model", model]
    assert "knows no caption" in refused(capsys, *short)
    assert not everything_in(place)


def test_ensembles_are_measured_on_held_out_scenes(
    model: str, data: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["ensemble", model, "--data", data, "--samples", "2", "--dtype", "bfloat16", "--out", "o"]
    assert main([*common, "--to", "depth", "semseg", "--through", "semseg"]) == 0
    assert "Other paths" in capsys.readouterr().out
    assert everything_in(place / "o") == {"index.html", "ensemble.json", "ensemble.md", "depth.png", "semseg.png"}
    record = json.loads((place / "o" / "ensemble.json").read_text())
    assert [entry["target"] for entry in record["targets"]] == ["depth", "semseg"]
    assert [path["path"] for path in record["paths"]["paths"]] == ["straight", "semseg", "rgb+semseg"]
    page = (place / "o" / "index.html").read_text()
    assert "<h2>Uncertainty</h2>" in page and "<h2>Other paths</h2>" in page
    assert "Unknown folder" in refused(capsys, *common, "--to", "normal")


def test_a_chain_is_tuned_and_the_search_goes_on_where_it_stopped(
    model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(place / "d", 6, names=("rgb", "depth"))
    common = ["tune-chain", "depth", "--data", "d", "--model", model, "--search", "3", "--report", "3", "--out", "o"]
    assert main([*common, "--trials", "3"]) == 0
    out, err = capsys.readouterr()
    assert "default and tuned plan on other scenes" in out and "depth 3: " in err
    folder = place / "o" / "depth"
    assert everything_in(folder) == {"plan.json", "trials.json", "report.json", "report.md"}
    trials = json.loads((folder / "trials.json").read_text())["trials"]
    assert len(trials) == 3 and trials[0]["change"] == "default"
    plan = json.loads((folder / "plan.json").read_text())["plan"]
    assert plan == min((t for t in trials if t["scenes"] == 3), key=lambda t: t["score"])["plan"]  # less is better
    assert Plan.from_dict(plan).requested == ("depth",)
    assert json.loads((folder / "report.json").read_text())["count"] == 3

    assert main([*common, "--trials", "4"]) == 0
    more = json.loads((folder / "trials.json").read_text())["trials"]
    assert more[:3] == trials and len(more) == 4
    capsys.readouterr()
    assert "another folder" in refused(capsys, *common, "--seed", "1")
    assert '"dtype": "bfloat16"' in refused(capsys, *common, "--dtype", "bfloat16")
    save(noise(32, 32), place / "a.png")
    best = ["generate", "a.png", "--load-plan", "o/depth/plan.json"]
    assert main([*best, "--model", model, "--out", "r"]) == 0
    assert (place / "r" / "depth.png").is_file()
    capsys.readouterr()
    assert "0 scenes hold rgb and depth" in refused(capsys, *common, "--search", "6", "--out", "p")
    assert not (place / "p").exists()
