"""``open4m index`` and ``open4m search``: find things of any kind by things of any other kind."""

from __future__ import annotations

import json as json_module
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import OmitArgPrefixes, Positional, arg

from open4m.cli.bars import Bars
from open4m.cli.options import Given, Loading, assignments, inputs_of, numbers
from open4m.errors import MissingExtraError, UnknownNameError
from open4m.modalities.registry import get_modality

if TYPE_CHECKING:
    from open4m.retrieval import Hit, Index, Term

_UNREADABLE_SHOWN = 5


def index(
    folder: Positional[Path],
    *,
    out: Path,
    given: Annotated[tuple[str, ...], arg(metavar="MODALITY ...")] = ("rgb",),
    split: str | None = None,
    spaces: Annotated[tuple[str, ...], arg(metavar="MODALITY ...")] = (),
    model: str = "scenes-tiny",
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    batch_size: int = 16,
) -> None:
    """Index a folder of files, or a data set, for open4m search. Run again to add what is new or was interrupted.

    For example:

    open4m index photos --out index

    open4m index data --split val --given depth --out index

    Args:
        folder: pictures (or files of another modality) in any depth; with --split, root of a data set.
        out: folder of the index.
        given: what the model sees of an item; a data set may give several modalities. Features (dinov2_global, …) are
            taken as they are instead of being predicted.
        split: of the data set: FOLDER/<split>/<modality>/shard-00000.tar.
        spaces: predicted features that are compared; default: all that the model has.
        model: name or folder of the model.
        loading: how the model is loaded.
        batch_size: items embedded together.
    """
    from open4m.retrieval import Index

    loaded = loading.load(model)
    with Bars(quiet=False) as bars:
        made = Index.build(
            loaded, folder, out, modalities=given, split=split, spaces=spaces, batch_size=batch_size, progress=bars.tell
        )
    console = Console(stderr=True)
    assert made.update is not None
    bad = made.update.unreadable
    for key, problem in list(bad.items())[:_UNREADABLE_SHOWN]:
        _say(console, f"[yellow]left out[/] {escape(f'{key}: {problem}')}")
    if len(bad) > _UNREADABLE_SHOWN:
        _say(console, f"[yellow]left out[/] {len(bad) - _UNREADABLE_SHOWN} more that cannot be read")
    changes = f"{made.update.added} new, {made.update.dropped} dropped, {len(bad)} unreadable"
    _say(console, f"[bold green]done[/] {escape(str(out))}: {len(made)} items ({changes})")
    _approximate(made, console)


def _approximate(made: Index, console: Console) -> None:
    """Make the approximate index of a large gallery and say how good it is."""
    try:
        record = made.approximate()
    except MissingExtraError as error:
        _say(console, f"[yellow]search will be exact, which takes long among so many.[/] {escape(str(error))}")
        return
    if record is not None:
        _say(console, f"approximate search: {record.recall:.1%} of the ten nearest are found (--exact finds all)")


def search(
    index: Positional[Path],
    *,
    given: OmitArgPrefixes[Given] = Given(),  # type: ignore[valid-type]  # noqa: B008
    weight: Annotated[tuple[str, ...], arg(metavar="MODALITY=NUMBER ...")] = (),
    without: Annotated[tuple[str, ...], arg(metavar="MODALITY=VALUE ...")] = (),
    k: Annotated[int, arg(aliases=["-k"])] = 10,
    exact: bool = False,
    out: Path = Path("out/search"),
    model: str | None = None,
    loading: OmitArgPrefixes[Loading] = Loading(),  # noqa: B008
    json: bool = False,
) -> None:
    """Find the items of an index that are most like what is given.

    For example:

    open4m search index --caption "a dog on a couch" --depth d.png -k 10

    open4m search index --caption "a beach" --metadata m.json --weight caption=2 metadata=0.5

    open4m search index --rgb photo.jpg --without caption="people in front"

    Args:
        index: folder made by open4m index.
        given: the query by modality: files, or a text for --caption.
        weight: of parts of the query; 1 where nothing is said, negative for what the results should not be like.
        without: what the results should not be like, beside what is given: weight -1.
        k: how many results.
        exact: do not use the approximate index of a large gallery.
        out: index.html, a contact sheet of the results, goes here.
        model: name or folder of the model that made the index; default: its name.
        loading: how the model is loaded.
        json: print JSON instead of a table.
    """
    from open4m.app.retrieved import write_hits
    from open4m.retrieval import Index
    from open4m.retrieval.query import terms_of
    from open4m.retrieval.storage import read_settings

    terms = terms_of(_terms(inputs_of(given), weight, without))
    opened = Index.open(index, loading.load(model or read_settings(index).model))
    hits = opened.search(terms, k, always_exact=exact)
    page = out / "index.html"
    write_hits(page, opened, terms, hits)
    if json:
        entries = [asdict(hit) | {"driven_by": hit.driven_by} for hit in hits]
        print(json_module.dumps({"index": str(index), "page": str(page), "hits": entries}, indent=2))
        return
    _print(hits)
    _say(Console(stderr=True), f"[bold green]done[/] {escape(str(page))}")


def _terms(given: dict[str, Any], weights: Iterable[str], without: Iterable[str]) -> list[Term]:
    from open4m.retrieval import Term

    terms = {name: Term(name, value) for name, value in given.items()}
    for name, weight in numbers("--weight", weights, "caption=2").items():
        if name not in terms:
            raise UnknownNameError("part of the query", name, terms)
        terms[name] = replace(terms[name], weight=weight)
    unwanted = [
        Term(get_modality(name).name, value, -1.0)
        for word in without
        for name, value in assignments("--without", [word], 'caption="people"').items()
    ]
    return [*terms.values(), *unwanted]


def _print(hits: Sequence[Hit]) -> None:
    """Results as a table, with the part of the score that each part of the query makes."""
    labels = list(hits[0].parts)
    table = Table(Column("", justify="right"), Column("cosine", justify="right"), Column("item", overflow="fold"))
    for label in labels:
        table.add_column(escape(label), justify="right")
    for rank, hit in enumerate(hits, 1):
        parts = (
            f"[bold]{part:+.3f}[/]" if label == hit.driven_by else f"{part:+.3f}" for label, part in hit.parts.items()
        )
        table.add_row(str(rank), f"{hit.score:.3f}", escape(hit.key), *parts)
    console = Console()
    console.print(table, width=None if console.is_terminal else 120)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
