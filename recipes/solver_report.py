"""What few steps of a diffusion decoder cost: held-out values decoded with both solvers and several numbers of steps.

    python -m recipes.solver_report --data data --tokenizer tokenizers/depth-diffusion

The tokens of every value are decoded from the same noise each time. Prints a table: scores of the modality against the
truth, distance to the path that is followed with 250 steps, seconds; and the fewest steps of DPM-Solver++ whose scores
are no worse than those of the reference's 50 DDIM steps, and whose values are no further from that path.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track

from open4m.evaluation.tables import markdown_table, number
from open4m.tokenizers.base import Tokenizer
from open4m.tokenizers.diffusion import Sampling
from open4m.tokenizers.io import load_tokenizer
from open4m.training.tokenizer_task import TokenizerData, tokenizer_inputs

REFERENCE = Sampling(50, solver="ddim")
EXACT = Sampling(250, solver="ddim")
BATCH = 16


@dataclass(frozen=True)
class SolverReport:
    """What is decoded, and how.

    Attributes:
        data: root of a data set.
        tokenizer: folder of a tokenizer with a diffusion decoder.
        modality: that it serves.
        split: of the data.
        count: values, evenly spread over the split.
        ddim, dpm: numbers of steps.
    """

    data: Path
    tokenizer: Path
    modality: str = "depth"
    split: str = "val"
    count: int = 48
    ddim: tuple[int, ...] = (5, 10, 25, 50)
    dpm: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 10, 12)


@dataclass(frozen=True)
class Decoded:
    """Values decoded in one way.

    Attributes:
        sampling: the way.
        scores: of the modality, against the truth.
        distance: root mean square to the values of :data:`EXACT`, in the tokenizer's units.
        seconds: of one value.
    """

    sampling: Sampling
    scores: dict[str, float]
    distance: float
    seconds: float

    def numbers(self) -> list[float]:
        """The row of the table."""
        return [*self.scores.values(), self.distance, self.seconds]


def main(report: SolverReport) -> None:
    """Decode in every way, print the table."""
    model = load_tokenizer(report.tokenizer)
    data = TokenizerData(report.data, report.split, report.modality, model.config.image_size)
    values = data.spread(report.count)
    with torch.inference_mode():
        ids = torch.cat([model.tokenize(tokenizer_inputs(data.modality, value)) for value in values])
    exact, _ = _decode(model, ids, EXACT)
    ways = [Sampling(n, solver="ddim") for n in report.ddim] + [Sampling(n, solver="dpm++") for n in report.dpm]
    rows = [_score(data.modality, values, model, ids, way, exact) for way in track(ways, "decoding")]
    head = ("solver", "steps", *rows[0].scores, "distance to 250 steps", "seconds a value")
    cells = [(str(row.sampling.solver), str(row.sampling.steps), *map(number, row.numbers())) for row in rows]
    Console(soft_wrap=True).print(markdown_table(head, cells), highlight=False)
    allowed = _score(data.modality, values, model, ids, REFERENCE, exact)
    good = [row for row in rows if row.sampling.solver == "dpm++" and _as_good(data.modality, row, allowed)]
    fewest = min((row.sampling.steps for row in good), default="none")
    Console().print(f"fewest steps of dpm++ as good as {REFERENCE.steps} of ddim: {fewest}")


def _decode(model: Tokenizer, ids: torch.Tensor, sampling: Sampling) -> tuple[np.ndarray, float]:
    """Arrays (N, C, H, W), and the seconds of one; every value has the same noise in all ways."""
    begun = time.perf_counter()
    parts = [model.decode_tokens(part, sampling).float() for part in ids.split(BATCH)]
    return torch.cat(parts).numpy(), (time.perf_counter() - begun) / len(ids)


def _score(
    modality: Any, values: Sequence[Any], model: Tokenizer, ids: torch.Tensor, sampling: Sampling, exact: np.ndarray
) -> Decoded:
    arrays, seconds = _decode(model, ids, sampling)
    scores = modality.score([modality.from_array(array) for array in arrays], values)
    return Decoded(sampling, scores, float(np.sqrt(np.square(arrays - exact).mean())), seconds)


def _as_good(modality: Any, row: Decoded, allowed: Decoded) -> bool:
    better = {name: 1 if metric.higher_is_better else -1 for name, metric in modality.card.metrics.items()}
    as_right = all(better[name] * (row.scores[name] - allowed.scores[name]) >= 0 for name in row.scores)
    return as_right and row.distance <= allowed.distance


if __name__ == "__main__":
    main(tyro.cli(SolverReport, description=__doc__))
