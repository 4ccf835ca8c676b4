"""Position tables are the published ones."""

from __future__ import annotations

import torch
from conftest import golden
from safetensors.torch import load_file

from open4m.model.embeddings import sincos_1d, sincos_2d


def test_tables_equal_the_reference() -> None:
    expected = load_file(golden("position_embeddings") / "expected.safetensors")
    assert torch.equal(sincos_1d(10, 12)[None], expected["fm_1d.len10_dim12"])
    assert torch.equal(sincos_2d((4, 4), 16)[None], expected["fm_2d.h4_w4_dim16"])
    # The reference runs the width outermost; read as rows × columns its 2 × 3 grid is our 3 × 2.
    assert torch.equal(sincos_2d((3, 2), 8)[None], expected["fm_2d.h2_w3_dim8"])


def test_rows_and_columns_of_a_grid() -> None:
    table = sincos_2d((2, 5), 8).view(2, 5, 8)
    assert torch.equal(table[:, 0, :4], table[:, 4, :4])
    assert torch.equal(table[0, :, 4:], table[1, :, 4:])
    assert torch.equal(table[1, 3, :4], sincos_1d(2, 4)[1])
    assert torch.equal(table[1, 3, 4:], sincos_1d(5, 4)[3])
