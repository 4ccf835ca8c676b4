"""Derived folders: complete, resumable, the same with several processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from open4m.data.derive import Compute, Files, derive_folders
from open4m.data.shards import Sample, ShardDataset, ShardWriter, shard_path
from open4m.errors import DataError


def make_upper(fail_at: str = "") -> Compute:
    def compute(samples: Sequence[Sample]) -> list[Files]:
        if any(s.key == fail_at for s in samples):
            raise ValueError(f"cannot compute {fail_at}")
        return [{"upper": ("txt", s.files["caption"][1].upper())} for s in samples]

    return compute


def write_captions(root: Path, count: int = 10) -> None:
    with ShardWriter(root, "train", ["caption"], shard_size=4) as writer:
        for i in range(count):
            writer.write(f"{i:04d}", {"caption": ("txt", f"sample {i}".encode())})


def derive(root: Path, fail_at: str = "", workers: int = 1) -> int:
    compute = partial(make_upper, fail_at)
    return derive_folders(root, "train", ["caption"], ["upper"], compute, workers=workers, chunk=3, show_progress=False)


def test_each_sample_is_computed_once(tmp_path: Path) -> None:
    write_captions(tmp_path)
    assert derive(tmp_path) == 10
    dataset = ShardDataset(tmp_path, "train", ["caption", "upper"])
    assert [dataset[i].files["upper"][1] for i in (0, 9)] == [b"SAMPLE 0", b"SAMPLE 9"]
    assert derive(tmp_path) == 0
    shard_path(tmp_path, "train", "upper", 1).unlink()
    assert derive(tmp_path) == 4


def test_shards_whose_inputs_have_grown_are_computed_anew(tmp_path: Path) -> None:
    write_captions(tmp_path, 6)
    assert derive(tmp_path) == 6
    write_captions(tmp_path, 10)
    assert derive(tmp_path) == 6  # samples 4…9: the second shard was cut short
    assert len(ShardDataset(tmp_path, "train", ["caption", "upper"])) == 10


def test_a_failure_leaves_whole_shards_only_and_is_resumed(tmp_path: Path) -> None:
    write_captions(tmp_path)
    with pytest.raises(ValueError, match="cannot compute 0005"):
        derive(tmp_path, fail_at="0005")
    assert [p.name for p in sorted((tmp_path / "train" / "upper").iterdir())] == ["shard-00000.tar"]
    assert derive(tmp_path) == 6


def test_processes_write_the_same_bytes_and_report_failures(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_captions(tmp_path / name)
    derive(tmp_path / "one")
    with pytest.raises(DataError, match="cannot compute 0009"):
        derive(tmp_path / "two", fail_at="0009", workers=2)
    derive(tmp_path / "two", workers=2)
    for shard in range(3):
        a, b = (shard_path(tmp_path / name, "train", "upper", shard).read_bytes() for name in ("one", "two"))
        assert a == b


def test_a_split_without_inputs_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="caption"):
        derive(tmp_path)
