"""The command line from end to end, in this process, on the tiny system."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_data import SPLIT, write_data

from open4m.app import demo
from open4m.cli import main
from open4m.generation import AnyToAny
from open4m.modalities.registry import all_modalities
from tests.cli.commands import everything_in, noise, refused, save


# -- evaluate, demo ---------------------------------------------------------------------------------------------------
def test_evaluate_prints_and_writes_a_report(
    model: str, data: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", model, "--data", data, "--to", "depth", "color_palette", "--batch-size", "3"]
    assert main([*arguments, "--matrix-count", "2", "--out", "scores", "--json", "scores.json"]) == 0
    table = capsys.readouterr().out
    assert "tiny on 3 samples of" in table and "from caption" in table and "abs_rel ↓" in table
    files = ("report.json", "report.md", "matrix.png", "index.html")
    assert everything_in(place) == {"scores.json", *(f"scores/{f}" for f in files)}
    report = json.loads((place / "scores.json").read_text())
    assert report == json.loads((place / "scores" / "report.json").read_text())
    first = next(entry for entry in report["targets"] if entry["target"] == "depth")
    keys = {"target", "metric", "higher_is_better", "constant", "bound", "rgb", "caption", "count"}
    assert set(first) == keys and first["metric"] == "abs_rel" and first["count"] == 3
    assert report["matrix"]["targets"] == ["depth", "color_palette"] and report["matrix"]["count"] == 2
    assert len(report["matrix"]["values"]) == len(report["matrix"]["given"]) == 5
    words = (place / "scores" / "report.md").read_text()
    assert "![Any-to-any matrix](matrix.png)" in words and "| depth | abs_rel ↓ |" in words


def test_evaluate_searches_the_samples(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(place / "few", 3, names=("rgb", "depth"))
    arguments = ["evaluate", model, "--data", "few", "--matrix-count", "0", "--out", "scores"]
    assert main([*arguments, "--retrieval-count", "2"]) == 0
    assert "Each of 2 samples is searched" in capsys.readouterr().out
    (query,) = json.loads((place / "scores" / "report.json").read_text())["retrieval"]["queries"]
    assert query["given"] == ["depth"] and set(query["recall"]) == {"pictures"}
    assert "## Retrieval" in (place / "scores" / "report.md").read_text()
    assert "<h2>Retrieval</h2>" in (place / "scores" / "index.html").read_text()
    assert main([*arguments, "--retrieval-count", "0"]) == 0
    assert json.loads((place / "scores" / "report.json").read_text())["retrieval"] is None


def test_evaluate_takes_data_of_any_size(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(place / "large", 2, size=75, names=("rgb", "depth", "semseg"))
    assert main(["evaluate", model, "--data", "large", "--given", "depth", "--json", "-", "--chained"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["matrix"] is None and report["samples"] == 2
    assert {entry["target"] for entry in report["targets"]} == {"semseg", "rgb"}
    assert all(entry["rgb"] is None and entry["depth"] is not None for entry in report["targets"])


def test_evaluate_says_what_is_missing(model: str, data: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such split" in refused(capsys, "evaluate", model, "--data", "nowhere")
    assert "no such split" in refused(capsys, "evaluate", model, "--data", data, "--split", "train")
    assert "normal" in refused(capsys, "evaluate", model, "--data", data, "--to", "normal")
    assert "Did you mean 'depth'" in refused(capsys, "evaluate", model, "--data", data, "--to", "dept")
    assert "at least two" in refused(capsys, "evaluate", model, "--data", data, "--to", "depth", "--limit", "1")
    assert "batch_size is 0" in refused(capsys, "evaluate", model, "--data", data, "--to", "depth", "--batch-size", "0")
    assert "Nothing to score" in refused(capsys, "evaluate", model, "--data", data, "--given", "rgb", "--to", "rgb")
    assert not list(place.iterdir())


def test_demo_without_such_a_scene(
    model: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(place / "data", 1)
    monkeypatch.setattr(demo, "HELDOUT", place / "data")
    assert demo.SPLIT == SPLIT
    assert "no sample 4" in refused(capsys, "demo", "--model", model, "--scene", "4")
    assert not (place / "out").exists()


# -- lists, cards, help -----------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("place")
def test_models_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == main(["models", "list"]) == 0
    assert "EPFL-VILAB/4M-21_XL" in capsys.readouterr().out
    assert main(["models", "list", "*7-sr*", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "EPFL-VILAB/4M-7-SR_L_CC12M" and entry["licence"] == "non-commercial"
    assert main(["models", "list", "*poses*", "--kind", "tokenizer"]) == 0
    assert "EPFL-VILAB/4M_tokenizers_human-poses_1k_8" in capsys.readouterr().out


def test_model_cards_are_shown(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", model]) == 0
    assert "random weights" in capsys.readouterr().out
    (place / "bare").mkdir()
    assert "neither config.json nor model.safetensors" in refused(capsys, "models", "show", "bare")
    assert main(["models", "show", "4M-21_XL"]) == 0
    text = capsys.readouterr().out
    assert "4517.8 M" in text and "non-commercial" in text and "18.16 GB to download" in text
    assert main(["models", "show", "4M-21_XL", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trunk"] == 2_822_971_392


def test_models_are_exported(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "export", model, "--out", "published"]) == 0
    capsys.readouterr()
    assert json.loads((place / "published" / "config.json").read_text())["domains_out"]
    facts = []
    for name in (model, "published"):
        assert main(["models", "show", name, "--json"]) == 0
        facts.append(json.loads(capsys.readouterr().out))
    assert {**facts[0], "bytes": 0, "location": ""} == {**facts[1], "bytes": 0, "location": ""}
    assert "scenes-tiny" in refused(capsys, "models", "export", "scenes-tinny", "--out", "x")


@pytest.mark.usefixtures("place")
def test_plans_of_published_models_need_no_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan must not need the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", "empty")
    monkeypatch.delenv("OPEN4M_TEXT_TOKENIZER", raising=False)
    request = ("generate", "photo.jpg", "--to", "depth", "caption", "--model", "4M-21_XL", "--plan")
    assert main([*request]) == 0
    text = capsys.readouterr().out
    for part in ("memory for weights: 19.22 GB", "EPFL-VILAB/4M_tokenizers_depth_8k_224-448 1.15 GB", "text tokenizer"):
        assert part in text
    assert "non-commercial" in text and "encoder passes" in text
    assert main([*request, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["needs"][1].startswith("to download: about 19.31 GB")


@pytest.mark.usefixtures("place")
def test_modalities_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["modality", "list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in all_modalities())
    assert main(["modality", "list", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == set(all_modalities()) and facts["depth"]["streams"][0]["vocab_size"] == 8192
    assert main(["modality", "show", "rgb"]) == 0
    text = capsys.readouterr().out
    for words in ("RGB (rgb)", "stream rgb@224: pixels, input,", "score psnr [dB] (higher is better)", "files: png"):
        assert words in text
    assert main(["modality", "show", "rgb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == facts["rgb"]
    assert "Did you mean 'normal'" in refused(capsys, "modality", "show", "normals")


COMMANDS = (
    "", "demo", "generate", "evaluate", "models", "models list", "models show", "models export", "modality",
    "modality list", "modality show", "scenes", "scenes render", "train", "train features", "train tokenizer",
    "train pretrain", "tokenize",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: open4m {command}".rstrip() in text
    options = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"}
    for option in options:  # every option has a sentence, not only a type and a default
        line = text[text.rindex(option) :]
        assert re.search(r"[a-zA-Z]{2,} [a-zA-Z…]", line.replace("(default", "").replace("(required)", "")), option


def test_names_of_recipes_are_suggested(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("--data", place / "data", "--out", place / "out")
    assert "Did you mean 'depth'" in refused(capsys, "train", "tokenizer", "depht", *folders)
    missing = refused(capsys, "train", "pretrain", "scene-tiny", *folders, "--tokenizers", place)
    assert "Did you mean 'scenes-tiny'" in missing and not (place / "out").exists()


def test_wrong_usage_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["generat"], ["generate", "--too", "depth"], ["modality", "show"], []):
        with pytest.raises(SystemExit) as end:
            main(wrong)
        out, err = capsys.readouterr()
        assert end.value.code == 2 and out == "" and err and "Traceback" not in err


# -- as a process -----------------------------------------------------------------------------------------------------
def test_the_way_in_is_light() -> None:
    program = (
        "import sys, resource; import open4m; a = set(sys.modules)\n"
        "assert not a & {'torch', 'numpy', 'PIL', 'tyro'}, a\n"
        "from open4m.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not set(sys.modules) & {'torch', 'scipy', 'skimage', 'trimesh', 'tokenizers', 'huggingface_hub'}\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "assert used.ru_utime + used.ru_stime < 2, used"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_the_program_returns_its_code(model: str) -> None:
    command = [sys.executable, "-m", "open4m.cli", "generate", "missing.png", "--to", "depth", "--model", model]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error rgb: missing.png: there is no such file. Check the path.\n"


def test_models_are_loaded_once(model: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    start = AnyToAny.__init__

    def counted(self: AnyToAny, bundle: Any) -> None:
        made.append(1)
        start(self, bundle)

    monkeypatch.setattr(AnyToAny, "__init__", counted)
    for seed, name in enumerate("abc"):
        save(noise(8, 8, seed), place / f"{name}.png")
    assert main(["generate", "a.png", "b.png", "c.png", "--to", "depth", "--model", model]) == 0
    assert len(made) == 1
