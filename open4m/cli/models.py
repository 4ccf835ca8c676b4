"""``open4m models``: what can be loaded by name."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional
from tyro.extras import SubcommandApp

app = SubcommandApp()


@app.command(name="list", is_default=True)
def list_models(pattern: Positional[str] = "*", json: bool = False) -> None:
    """List models: those in the package and the published 4M checkpoints.

    Args:
        pattern: shell pattern on the name, such as "*21*".
        json: print JSON instead of a table.
    """
    from open4m.hub import list_models as entries_matching

    entries = entries_matching(pattern)
    if json:
        print(json_module.dumps([asdict(entry) for entry in entries], indent=2))
        return
    table = Table("name", "licence of the weights", "what it is")
    for entry in entries:
        table.add_row(*map(escape, (entry.name, entry.licence, entry.description)))
    Console().print(table)


@app.command
def show(name: Positional[str]) -> None:
    """Show the card of a model in the package or in a folder.

    Args:
        name: a model's name or folder.
    """
    from rich.markdown import Markdown

    from open4m.errors import CheckpointError
    from open4m.hub import resolve

    card = resolve(name) / "README.md"
    if not card.is_file():
        raise CheckpointError(f"{card}: this model has no card.")
    Console().print(Markdown(card.read_text(encoding="utf-8")))
