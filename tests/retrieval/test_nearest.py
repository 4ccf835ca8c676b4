"""Exact search against sorting everything; FAISS against exact search."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from open4m.errors import DataError, MissingExtraError
from open4m.retrieval.nearest import build_faiss, exact, open_faiss, recall_of, take_rows


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5), st.integers(1, 12), st.integers(0, 99))
def test_blocks_do_not_matter_and_ties_go_to_the_first(sizes: list[int], k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-1, 2, (sum(sizes), 3), generator=generator).float()  # many equal scores
    queries = torch.randint(-1, 2, (2, 3), generator=generator).float()
    scores, rows = exact(vectors.split(sizes), queries, k)
    for row, query in enumerate(queries):
        product = (vectors @ query).tolist()
        expected = sorted(range(len(product)), key=lambda i: (-product[i], i))[:k]
        assert rows[row].tolist() == expected
        assert scores[row].tolist() == [product[i] for i in expected]


def test_rows_are_taken_from_all_blocks() -> None:
    vectors = torch.arange(20.0).view(10, 2)
    taken = take_rows(vectors.split([3, 1, 6]), np.array([9, 0, 3, 4, 2]))
    assert torch.equal(taken, vectors[[9, 0, 3, 4, 2]])


def test_recall_is_the_share_that_was_found() -> None:
    found = torch.tensor([[1, 2, 3], [4, 5, -1]])
    assert recall_of(found, torch.tensor([[3, 1, 2], [9, 4, 8]])) == pytest.approx(4 / 6)


def test_without_faiss_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"open4m\[retrieval\]"):
        build_faiss(tmp_path, [torch.eye(4)], "x")
    assert open_faiss(tmp_path, "x") is None  # there is none to open


def clustered(count: int, dim: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(50, dim, generator=generator)
    which = torch.randint(0, 50, (count,), generator=generator)
    noise = torch.randn(count, dim, generator=generator)
    return torch.nn.functional.normalize(centres[which] + noise, dim=1)


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # SWIG's types
def test_faiss_finds_what_exact_search_finds(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    blocks = clustered(4000).split(1500)
    record = build_faiss(tmp_path, blocks, "these")
    assert record.recall >= 0.95 and 1 <= record.probes <= record.lists
    opened = open_faiss(tmp_path, "these")
    assert opened is not None and opened[1] == record and opened[0].nprobe == record.probes
    queries = torch.nn.functional.normalize(clustered(4100)[4000:] + 0.1, dim=1)
    found = torch.from_numpy(opened[0].search(queries.numpy(), 10)[1])
    assert recall_of(found, exact(blocks, queries, 10)[1]) >= 0.85
    assert open_faiss(tmp_path, "others") is None


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")
def test_a_changed_faiss_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    build_faiss(tmp_path, [clustered(200)], "these")
    data = bytearray((tmp_path / "faiss.index").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "faiss.index").write_bytes(data)
    with pytest.raises(DataError, match=r"faiss\.index: it is not the file"):
        open_faiss(tmp_path, "these")
    (tmp_path / "faiss.json").write_text(json.dumps({"content": "these"}))
    with pytest.raises(DataError, match=r"faiss\.json"):
        open_faiss(tmp_path, "these")
