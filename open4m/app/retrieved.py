"""What a search found, as a contact sheet: the query, and the items with what each part of the query did for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open4m.app.page import Panel, Picture, Section, write_page
from open4m.app.panels import SIZE, given_panels
from open4m.errors import DataError, ModalityError
from open4m.modalities.registry import get_modality
from open4m.retrieval.index import Hit, Index
from open4m.retrieval.query import Term

INTRO = (
    "cosine: how alike the item and the query are. Beside it, for each part of the query, how much of that is its "
    "doing: what the cosine would lose without this part, beyond what the gallery loses on average."
)


def write_hits(path: Path, index: Index, terms: Sequence[Term], hits: Sequence[Hit]) -> None:
    """Write the page.

    Args:
        terms, hits: the query, and what it found in ``index``.
    """
    settings = index.settings
    query = Section("The query", given=[_term(index, term) for term in terms])
    found = Section("Found", INTRO, panels=[_hit(index, rank, hit) for rank, hit in enumerate(hits, 1)])
    footer = (
        f"{len(index)} items of {settings.root}{f', split {settings.split}' if settings.split else ''}, seen through "
        f"{', '.join(settings.modalities)}. Model {settings.model}; compared: {', '.join(settings.spaces)}."
    )
    write_page(path, f"{len(hits)} of {len(index)} items", "", [query, found], footer)


def _term(index: Index, term: Term) -> Panel:
    """A part of the query as the model saw it."""
    (panel,) = given_panels(index.model.view({term.modality: term.value}), [term.modality])
    (picture,) = panel.pictures
    what = f"weight {term.weight:g}" if term.weight > 0 else f"not like this, weight {term.weight:g}"
    return Panel(panel.title, [Picture(what, picture.image, picture.text)])


def _hit(index: Index, rank: int, hit: Hit) -> Panel:
    scores = [("cosine", f"{hit.score:.3f}"), *((label, f"{part:+.3f}") for label, part in hit.parts.items())]
    try:
        name = index.gallery.shown
        modality, value = get_modality(name), index.gallery.value(hit.key, name)
    except (DataError, ModalityError) as error:
        return Panel(f"{rank} · {hit.key}", [], [*scores, ("not shown", str(error))])
    value = index.model.view({name: value})[name]
    text = f"driven by {hit.driven_by}. {modality.describe(value)}"
    return Panel(f"{rank} · {hit.key}", [Picture("", modality.draw(value, SIZE), text)], scores)
