"""Pages: escaped, self-contained, with pictures, words and scores in their place."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import bundle
from tiny_data import SPLIT, values, write_data

from open4m.app import demo
from open4m.app.gallery import SHOWN, write_gallery
from open4m.app.generated import write_generated
from open4m.app.page import Panel, Picture, Section, Table, render_page
from open4m.app.panels import SIZE, comparison, comparisons, given_panels
from open4m.errors import DataError
from open4m.evaluation import evaluate
from open4m.generation import AnyToAny
from open4m.generation.defaults import GridDefaults
from open4m.modalities.registry import get_modality

VOID = {"meta", "img"}


class Reader(HTMLParser):
    """Text, pictures and links of a page; fails on tags that are closed in a wrong order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[tuple[str, Image.Image]] = []
        self.addresses: list[str] = []
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            head, _, data = (found["src"] or "").partition(",")
            assert head == "data:image/png;base64"
            self.pictures.append((found["alt"] or "", Image.open(io.BytesIO(base64.b64decode(data, validate=True)))))
        self.addresses += [value or "" for key, value in attrs if key in ("src", "href", "action", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.parts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.parts).split())


def dot(colour: tuple[int, int, int] = (200, 10, 10)) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def self_contained(path: Path) -> Reader:
    page = path.read_text(encoding="utf-8")
    reader = Reader(page)
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert not re.search(r"url\(|@import|<script|<link|<iframe", page)
    return reader


@settings(max_examples=40)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_every_text_is_escaped(text: str) -> None:
    evil = f'<script>alert("{text}")</script>&amp;'
    panel = Panel(evil, [Picture(evil, dot(), evil)], [(evil, evil)])
    section = Section(evil, evil, given=[panel], panels=[panel], tables=[Table([evil], [[evil]])])
    page = render_page(evil, evil, [section], evil)
    reader = Reader(page)
    assert "script" not in reader.tags
    # title, h1, intro, footer; h2, section intro; table head and cell; two panels of title, what, text, metric, value
    assert "".join(reader.parts).count(evil) == 8 + 2 * 5
    assert [alt for alt, _ in reader.pictures] == [f"{evil}: {evil}"] * 2


def test_pictures_are_embedded_as_they_are() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    reader = Reader(render_page("t", "", [Section("s", panels=[Panel("p", [Picture("w", noise)])])], ""))
    ((alt, found),) = reader.pictures
    assert alt == "p: w" and np.array_equal(np.asarray(found), np.asarray(noise))


def test_empty_parts_leave_nothing_behind() -> None:
    page = render_page("t", "", [Section("s")], "")
    body = page[page.index("<body>") :]
    assert not re.search(r'<(p|table|dl|div)\b|class="given"', body)


def test_comparisons_score_and_describe_both_sides() -> None:
    truth, prediction = values(0)["depth"], values(1)["depth"]
    panel = comparison("depth", prediction, truth, None)
    assert [p.what for p in panel.pictures] == ["prediction", "truth"]
    assert panel.pictures[0].text.endswith("robust standard deviations (relative)")
    assert panel.pictures[1].text.endswith(" m")
    assert {key for key, _ in panel.scores} == {"l1", "abs_rel", "delta1"}
    l1 = get_modality("depth").score([prediction], [truth])["l1"]
    assert dict(panel.scores)["l1"] == f"{l1:.3g} robust standard deviations"


def test_overlays_lie_on_the_pictures_of_their_own_side() -> None:
    def side(colour: int) -> dict[str, Any]:
        return {"rgb": np.full((8, 8, 3), colour, np.uint8), "det": []}

    boxes = comparisons(side(40), side(200), ["det"])[0].pictures
    assert [int(np.asarray(p.image)[0, 0, 0]) for p in boxes] == [40, 200]
    without = comparisons({"det": []}, side(200), ["det"])[0].pictures
    assert [int(np.asarray(p.image)[0, 0, 0]) for p in without] == [200, 200]


def test_given_overlays_do_not_show_the_picture_that_was_not_given() -> None:
    sample = {"rgb": np.full((8, 8, 3), 200, np.uint8), "det": [], "caption": "x"}
    alone, together = given_panels(sample, ["det"]), given_panels(sample, ["rgb", "det"])
    assert np.asarray(alone[0].pictures[0].image).max() < 60
    assert np.asarray(together[1].pictures[0].image).min() == 200
    assert [p.pictures[0].what for p in together] == ["given", "given"]
    assert together[0].pictures[0].image.size == (SIZE, SIZE)


