"""From a trained bundle to one that ships: held-out scores, codebook usage and the model card.

python -m recipes.release --bundle model/bundle --heldout data --out open4m/assets/scenes-tiny
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console

from open4m.app.gallery import MATRIX, SCORES, write_report
from open4m.evaluation import Matrix, Report, Retrieval, any_to_any, evaluate, evaluation_samples, retrieval
from open4m.evaluation.heldout import SPLIT, views_in_a_row
from open4m.evaluation.retrieval import header_and_rows, summary
from open4m.evaluation.tables import markdown, markdown_table, share_rows
from open4m.files import write_json
from open4m.generation.pipeline import AnyToAny
from open4m.hub.bundle import load_bundle, save_bundle
from open4m.streams import StreamKind
from recipes.scenes_tiny import pretrain_recipe


@dataclass(frozen=True)
class Release:
    """What to release.

    Attributes:
        bundle: folder that ``open4m train pretrain`` made.
        out: folder of the released bundle.
        heldout: data set that nothing was trained on; default: the held-out scenes of ``open4m evaluate``.
        split: of ``heldout``.
        name: of the released model.
        notes: Markdown file that opens the card's notes: data, recipe, compute, limits.
        report: folder for the whole report: pictures, page, JSON.
        limit: only the first so many samples.
        matrix_count: samples of the any-to-any matrix.
    """

    bundle: Path
    out: Path
    heldout: Path | None = None
    split: str = SPLIT
    name: str = "scenes-tiny"
    notes: Path | None = None
    report: Path | None = None
    limit: int = 300
    matrix_count: int = 32


def main(release: Release) -> None:
    """Evaluate, write the card, save."""
    bundle = load_bundle(release.bundle)
    settings = pretrain_recipe(bundle.info.provenance["recipe"]).generation
    generation = {situation: dict(changes) for situation, changes in settings.items()}
    bundle = replace(bundle, info=replace(bundle.info, name=release.name, generation=generation))
    model, told = AnyToAny(bundle), Console()

    def tell(what: str, done: int, total: int) -> None:
        told.print(f"{what}: {done} of {total}")

    samples, source = evaluation_samples(model, release.heldout, release.split, release.limit)
    report, predictions = evaluate(model, samples, data=source, progress=tell)
    matrix = any_to_any(model, samples, report, release.matrix_count, progress=tell)
    views = views_in_a_row(release.heldout)
    retrieved = retrieval(model, samples, release.limit, views=views, progress=tell)
    if release.report is not None:
        tables = {"matrix": matrix.to_dict(), "retrieval": retrieved.to_dict()}
        write_json(release.report / "report.json", report.to_dict() | tables)
        write_report(release.report, report, matrix, samples, predictions, retrieved)
    notes = [release.notes.read_text(encoding="utf-8")] if release.notes else []
    parts = [*notes, _scores(report, matrix, retrieved, release), _usage(model, samples)]
    save_bundle(bundle, release.out, torch.bfloat16, "\n".join(parts))


def _scores(report: Report, matrix: Matrix, retrieved: Retrieval, release: Release) -> str:
    split = "" if release.split == SPLIT else f" --split {release.split}"
    data = f" --data {release.heldout.name}{split}" if release.heldout else ""
    command = f"open4m evaluate {report.model}{data} --limit {release.limit} --matrix-count {release.matrix_count}"
    return "\n".join(
        [
            "## Scores\n",
            f"`{command}`: {report.samples} samples of {report.data}, one prediction each.\n",
            f"{SCORES}\n",
            markdown(report),
            "## Any to any\n",
            f"{MATRIX} Here in percent of the way from the one to the other, on {matrix.count} samples.\n",
            markdown_table(*share_rows(matrix)),
            "## Retrieval\n",
            f"{summary(retrieved)}\n",
            markdown_table(*header_and_rows(retrieved)),
        ]
    )


def _usage(model: AnyToAny, samples: Sequence[Mapping[str, Any]]) -> str:
    """Share of each codebook that the held-out data uses, and its perplexity."""
    lines = ["## Codebooks\n", "On the same samples.\n"]
    lines += ["| stream | codes | used | perplexity |", "|---|---:|---:|---:|"]
    for spec in model.bundle.model.config.targets:
        values = [sample[spec.modality] for sample in samples if spec.modality in sample]
        if spec.kind is not StreamKind.TOKENS or not values:
            continue
        ids = torch.stack(list(model.tokenize({spec.name: values})[spec.name]))
        tokenizer = model.bundle.tokenizer(spec.name)
        shape = spec.grid or tokenizer.config.token_shape
        usage = tokenizer.codebook_usage(ids.view(len(ids), *shape))
        lines.append(f"| {spec.name} | {spec.vocab_size} | {usage.used:.0%} | {usage.perplexity:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Release, description=__doc__))
