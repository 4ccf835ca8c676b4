"""``open4m generate`` from end to end, in this process, on the tiny system."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_data import values

from open4m.cli import main
from open4m.generation import Plan
from open4m.modalities.registry import all_modalities, get_modality
from tests.cli.commands import everything_in, noise, refused, save

RECORD = ("plan.json", "tokens.safetensors")


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
    assert everything_in(place / "there") == names | pictures | {*RECORD, "index.html"}
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
    files = {"depth.png", "depth.picture.png", *RECORD, "index.html"}
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
    files = ("depth.png", "depth.picture.png", "normal.png", "normal.picture.png", *RECORD, "index.html")
    assert everything_in(place) == {"a.png", "b.png", *(f"out/a/{f}" for f in files)}
