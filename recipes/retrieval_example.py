"""The picture of docs/retrieval.md: the held-out scenes that ship with the package, searched by a caption, a depth map,
and both.

python -m recipes.retrieval_example --out docs/retrieval.png
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from PIL import Image

import open4m
from open4m.evaluation import read_values
from open4m.evaluation.heldout import HELDOUT, SPLIT
from open4m.files import write_bytes
from open4m.generation.pipeline import AnyToAny
from open4m.modalities.drawing import contact_sheet
from open4m.modalities.registry import get_modality
from open4m.retrieval import Hit, Index, Term

_HITS, _SIZE = 4, 128
_NOTHING = ("", Image.new("RGB", (_SIZE, _SIZE), "white"))


@dataclass(frozen=True)
class Example:
    """What to draw.

    Attributes:
        out: the picture.
        model: name or folder of the model.
        scene: the held-out scene whose caption and depth are the query.
        unwanted: what the results of the last row should not be like.
    """

    out: Path = Path("docs/retrieval.png")
    model: str = "scenes-tiny"
    scene: int = 3
    unwanted: str = "a room with a couch"


def main(example: Example) -> None:
    """Index, search, draw: a row for each query, its parts first, then what was found and by which part."""
    model = open4m.load(example.model)
    (truth,) = read_values(HELDOUT, SPLIT, ["caption", "depth"], 1, example.scene)
    caption, depth = Term("caption", truth["caption"]), Term("depth", truth["depth"])
    terms = (caption, depth, Term("caption", example.unwanted, -0.5))
    with tempfile.TemporaryDirectory() as folder:
        index = Index.build(model, HELDOUT, folder, split=SPLIT)
        cells: list[tuple[str, Image.Image]] = []
        for query in ([caption], [depth], [caption, depth], [*terms]):
            cells += [_asked(model, term) if term in query else _NOTHING for term in terms]
            cells += [_found(index, hit) for hit in index.search(query, _HITS)]
    buffer = io.BytesIO()
    contact_sheet(cells, len(terms) + _HITS, _SIZE).save(buffer, format="PNG", optimize=True)
    write_bytes(example.out, buffer.getvalue())


def _asked(model: AnyToAny, term: Term) -> tuple[str, Image.Image]:
    value = model.view({term.modality: term.value})[term.modality]
    return term.label, get_modality(term.modality).draw(value)


def _found(index: Index, hit: Hit) -> tuple[str, Image.Image]:
    picture = get_modality("rgb").draw(index.gallery.value(hit.key, "rgb"))
    return f"{hit.score:.3f} {hit.driven_by}", picture


if __name__ == "__main__":
    main(tyro.cli(Example, description=__doc__))
