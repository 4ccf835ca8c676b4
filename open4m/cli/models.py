"""``open4m models``: what can be loaded by name."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import Positional
from tyro.extras import SubcommandApp

if TYPE_CHECKING:
    from open4m.hub import Card

app = SubcommandApp()


@app.command(name="list", is_default=True)
def list_models(
    pattern: Positional[str] = "*", kind: Literal["model", "tokenizer", "all"] = "model", json: bool = False
) -> None:
    """List models: those in the package and the published 4M checkpoints. Nothing is fetched.

    Args:
        pattern: shell pattern on the name, such as "*21*".
        kind: transformers with all that belongs to them, single tokenizers, or both.
        json: print all facts as JSON instead of a table.
    """
    from open4m.hub import card
    from open4m.hub import list_models as entries_matching
    from open4m.hub.needs import gigabytes

    cards = [card(entry.name) for entry in entries_matching(pattern, None if kind == "all" else kind)]
    if json:
        print(json_module.dumps([asdict(facts) for facts in cards], indent=2))
        return
    table = Table(Column("name", no_wrap=True), "parameters", "files", "licence", "what it is")
    for c in cards:
        files = f"{'about ' if c.estimated else ''}{gigabytes(c.bytes)}"
        table.add_row(*map(escape, (c.name, _millions(c.parameters), files, c.licence, c.description)))
    Console().print(table)


@app.command
def show(name: Positional[str], json: bool = False) -> None:
    """Show the card of a published model or tokenizer, or of a model in the package or in a folder.

    Args:
        name: a model's or tokenizer's name, or a folder.
        json: print the facts as JSON instead of a table.
    """
    from rich.markdown import Markdown

    from open4m.hub import card

    facts = card(name)
    if json:
        print(json_module.dumps(asdict(facts), indent=2))
        return
    console = Console()
    table = Table("", "", title=escape(facts.name), show_header=False, title_justify="left")
    for key, value in _rows(facts):
        table.add_row(key, escape(value))
    console.print(table)
    readme = Path(facts.location).parent / "README.md" if facts.location else None
    if readme is not None and readme.is_file():
        console.print(Markdown(readme.read_text(encoding="utf-8")))


@app.command
def export(name: Positional[str], out: Path, format: Literal["published", "open4m"] = "published") -> None:
    """Write a model with the published names of weights, or with ours; every weight stays as it is, bit by bit.

    Args:
        name: a model's name or folder.
        out: folder to write.
        format: names and configuration of the published 4M checkpoints, or of this package.
    """
    from open4m.hub import export_bundle

    export_bundle(name, out, format)
    Console(stderr=True).print(f"[bold green]done[/] {escape(str(out))}", highlight=False, soft_wrap=True)


def _rows(facts: Card) -> list[tuple[str, str]]:
    """The facts of a card for people; empty ones are left out."""
    from open4m.hub.needs import gigabytes

    trunk = f", of which {_millions(facts.trunk)} without embeddings and heads" if facts.kind == "model" else ""
    estimate = " to download (computed from the parameters, as float32)" if facts.estimated else " on disk"
    rows = {
        "what it is": facts.description,
        "reads": ", ".join(facts.inputs),
        "predicts" if facts.kind == "model" else "writes": ", ".join(facts.targets),
        "parameters": _millions(facts.parameters) + trunk,
        "pictures": f"{facts.image_size} px, patches of {facts.patch_size} px",
        "preprocessing": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.preprocessing.items()),
        "tokenizers": "\n".join(f"{stream}: {name}" for stream, name in facts.tokenizers.items()),
        "files": gigabytes(facts.bytes) + estimate,
        "where": facts.location or "on the hub, not on this machine",
        "licence": f"{facts.licence} ({facts.licence_url})",
        "that is": facts.licence_meaning,
        "paper": facts.paper,
    }
    return [(key, value) for key, value in rows.items() if value]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
