"""Shared test helpers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def golden(name: str) -> Path:
    """Folder ``name`` of the reference outputs: those kept in the repository, else those of ``OPEN4M_GOLDEN``."""
    candidates = [HERE / "golden" / name, HERE.parent.parent / "shared" / "golden" / name]
    if "OPEN4M_GOLDEN" in os.environ:
        candidates.append(Path(os.environ["OPEN4M_GOLDEN"]) / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    pytest.skip(f"reference outputs {name!r} are not in tests/golden; set OPEN4M_GOLDEN to the folder that has them")
