"""Tokenizers of one modality side by side: held-out values after encoding and decoding, with scores and times.

    python -m recipes.tokenizer_report --data data --tokenizers tokenizers --out out/tokenizers

By default the VQ decoder of depth beside the diffusion decoder of the same tokens (open4m train tokenizer depth, then
depth-diffusion). Writes ``index.html``, one self-contained page, and ``scores.json``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console


@dataclass(frozen=True)
class TokenizerReport:
    """What is compared.

    Attributes:
        data: root of a data set.
        tokenizers: folder of trained tokenizers.
        names: of the tokenizers, all of the same modality.
        split: of the data.
        count: values that the scores are computed on, evenly spread over the split.
        shown: of them on the page.
        out: folder for page and scores.
    """

    data: Path
    tokenizers: Path
    names: tuple[str, ...] = ("depth", "depth-diffusion")
    split: str = "val"
    count: int = 64
    shown: int = 8
    out: Path = Path("out/tokenizers")


def main(report: TokenizerReport) -> None:
    """Decode with every tokenizer, score, write the page."""
    from open4m.app.page import Panel, Picture, Section, Table, write_page
    from open4m.app.panels import SIZE
    from open4m.errors import DataError
    from open4m.evaluation.tables import number
    from open4m.files import write_json
    from open4m.tokenizers.io import load_tokenizer
    from open4m.training.tokenizer_task import TokenizerData, through_tokens
    from recipes.tokenizers import tokenizer_recipe

    modalities = {tokenizer_recipe(name).modalities for name in report.names}
    if len(modalities) != 1:
        raise DataError(f"{', '.join(report.names)} are tokenizers of different modalities. Name those of one.")
    models = {name: load_tokenizer(report.tokenizers / name) for name in report.names}
    size = next(iter(models.values())).config.image_size
    data = TokenizerData(report.data, report.split, modalities.pop()[0], size)
    modality, values = data.modality, data.spread(report.count)

    decoded: dict[str, list[Any]] = {}
    scores: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        start = time.perf_counter()
        decoded[name], _ = through_tokens(modality, values, model)
        seconds = (time.perf_counter() - start) / len(values)
        scores[name] = modality.score(decoded[name], values) | {"seconds": seconds}

    def picture(what: str, value: Any, row: int) -> Picture:
        found = {} if what == "truth" else modality.score([value], [values[row]])
        return Picture(what, modality.draw(value, SIZE), ", ".join(f"{k} {number(v)}" for k, v in found.items()))

    columns = list(next(iter(scores.values())))
    header = ("tokenizer", "decoder", *columns)
    rows = [(name, models[name].config.dec_type, *map(number, scores[name].values())) for name in models]
    shown = [
        Panel(f"Value {row}", [picture(what, found[row], row) for what, found in {"truth": values, **decoded}.items()])
        for row in range(min(report.shown, len(values)))
    ]
    write_page(
        report.out / "index.html",
        f"{modality.card.title} through tokens and back",
        f"{len(values)} values of {report.data.name}/{report.split}; encoding and decoding, seconds per value.",
        [Section("Scores", tables=[Table(header, rows)]), Section("Values", panels=shown)],
        "python -m recipes.tokenizer_report",
    )
    write_json(report.out / "scores.json", scores)
    for row in rows:
        Console().print(*row, highlight=False)
    Console().print(report.out / "index.html", highlight=False)


if __name__ == "__main__":
    main(tyro.cli(TokenizerReport, description=__doc__))