# -- pages of results -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model() -> AnyToAny:
    return AnyToAny(bundle())


def test_generated_page_shows_input_beside_outputs(model: AnyToAny, tmp_path: Path) -> None:
    given = model.view({"rgb": values()["rgb"], "caption": "two <b>dogs</b>"})
    result = model.generate(given, ["depth", "det", "color_palette"], samples=2, seed=4)
    write_generated(tmp_path / "index.html", model, given, result, "a & b")
    reader = self_contained(tmp_path / "index.html")
    titles = ["RGB: given", "Caption: given", "Depth", "Boxes", "Palette"]
    assert [alt for alt, _ in reader.pictures] == titles * 2
    assert "two <b>dogs</b>" in reader.text and "Seed 4" in reader.text and "Seed 5" in reader.text
    assert "(relative)" in reader.text and "Apache-2.0" in reader.text and "a & b" in reader.text
    shown = next(picture for alt, picture in reader.pictures if alt == "Depth")
    assert np.array_equal(np.asarray(shown), np.asarray(result["depth"][0].draw(SIZE)))


def test_generated_page_without_inputs(model: AnyToAny, tmp_path: Path) -> None:
    result = model.generate({}, ["depth"])
    write_generated(tmp_path / "index.html", model, {}, result, "t")
    assert [alt for alt, _ in self_contained(tmp_path / "index.html").pictures] == ["Depth"]


def test_gallery_has_the_table_and_the_first_samples(model: AnyToAny, tmp_path: Path) -> None:
    samples = [values(i) for i in range(SHOWN + 1)]
    report, predictions = evaluate(model, samples, [("rgb",)], ["semseg", "color_palette"], data="x/y")
    write_gallery(tmp_path / "index.html", report, None, samples, predictions)
    reader = self_contained(tmp_path / "index.html")
    per_sample = ["RGB: given", *(f"{t}: {s}" for t in ("Semantic segmentation", "Palette")
                                  for s in ("prediction", "truth"))]  # fmt: skip
    assert [alt for alt, _ in reader.pictures] == per_sample * SHOWN
    for words in (
        "miou ↑",
        "constant",
        "delta_E [ΔE] ↓",
        f"{SHOWN + 1} samples of x/y",
        "Sample 0 from rgb",
    ):
        assert words in reader.text
    assert f"Sample {SHOWN - 1} " in reader.text and f"Sample {SHOWN} " not in reader.text


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences of a few words and grids in two steps: the demo's page, not the model, is looked at here."""
    from open4m.generation import defaults

    monkeypatch.setattr(defaults, "SEQUENCES", {name: replace(s, tokens=12) for name, s in defaults.SEQUENCES.items()})
    monkeypatch.setattr(defaults, "FROM_ANYTHING", GridDefaults(2, 1.0))
    monkeypatch.setattr(defaults, "FROM_ANYTHING_BY_MODALITY", {})


@pytest.mark.usefixtures("short")
def test_demo_page(model: AnyToAny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(tmp_path / "data", 2)
    monkeypatch.setattr(demo, "HELDOUT", tmp_path / "data")
    assert demo.SPLIT == SPLIT
    told: list[str] = []
    page = demo.run_demo(model, tmp_path / "out", index=1, seed=3, progress=told.append)
    assert page == tmp_path / "out" / "index.html" and told == [title for title, _, _ in demo.CHAINS]
    reader = self_contained(page)
    alts = [alt for alt, _ in reader.pictures]
    everything = set(model.targets)
    titles = {get_modality(name).card.title for name in everything}
    assert {alt.removesuffix(": prediction") for alt in alts if alt.endswith(": prediction")} == titles
    assert alts.count("RGB: given") == alts.count("Caption: given") == alts.count("Depth: given") == 1
    assert alts.count("Caption: prediction") == 1 and alts.count("RGB: prediction") == 2
    assert sum(alt.endswith(": truth") for alt in alts) == (len(everything) - 1) * 2 + len(demo.FROM_LAYOUT)
    assert "a red ball and 1 dogs" in reader.text and "Held-out scene 1, seed 3" in reader.text
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"index.html", "rgb", "caption", "depth_color_palette"}
    assert (tmp_path / "out" / "rgb" / "depth.png").is_file()
    with pytest.raises(DataError, match="no sample 2"):
        demo.run_demo(model, tmp_path / "other", index=2)
    assert not (tmp_path / "other").exists()
