"""``open4m index`` and ``open4m search`` on the tiny system."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_data import SPLIT, values

from open4m.cli import main
from open4m.modalities.registry import get_modality
from tests.cli.commands import everything_in, noise, refused, save


@pytest.fixture
def index(model: str, place: Path) -> Path:
    """An index of four pictures and one file that is none."""
    (place / "photos").mkdir()
    for seed in range(4):
        save(noise(40, 48, seed), place / "photos" / f"{seed}.png")
    (place / "photos" / "bad.jpg").write_bytes(b"nothing")
    assert main(["index", "photos", "--out", "index", "--model", model, "--batch-size", "3"]) == 0
    return place / "index"


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert main(["search", "index", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_indexing_says_what_was_done(index: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "photos", "--out", "new", "--model", model]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "done new: 4 items (4 new, 0 dropped, 1 unreadable)" in err
    assert "left out bad.jpg: " in err and "not an image" in err
    assert everything_in(index) == {"index.json", "part-00000.safetensors"}
    shutil.copy("photos/0.png", "photos/4.png")
    Path("photos/1.png").unlink()
    assert main(["index", "photos", "--out", "index", "--model", model]) == 0
    assert "4 items (1 new, 1 dropped, 1 unreadable)" in capsys.readouterr().err


@pytest.mark.usefixtures("index")
def test_searching_by_several_things(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    get_modality("depth").write(values(0)["depth"], place / "d.png")
    query = ["--caption", "a red ball", "--depth", "d.png", "--without", "rgb=photos/2.png"]
    end = ["--model", model, "-k", "3"]
    result = found(capsys, *query, "--weight", "caption=2", *end)
    assert result["index"] == "index" and result["page"] == "out/search/index.html" and len(result["hits"]) == 3
    for hit in result["hits"]:
        assert set(hit) == {"key", "score", "parts", "driven_by"}
        assert set(hit["parts"]) == {"caption", "depth", "not rgb"} and hit["driven_by"] in hit["parts"]
    scores = [hit["score"] for hit in result["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert found(capsys, *query, *end)["hits"][0]["score"] != scores[0]
    page = (place / "out" / "search" / "index.html").read_text()
    assert page.count("<img") == 3 + 3 and "weight -1" in page and result["hits"][0]["key"] in page
    assert main(["search", "index", *query, *end, "--out", "there"]) == 0
    table, err = capsys.readouterr()
    assert "not rgb" in table and "photos" not in table and "there/index.html" in err


@pytest.mark.usefixtures("index")
def test_a_picture_finds_itself(model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = found(capsys, "--rgb", "photos/3.png", "--model", model, "--exact")
    assert result["hits"][0]["key"] == "3.png" and len(result["hits"]) == 4
    (place / "photos").rename(place / "moved")
    result = found(capsys, "--rgb", "moved/1.png", "--model", model)
    assert result["hits"][0]["key"] == "1.png"
    assert "not shown" in (place / "out" / "search" / "index.html").read_text()


def test_data_sets_and_given_features(model: str, data: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--split", SPLIT, "--given", "depth", "caption", "--spaces", "imagebind_global"]
    assert main(["index", data, "--out", "index", "--model", model, *options]) == 0
    settings = json.loads((place / "index" / "index.json").read_text())
    assert settings["modalities"] == ["depth", "caption"] and settings["spaces"] == ["imagebind_global"]
    assert len(found(capsys, "--caption", "dogs", "--model", model)["hits"]) == 3
    assert f"split {SPLIT}" in (place / "out" / "search" / "index.html").read_text()


def test_bad_requests_are_refused(index: Path, model: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    end = ("--model", model)
    assert "query is empty" in refused(capsys, "search", "index", *end)
    assert "part caption is empty" in refused(capsys, "search", "index", "--caption", "", *end)
    (place / "none.json").write_text('{"instances": []}')
    assert "part det is empty" in refused(capsys, "search", "index", "--det", "none.json", *end)
    assert "parts cancel" in refused(capsys, "search", "index", "--caption", "x", "--without", "caption=x", *end)
    assert "there is no index" in refused(capsys, "search", "photos", "--caption", "a", *end)
    assert "Unknown part of the query 'depth'" in refused(
        capsys, "search", "index", "--caption", "a", "--weight", "depth=2", *end
    )
    assert "'x' is no number" in refused(capsys, "search", "index", "--caption", "a", "--weight", "caption=x", *end)
    assert "expected NAME=VALUE" in refused(capsys, "search", "index", "--caption", "a", "--weight", "2", *end)
    assert "Did you mean 'rgb'" in refused(capsys, "search", "index", "--caption", "a", "--without", "rg=x", *end)
    assert "no such file" in refused(capsys, "search", "index", "--depth", "none.png", *end)
    assert "k is 0" in refused(capsys, "search", "index", "--caption", "a", "-k", "0", *end)
    assert "another model: tiny, not scenes-tiny" in refused(
        capsys, "search", "index", "--caption", "a", "--model", "scenes-tiny"
    )
    assert "another weights fingerprint" in refused(
        capsys, "search", "index", "--caption", "a", "--dtype", "int8", *end
    )
    assert "Unknown model 'tiny'" in refused(capsys, "search", "index", "--caption", "a")  # it has no such name here
    assert "nothing to index" in refused(capsys, "index", "photos", "--given", "caption", "--out", "texts", *end)
    assert "Unknown modality 'depht'" in refused(capsys, "index", "photos", "--given", "depht", "--out", "x", *end)
    (index / "part-00000.safetensors").write_bytes(b"")
    assert "part-00000.safetensors: damaged" in refused(capsys, "search", "index", "--caption", "a", *end)
    (index / "part-00000.safetensors").unlink()
    assert "the index is empty" in refused(capsys, "search", "index", "--caption", "a", *end)
    assert everything_in(place) & {"out/search/index.html", "texts/index.json", "x/index.json"} == set()


@pytest.mark.parametrize("installed", [True, False])
def test_large_galleries_are_searched_approximately(
    installed: bool, model: str, index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from open4m.retrieval import index as module

    if installed:
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 4)
    capsys.readouterr()
    assert main(["index", "photos", "--out", "index", "--model", model]) == 0
    message = capsys.readouterr().err
    if installed:
        assert "approximate search: 100.0% of the ten nearest are found" in message
        assert everything_in(index) >= {"faiss.index", "faiss.json"}
    else:
        assert "search will be exact" in message and "open4m[retrieval]" in message
    assert found(capsys, "--rgb", "photos/2.png", "--model", model)["hits"][0]["key"] == "2.png"
