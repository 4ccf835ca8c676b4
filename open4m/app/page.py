"""Self-contained HTML pages: pictures are embedded, so that one file can be mailed or attached to an issue."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from PIL import Image

from open4m.files import write_bytes


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows (``prediction``) and a line to read beside it."""

    what: str
    image: Image.Image
    text: str = ""


@dataclass(frozen=True)
class Panel:
    """One modality on a page.

    Attributes:
        title: heading.
        pictures: left to right.
        scores: (metric, value) pairs as they should be read.
    """

    title: str
    pictures: Sequence[Picture] = ()
    scores: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Table:
    """A table; the first two columns are left-aligned text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A part of a page: what was given, and what came out."""

    title: str
    intro: str = ""
    given: Sequence[Panel] = ()
    panels: Sequence[Panel] = ()
    wide: Sequence[Panel] = ()
    tables: Sequence[Table] = ()


def render_page(title: str, intro: str, sections: Sequence[Section], footer: str) -> str:
    """HTML text of a page. All texts are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_uri"] = _data_uri
    template = environment.from_string((files("open4m.app") / "page.html.j2").read_text(encoding="utf-8"))
    return template.render(title=title, intro=intro, sections=sections, footer=footer)


def write_page(path: str | Path, title: str, intro: str, sections: Sequence[Section], footer: str) -> None:
    """Write :func:`render_page` to ``path`` atomically."""
    write_bytes(path, render_page(title, intro, sections, footer).encode())


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
