"""Every command that the documents print is one that the command line takes, with all its options."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

import pytest
from tyro.extras import SubcommandApp

import open4m.cli

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))


def printed_commands(text: str) -> list[str]:
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", text, flags=re.DOTALL)
    lines = [re.sub(r"\s#.*", "", line) for block in blocks for line in block.splitlines()]
    commands = [command.strip() for line in lines for command in line.split(";")]
    return [command for command in commands if command.startswith("open4m ")]


def without_action(app: SubcommandApp, called: list[str], monkeypatch: pytest.MonkeyPatch) -> SubcommandApp:
    """The same commands; they only tell that they were called."""
    for name, command in app._subcommands.items():
        if isinstance(command.target, SubcommandApp):
            without_action(command.target, called, monkeypatch)
        else:
            tell = functools.wraps(command.target)(lambda *_, name=name, **__: called.append(name))
            monkeypatch.setattr(command, "target", tell)
    return app


def test_documents_print_commands() -> None:
    assert sum(len(printed_commands((ROOT / name).read_text(encoding="utf-8"))) for name in DOCUMENTS) > 40


@pytest.mark.parametrize("name", DOCUMENTS)
def test_printed_commands_are_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    app = without_action(open4m.cli.build(), called, monkeypatch)
    monkeypatch.setattr(open4m.cli, "build", lambda: app)
    commands = printed_commands((ROOT / name).read_text(encoding="utf-8"))
    for command in commands:
        assert open4m.cli.main(shlex.split(command)[1:]) == 0, command
    assert len(called) == len(commands)
