"""``open4m modality``: what the registered kinds of data are."""

from __future__ import annotations

import json as json_module

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional
from tyro.extras import SubcommandApp

from open4m.modalities.registry import all_modalities, get_modality

app = SubcommandApp()


@app.command(name="list")
def list_modalities(json: bool = False) -> None:
    """List every modality: its files, streams and scores.

    Args:
        json: print JSON instead of a table.
    """
    if json:
        print(json_module.dumps({name: _facts(name) for name in all_modalities()}, indent=2))
        return
    table = Table("name", "title", "files", "published streams", "scores")
    for name in all_modalities():
        facts = _facts(name)
        table.add_row(
            name,
            escape(facts["title"]),
            " ".join(facts["extensions"]),
            " ".join(stream["name"] for stream in facts["streams"]),
            ", ".join(facts["metrics"]),
        )
    Console().print(table)


@app.command
def show(name: Positional[str], json: bool = False) -> None:
    """Show one modality: what a value holds, where labels come from, streams, scores.

    Args:
        name: the modality, such as depth.
        json: print JSON instead of text.
    """
    get_modality(name)
    facts = _facts(name)
    if json:
        print(json_module.dumps(facts, indent=2))
        return
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"{facts['title']} ({name})", style="bold")
    console.print(facts["description"])
    if facts["source"]:
        console.print(f"labels in the published system: {facts['source']}")
    console.print(f"files: {', '.join(facts['extensions'])}")
    for stream in facts["streams"]:
        roles = " and ".join(r for r, on in (("input", stream["is_input"]), ("target", stream["is_target"])) if on)
        console.print(
            f"stream {stream['name']}: {stream['kind']}, {roles}, ≤ {stream['max_tokens']} positions, "
            f"vocabulary {stream['vocab_size'] or '–'}"
        )
    for metric, (unit, higher) in facts["metrics"].items():
        console.print(f"score {metric} {unit and f'[{unit}] '}({'higher' if higher else 'lower'} is better)")


def _facts(name: str) -> dict:
    modality = get_modality(name)
    card = modality.card
    return {
        "title": card.title,
        "description": card.description,
        "source": card.source,
        "extensions": list(modality.extensions),
        "metrics": {key: (metric.unit, metric.higher_is_better) for key, metric in card.metrics.items()},
        "streams": [stream.to_dict() for stream in modality.streams(224, 16)],
    }
