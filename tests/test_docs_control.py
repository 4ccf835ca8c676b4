"""The examples of docs/control.md run as they are printed, on the bundled model."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from open4m.cli import main
from recipes.control_pictures import STRIPS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")


def test_every_picture_is_made_by_the_script_and_small() -> None:
    shown = re.findall(r"\]\((control-\w+)\.png\)", TEXT)
    assert sorted(shown) == sorted(f"control-{name}" for name in STRIPS)
    assert all(0 < (ROOT / "docs" / f"{name}.png").stat().st_size <= 60_000 for name in shown)


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```(python|sh)\n(.*?)```", TEXT, flags=re.DOTALL)
    for language, code in blocks:
        if language == "python":
            run(code, names)
        else:
            for line in code.strip().splitlines():
                assert main(shlex.split(line)[1:]) == 0, line
    assert len(blocks) > 15


def run(code: str, names: dict[str, object]) -> None:
    exec(code, names)
