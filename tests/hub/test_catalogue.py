"""Names: what exists is found, what does not is answered with the nearest names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from open4m.errors import CheckpointError, UnknownNameError
from open4m.hub import catalogue, list_models, resolve
from open4m.hub.catalogue import CATALOGUE, published_tokenizer


def test_catalogue_lists_every_published_name() -> None:
    models = [entry for entry in CATALOGUE.values() if entry.kind == "model"]
    tokenizers = [entry for entry in CATALOGUE.values() if entry.kind == "tokenizer"]
    assert len(models) == 6 + 3 + 3 + 1
    assert len(tokenizers) == 12
    assert {entry.licence for entry in CATALOGUE.values()} == {"non-commercial"}


def test_list_models() -> None:
    assert [e.name for e in list_models("*4m-21_*")] == [f"EPFL-VILAB/4M-21_{s}" for s in ("B", "L", "XL")]
    assert not list_models("*tokenizers*")
    assert list_models("nothing-like-it") == []


def test_published_tokenizers() -> None:
    assert published_tokenizer("tok_rgb@448") == "EPFL-VILAB/4M_tokenizers_rgb_16k_224-448"
    assert published_tokenizer("tok_sam_edge@224") == published_tokenizer("tok_canny_edge@224")
    assert published_tokenizer("human_poses") == "EPFL-VILAB/4M_tokenizers_human-poses_1k_8"
    assert published_tokenizer("rgb@224") is None
    assert published_tokenizer("caption") is None
    for stream in ("tok_dinov2_global", "sam_instance", "tok_clip@224"):
        assert published_tokenizer(stream) in CATALOGUE


def test_local_folders(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve(tmp_path / "missing")


def test_bundles_of_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assets = tmp_path / "assets"
    (assets / "scenes-small").mkdir(parents=True)
    config = {"licence": "Apache-2.0", "licence_url": "https://example.org", "description": "rooms"}
    (assets / "scenes-small" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(catalogue, "ASSETS", assets)
    (tmp_path / "scenes-small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("scenes-small") == assets / "scenes-small"
    first = list_models()[0]
    assert (first.name, first.licence, first.description) == ("scenes-small", "Apache-2.0", "rooms")
    with pytest.raises(UnknownNameError, match="Did you mean 'scenes-small'"):
        resolve("scene-small", download=refuse)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("EPFL-VILAB/4M-21_XL_CC12M", "4M-21_XL"),
        ("EPFL-VILAB/4M-21_XXL", "4M-21_XL"),
        ("EPFL-VILAB/4M-7_B_C12M", "4M-7_B_CC12M"),
    ],
)
def test_typos_are_answered_with_suggestions(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"Did you mean .*{near}"):
        resolve(name, download=refuse)


def refuse(*_: Any, **__: Any) -> str:
    raise AssertionError("nothing must be fetched")


@pytest.mark.parametrize(
    ("name", "repository", "revision"),
    [
        ("4M-21_B", "EPFL-VILAB/4M-21_B", None),
        ("EPFL-VILAB/4M-21_B@0123abc", "EPFL-VILAB/4M-21_B", "0123abc"),
        ("somebody/fine-tuned", "somebody/fine-tuned", None),
    ],
)
def test_hub_names_are_fetched(tmp_path: Path, name: str, repository: str, revision: str | None) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert "*.safetensors" in allow_patterns
        assert not any(pattern.endswith((".pth", ".bin")) for pattern in allow_patterns)
        asked.append((repository, revision))
        return str(tmp_path)

    assert resolve(name, download) == tmp_path
    assert asked == [(repository, revision)]


def test_failed_downloads_say_what_to_do() -> None:
    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    with pytest.raises(CheckpointError, match=r"4M-21_B: could not be fetched .*no route.*local folder"):
        resolve("4M-21_B", download)
