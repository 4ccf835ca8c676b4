"""The command line from end to end, in this process, on the tiny system."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import SPLIT, values, write_data, write_model

from open4m.app import demo
from open4m.cli import main
from open4m.generation import AnyToAny, Plan
from open4m.modalities.registry import all_modalities, get_modality


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data")
    write_data(root, 3, names=("rgb", "depth", "semseg", "caption", "color_palette"))
    return str(root)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def save(array: np.ndarray, path: Path, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message on stderr of a command that is refused with exit code 2 and nothing on stdout."""
    assert main([str(a) for a in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.startswith("error ")
    return err


# -- generate: inputs -------------------------------------------------------------------------------------------------
def test_generate_writes_values_pictures_plan_and_page(
    model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(noise(70, 50), place / "photo.jpg")
    code = main(
        ["generate", "photo.jpg", "--to", "depth", "normal", "color_palette", "--out", "there", "--model", model]
    )
    assert code == 0
    names = {"depth.png", "normal.png", "color_palette.json"}
    pictures = {f"{n.partition('.')[0]}.picture.png" for n in names}
    assert everything_in(place / "there") == names | pictures | {"plan.json", "index.html"}
    assert {p.name for p in place.iterdir()} == {"photo.jpg", "there"}
    assert get_modality("depth").read(place / "there" / "depth.png").shape == (32, 32)
    get_modality("normal").read(place / "there" / "normal.png")
    out, err = capsys.readouterr()
    assert out == "" and "done there/index.html" in err and "licence of the weights: Apache-2.0" in err
    page = (place / "there" / "index.html").read_text()
    assert "RGB: given" in page and "<h1>photo.jpg</h1>" in page and "Surface normals" in page


def written(model: str, picture: Path, *more: str) -> bytes:
    out = picture.parent / f"out-{picture.name}"
    assert main(["generate", str(picture), "--to", "semseg", "--out", str(out), "--model", model, *more]) == 0
    return (out / "semseg.png").read_bytes()


def test_pictures_of_every_size_and_kind(model: str, place: Path) -> None:
    for number, (rows, columns) in enumerate([(1, 1), (3, 900), (33, 32), (500, 20)]):
        written(model, save(noise(rows, columns), place / f"{number}.png"))
    square = noise(40, 40)
    plain = written(model, save(square, place / "plain.png"))
    assert plain == written(model, save(square, place / "plain.bmp"))
    assert plain != written(model, save(noise(40, 40, 1), place / "other.png"))
    opaque = np.dstack([square, np.full((40, 40), 255, np.uint8)])
    assert plain == written(model, save(opaque, place / "opaque.png"))
    white = written(model, save(np.full((40, 40, 3), 255, np.uint8), place / "white.png"))
    assert white == written(model, save(np.dstack([square, np.zeros((40, 40), np.uint8)]), place / "clear.png"))
    grey = square[..., 0]
    as_rgb = written(model, save(np.dstack([grey] * 3), place / "three.png"))
    assert as_rgb == written(model, save(grey, place / "grey.png"))
    assert as_rgb == written(model, save(grey.astype(np.uint16) * 257, place / "deep.png"))


def test_photographs_are_turned_upright(model: str, place: Path) -> None:
    upright = noise(40, 60)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by 90° to see it upright
    turned = save(np.ascontiguousarray(np.rot90(upright)), place / "turned.png", exif=exif)
    assert written(model, turned) == written(model, save(upright, place / "upright.png"))


def test_several_pictures_get_a_folder_each(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("a [1].png", "b.jpg")):  # square brackets are no markup
        save(noise(40, 40, seed), place / name)
    assert main(["generate", "a [1].png", "b.jpg", "--to", "depth", "--model", model]) == 0
    files = {"depth.png", "depth.picture.png", "plan.json", "index.html"}
    assert everything_in(place / "out") == {f"{stem}/{f}" for stem in ("a [1]", "b") for f in files}
    assert "done out/a [1]/index.html" in capsys.readouterr().err


def test_inputs_by_modality(model: str, place: Path) -> None:
    modalities = {name: get_modality(name) for name in ("depth", "color_palette", "metadata", "clip")}
    options: list[str] = []
    for name, modality in modalities.items():
        path = place / f"given-{name}.{modality.extensions[0]}"
        modality.write(values()[name], path)
        options += [f"--{name.replace('_', '-')}", str(path)]
    options += ["--caption", "two dogs [S_1"]
    assert main(["generate", *options, "--to", "semseg", "--out", "x", "--model", model]) == 0
    plan = Plan.from_dict(json.loads((place / "x" / "plan.json").read_text())["plan"])
    assert set(plan.inputs) == {"tok_depth@32", "tok_clip@32", "caption", "color_palette", "metadata"}
    page = (place / "x" / "index.html").read_text()
    assert "two dogs [S_1" in page and "Depth: given" in page and "Palette: given" in page


def test_variations_and_seeds(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(out: str, *more: str) -> Any:
        arguments = ["generate", "--caption", "a dog", "--to", "depth", "--out", out, "--model", model, "--json", *more]
        assert main(arguments) == 0
        return json.loads(capsys.readouterr().out)

    summary = run("many", "--samples", "3", "--seed", "5")
    assert summary["model"] == "tiny" and summary["licence"] == "Apache-2.0"
    assert summary["results"] == [
        {"folder": "many", "page": "many/index.html", "targets": ["depth"], "seeds": [5, 6, 7]},
    ]
    assert {p.name for p in (place / "many").iterdir() if p.is_dir()} == {"0000", "0001", "0002"}
    run("one", "--seed", "6")
    files = [place / "many" / "0001" / "depth.png", place / "one" / "depth.png", place / "many" / "0000" / "depth.png"]
    middle, alone, first = (path.read_bytes() for path in files)
    assert middle == alone != first


# -- generate: plans --------------------------------------------------------------------------------------------------
def test_plans_are_printed_and_nothing_is_done(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "none.jpg", "--to", "depth", "caption", "--model", model, "--plan"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "tiny: rgb@32 → depth, caption" in text and "encoder passes" in text and "Apache-2.0" in text
    assert main([*arguments, "--json"]) == 0
    plan = Plan.from_dict(json.loads(capsys.readouterr().out)["plan"])
    assert plan.requested == ("depth", "caption") and plan.inputs == ("rgb@32",)
    assert not list(place.iterdir())


@pytest.mark.usefixtures("place")
def test_all_targets_are_the_default(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--rgb", "x.png", "--model", model, "--plan", "--json"]) == 0
    plan = Plan.from_dict(json.loads(capsys.readouterr().out)["plan"])
    assert set(plan.requested) == set(all_modalities()) - {"rgb", "t5_caption"}


# -- generate: errors -------------------------------------------------------------------------------------------------
def test_unknown_names_are_suggested(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(8, 8), place / "p.png")
    assert "Did you mean 'depth' or 'det'?" in refused(capsys, "generate", "p.png", "--to", "dept", "--model", model)
    message = refused(capsys, "generate", "p.png", "--to", "depth", "--model", "4M-21_BB")
    assert "Unknown model '4M-21_BB'" in message and "4M-21_B'" in message
    assert "cannot predict t5_caption" in refused(
        capsys, "generate", "p.png", "--to", "t5_caption", "--model", model
    )  # fmt: skip
    assert {p.name for p in place.iterdir()} == {"p.png"}


def test_contradictions_are_refused(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(8, 8), place / "p.png")
    (place / "other").mkdir()
    save(noise(8, 8), place / "other" / "p.jpg")
    end = ("--model", model)
    assert "rgb is given" in refused(capsys, "generate", "p.png", "--to", "rgb", *end)
    assert "both as FILES" in refused(capsys, "generate", "p.png", "--rgb", "p.png", "--to", "depth", *end)
    assert "given completely" in refused(capsys, "generate", "p.png", "--caption", "a", "--to", "caption", *end)
    assert "are called p." in refused(capsys, "generate", "p.png", "other/p.jpg", "--to", "depth", *end)
    assert "Nothing is given" in refused(capsys, "generate", *end)
    assert "--samples is 0" in refused(capsys, "generate", "p.png", "--to", "depth", "--samples", "0", *end)
    get_modality("depth").write(values(0, 20)["depth"][:10], place / "d.png")
    assert "same picture" in refused(capsys, "generate", "p.png", "--depth", "d.png", "--to", "normal", *end)
    assert not (place / "out").exists()


def bad_files(place: Path) -> dict[str, tuple[list[str | Path], str]]:
    """What is wrong → (the inputs, what the message must say)."""
    good = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(good, format="PNG")
    (place / "empty.png").write_bytes(b"")
    (place / "cut.png").write_bytes(good.getvalue()[:2000])
    (place / "text.png").write_text("hello")
    huge = good.getvalue().replace((64).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2)
    import zlib

    header = huge[12:29]
    huge = huge[:29] + zlib.crc32(header).to_bytes(4, "big") + huge[33:]
    (place / "huge.png").write_bytes(huge)
    np.save(place / "nan.npy", np.full((6, 4, 4), np.nan, np.float32))
    np.save(place / "thin.npy", np.ones((3, 4, 4), np.float32))
    np.save(place / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    save(noise(8, 8), place / "coloured.png")
    save(np.zeros((8, 8), np.uint16), place / "zero.png")
    (place / "field.json").write_text('{"brightnes": 3}')
    (place / "nan.json").write_text('{"brightness": NaN}')
    return {
        "missing": (["missing.png"], "there is no such file"),
        "a folder": (["."], "there is no such file"),
        "empty": (["empty.png"], "the file is empty"),
        "cut off": (["cut.png"], "damaged or cut off"),
        "no picture": (["text.png"], "not an image"),
        "huge": (["huge.png"], "too large"),
        "NaN features": (["--clip", "nan.npy"], "96 of 96 numbers are NaN"),
        "wrong width": (["--clip", "thin.npy"], "clip: 3 channels given, tiny works with 6"),
        "pickled": (["--clip", "objects.npy"], "not a readable .npy file"),
        "8-bit depth": (["--depth", "coloured.png"], "expected a 16-bit grey PNG"),
        "no depth": (["--depth", "zero.png"], "no pixel has a depth"),
        "wrong field": (["--metadata", "field.json"], "Did you mean 'brightness'"),
        "NaN field": (["--metadata", "nan.json"], "expected a finite number"),
    }


def test_bad_files_are_named_before_anything_is_written(
    model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = bad_files(place)
    before = everything_in(place)
    for what, (inputs, expected) in cases.items():
        message = refused(capsys, "generate", *inputs, "--to", "normal", "--model", model)
        assert expected in message, what
        assert str(inputs[-1]) in message or what == "wrong width", what
    save(noise(8, 8), place / "good.png")
    refused(capsys, "generate", "good.png", "cut.png", "--to", "depth", "--model", model)
    assert everything_in(place) == before | {"good.png"}


def test_places_that_cannot_be_written(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(8, 8), place / "p.png")
    (place / "taken").write_text("a file")
    message = refused(capsys, "generate", "p.png", "--to", "depth", "--out", "taken", "--model", model)
    assert "taken" in message
    assert everything_in(place) == {"p.png", "taken"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("no space left on device")])
def test_an_interrupted_run_leaves_whole_results_only(
    error: Any, model: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate("ab"):
        save(noise(8, 8, seed), place / f"{name}.png")
    from open4m.modalities.normal import Normal

    encode, calls = Normal.encode, []

    def failing(self: Normal, value: np.ndarray) -> bytes:
        calls.append(1)
        if len(calls) == 2:
            raise error
        return encode(self, value)

    monkeypatch.setattr(Normal, "encode", failing)
    code = main(["generate", "a.png", "b.png", "--to", "depth", "normal", "--model", model])
    _, err = capsys.readouterr()
    assert code == (130 if error is KeyboardInterrupt else 2)
    assert ("interrupted" if code == 130 else "no space left") in err and "Traceback" not in err
    files = ("depth.png", "depth.picture.png", "normal.png", "normal.picture.png", "plan.json", "index.html")
    assert everything_in(place) == {"a.png", "b.png", *(f"out/a/{f}" for f in files)}


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
