"""Position tables are the published ones."""

from __future__ import annotations

import torch

from open4m.model.embeddings import sincos_1d, sincos_2d
from tests.reference import verified


def test_tables_equal_the_reference_bit_for_bit() -> None:
    checks = verified("position_embeddings").checks
    assert [checks[f"fm_{name}"].error for name in ("1d.len10_dim12", "2d.h4_w4_dim16", "2d.h2_w3_dim8")] == [0, 0, 0]


def test_rows_and_columns_of_a_grid() -> None:
    table = sincos_2d((2, 5), 8).view(2, 5, 8)
    assert torch.equal(table[:, 0, :4], table[:, 4, :4])
    assert torch.equal(table[0, :, 4:], table[1, :, 4:])
    assert torch.equal(table[1, 3, :4], sincos_1d(2, 4)[1])
    assert torch.equal(table[1, 3, 4:], sincos_1d(5, 4)[3])
