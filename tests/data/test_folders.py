"""Plain folders become shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from open4m.data.folders import pack_folders
from open4m.data.shards import ShardDataset
from open4m.errors import DataError


def make(root: Path) -> None:
    for name, ending in (("rgb", "jpg"), ("caption", "json.gz")):
        for label in ("cat", "dog"):
            for i in range(2):
                path = root / "train" / name / label / f"{i}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {label} {i}")


def test_folders_become_shards(tmp_path: Path) -> None:
    make(tmp_path / "in")
    assert pack_folders(tmp_path / "in", "train", tmp_path / "out", ["rgb", "caption"], 3) == 4
    samples = list(ShardDataset(tmp_path / "out", "train"))
    assert [s.key for s in samples] == ["cat__0", "cat__1", "dog__0", "dog__1"]
    assert samples[2].files == {"rgb": ("jpg", b"rgb dog 0"), "caption": ("json.gz", b"caption dog 0")}


def test_missing_and_doubled_files_are_named(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match="depth: no files"):
        pack_folders(tmp_path, "train", tmp_path / "out", ["rgb", "depth"])
    (tmp_path / "train" / "caption" / "dog" / "1.json.gz").unlink()
    with pytest.raises(DataError, match=r"caption: no file dog/1\.\*"):
        pack_folders(tmp_path, "train", tmp_path / "out", ["rgb", "caption"])
    with pytest.raises(DataError, match=r"caption: no file dog/1\.\*"):
        pack_folders(tmp_path, "train", tmp_path / "out", ["caption", "rgb"])
    (tmp_path / "train" / "rgb" / "cat" / "0.png").write_text("again")
    with pytest.raises(DataError, match="second file"):
        pack_folders(tmp_path, "train", tmp_path / "out", ["rgb"])
    assert not (tmp_path / "out").exists()
