"""Shards: what is written is read, nothing half-written is visible, damage is named."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from open4m.data.shards import ShardDataset, ShardWriter, finished_shards, shard_path
from open4m.errors import DataError, UnknownNameError

NAMES = ("rgb", "caption")


def write(root: Path, count: int, shard_size: int = 3) -> None:
    with ShardWriter(root, "train", NAMES, shard_size) as writer:
        for i in range(count):
            writer.write(f"{i:04d}", {"rgb": ("png", bytes([i]) * i), "caption": ("txt", f"number {i}".encode())})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=8), st.integers(1, 4))
def test_round_trip(contents: list[bytes], shard_size: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        with ShardWriter(root, "val", ["a", "b"], shard_size) as writer:
            for i, data in enumerate(contents):
                writer.write(str(i), {"a": ("bin", data), "b": ("json.gz", data[::-1])})
        data_set = ShardDataset(root, "val")
        assert len(data_set) == len(contents)
        for i, data in enumerate(contents):
            sample = data_set[i]
            assert sample.key == str(i)
            assert sample.files == {"a": ("bin", data), "b": ("json.gz", data[::-1])}
        assert [len(r) for r in data_set.shards[:-1]] == [shard_size] * (len(data_set.shards) - 1)


def test_subset_of_folders_and_single_reads(tmp_path: Path) -> None:
    write(tmp_path, 7)
    data_set = ShardDataset(tmp_path, "train", ["caption"])
    assert data_set[5].files == {"caption": ("txt", b"number 5")}
    assert data_set.read(6, "caption") == ("txt", b"number 6")
    with pytest.raises(UnknownNameError, match="caption"):
        data_set.read(0, "captoin")
    with pytest.raises(IndexError):
        data_set.read(7, "caption")


def test_files_depend_on_the_samples_only(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(tmp_path / folder, 3)
    one, two = (shard_path(tmp_path / f, "train", "rgb", 0).read_bytes() for f in ("one", "two"))
    assert one == two


def test_unfinished_shard_is_invisible_and_discarded(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, "train", NAMES, 2) as writer:
        for i in range(3):
            writer.write(str(i), {"rgb": ("png", b"x"), "caption": ("txt", b"y")})
            if i == 0:
                assert finished_shards(tmp_path, "train", NAMES) == set()
        raise RuntimeError
    assert finished_shards(tmp_path, "train", NAMES) == {0}
    assert sorted(p.name for p in (tmp_path / "train" / "rgb").iterdir()) == ["shard-00000.tar"]


def test_resume_writes_later_shards(tmp_path: Path) -> None:
    for shard in (1, 0):
        with ShardWriter(tmp_path, "train", ["a"], 2, first_shard=shard) as writer:
            for i in (2 * shard, 2 * shard + 1):
                writer.write(str(i), {"a": ("txt", b"")})
    assert [s.key for s in ShardDataset(tmp_path, "train")] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    "files", [{"rgb": ("png", b"")}, {"rgb": ("png", b""), "caption": ("txt", b""), "x": ("y", b"")}]
)
def test_wrong_folders_are_refused(tmp_path: Path, files: dict[str, tuple[str, bytes]]) -> None:
    with ShardWriter(tmp_path, "train", NAMES) as writer, pytest.raises(DataError, match="exactly one file"):
        writer.write("a", files)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "taken"])
def test_unusable_keys_are_refused(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path, "train", ["a"]) as writer:
        writer.write("taken", {"a": ("txt", b"")})
        with pytest.raises(DataError, match="key"):
            writer.write(key, {"a": ("txt", b"")})


@pytest.mark.parametrize("keep", [0, 700, 1024, 1536])
def test_truncated_shard_is_named(tmp_path: Path, keep: int) -> None:
    write(tmp_path, 3)
    path = shard_path(tmp_path, "train", "rgb", 0)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="rgb/shard-00000"):
        ShardDataset(tmp_path, "train")


@pytest.mark.parametrize("offset", [3, 512 + 3, 1024 + 512 + 3])
def test_damaged_header_is_named(tmp_path: Path, offset: int) -> None:
    write(tmp_path, 3)
    path = shard_path(tmp_path, "train", "rgb", 0)
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match="rgb/shard-00000"):
        ShardDataset(tmp_path, "train", ["rgb"])


def test_misaligned_and_missing_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, 4)
    with ShardWriter(tmp_path, "train", ["depth"], 3) as writer:
        for key in ("0000", "0002", "0001"):
            writer.write(key, {"depth": ("png", b"")})
    with pytest.raises(DataError, match=r"depth/shard-00001\.tar: missing"):
        ShardDataset(tmp_path, "train")
    shard_path(tmp_path, "train", "rgb", 1).unlink()
    with pytest.raises(DataError, match=r"depth/shard-00000\.tar: .*do not match.*member 1"):
        ShardDataset(tmp_path, "train", ["rgb", "depth"])
    with pytest.raises(DataError, match="no such split"):
        ShardDataset(tmp_path, "test")
