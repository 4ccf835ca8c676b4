"""Releasing a bundle: its card holds the scores that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tiny_bundle import bundle
from tiny_data import write_data

from open4m.hub.bundle import load_bundle, save_bundle
from recipes.release import Release, main


def test_the_card_has_scores_matrix_and_codebooks(tmp_path: Path) -> None:
    trained = bundle()
    info = replace(trained.info, provenance={"recipe": "scenes-tiny"})
    save_bundle(replace(trained, info=info), tmp_path / "bundle", torch.float32)
    write_data(tmp_path / "data", 3, names=("rgb", "depth", "caption", "color_palette"))
    (tmp_path / "notes.md").write_text("Where it is bad.")
    main(
        Release(
            tmp_path / "bundle", tmp_path / "out", tmp_path / "data", name="new", notes=tmp_path / "notes.md",
            report=tmp_path / "report", matrix_count=2,
        )
    )  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Where it is bad." in card and "open4m evaluate new --data data --limit 300 --matrix-count 2" in card
    assert "| target | score | constant | from rgb | from caption | bound | count |" in card
    assert "| given | depth | rgb | caption | color_palette |" in card
    assert "## Retrieval" in card and "| caption+depth |" in card
    assert "| tok_depth@32 | 24 |" in card and "tok_normal" not in card.partition("## Scores")[2]
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        *("report.json", "report.md", "index.html", "matrix.png"),
    }
    assert load_bundle(tmp_path / "out").info.name == "new"
