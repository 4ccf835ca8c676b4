"""Held-out scenes: the shipped ones, continued by rendering the same world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from open4m.errors import DataError, MissingExtraError
from open4m.evaluation import heldout, heldout_values, read_values
from open4m.evaluation.heldout import HELDOUT, SEED, SHARD_SIZE, SPLIT, VIEWS, cache_folder

NAMES = ("rgb", "depth", "caption", "clip")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "open4m"


def test_shipped_scenes_need_no_rendering(cache: Path) -> None:
    found = heldout_values(NAMES, 5)
    assert len(found) == 5 and all(set(sample) == set(NAMES) for sample in found)
    assert not cache.exists()


def test_the_shipped_scenes_are_those_of_the_seed(tmp_path: Path) -> None:
    from open4m.scenes import VIEWS_PER_SCENE, render_dataset

    assert VIEWS == VIEWS_PER_SCENE
    render_dataset(tmp_path, 2, SEED, split=SPLIT, shard_size=2, workers=1)
    for ours, theirs in zip(
        read_values(tmp_path, SPLIT, NAMES[:3]), read_values(HELDOUT, SPLIT, NAMES[:3]), strict=False
    ):
        assert np.array_equal(ours["rgb"], theirs["rgb"]) and ours["caption"] == theirs["caption"]
        assert np.array_equal(ours["depth"], theirs["depth"], equal_nan=True)
    assert len(read_values(HELDOUT, SPLIT, ["rgb"])) == SHARD_SIZE


def test_more_are_rendered_once_and_have_no_features(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldout, "SHARD_SIZE", 3)
    all_shipped = read_values
    monkeypatch.setattr(  # as if three scenes shipped
        heldout,
        "read_values",
        lambda root, *rest, **more: all_shipped(root, *rest, **more)[: 3 if root == HELDOUT else None],
    )
    found = heldout_values(NAMES, 4)
    assert [set(NAMES) - set(sample) for sample in found] == [set()] * 3 + [{"clip"}]
    fourth = read_values(HELDOUT, SPLIT, ["rgb"], 1, first=3)[0]
    assert np.array_equal(found[3]["rgb"], fourth["rgb"])  # the keys go on where the shipped ones end
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.tar")}
    assert before
    heldout_values(NAMES, 4)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.tar")} == before


def test_without_the_renderer_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    original = builtins.__import__

    def blocked(name: str, *rest: object, **more: object) -> object:
        if name.startswith("open4m.scenes"):
            raise MissingExtraError("Rendering scenes", "scenes", "trimesh")
        return original(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(DataError, match=r"73 held-out .* 72 ship .*pip install 'open4m\[scenes\]'.*--data.*--limit 72"):
        heldout_values(["rgb"], 73)


def test_the_cache_lies_in_the_home_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "open4m"
