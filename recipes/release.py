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

from open4m.evaluation import Report, evaluate, read_values
from open4m.evaluation.tables import markdown
from open4m.generation.pipeline import AnyToAny
from open4m.hub.bundle import load_bundle, save_bundle
from open4m.streams import StreamKind
from recipes.scenes_tiny import pretrain_recipe

REQUESTS: tuple[tuple[tuple[str, ...], tuple[str, ...], int | None], ...] = (
    (("rgb",), (), None),
    (("caption",), ("rgb", "depth", "normal", "semseg"), 16),
    (("depth", "color_palette"), ("rgb", "normal", "semseg"), 16),
)
"""(given, asked for, samples) of the tables in the card; nothing asked for = all that is left, None = all samples.
Chains of many steps are scored on fewer samples: on two cores each takes seconds."""


@dataclass(frozen=True)
class Release:
    """What to release.

    Attributes:
        bundle: folder that ``open4m train pretrain`` made.
        heldout: data set with every label that nothing was trained on.
        out: folder of the released bundle.
        split: of the held-out data.
        name: of the released model.
        notes: Markdown file that opens the card's notes: data, recipe, compute, limits.
    """

    bundle: Path
    heldout: Path
    out: Path
    split: str = "heldout"
    name: str = "scenes-tiny"
    notes: Path | None = None


def main(release: Release) -> None:
    """Evaluate, write the card, save."""
    bundle = load_bundle(release.bundle)
    settings = pretrain_recipe(bundle.info.provenance["recipe"]).generation
    generation = {situation: dict(changes) for situation, changes in settings.items()}
    bundle = replace(bundle, info=replace(bundle.info, name=release.name, generation=generation))
    model = AnyToAny(bundle)
    names = [n for n in dict.fromkeys([*model.inputs, *model.targets]) if n != "t5_caption"]
    samples = read_values(release.heldout, release.split, names)
    parts = [release.notes.read_text(encoding="utf-8")] if release.notes else []
    for given, asked, limit in REQUESTS:
        Console().print(f"evaluating: {', '.join(given)} into {', '.join(asked) or 'everything'}")
        report, _ = evaluate(
            model, samples[:limit], given, asked or None, data=f"{release.heldout.name}/{release.split}"
        )
        parts.append(_scores(report, asked, limit))
    parts.append(_usage(model, samples))
    save_bundle(bundle, release.out, torch.bfloat16, "\n".join(parts))


def _scores(report: Report, asked: Sequence[str], limit: int | None) -> str:
    to = (f" --to {' '.join(asked)}" if asked else "") + (f" --limit {limit}" if limit else "")
    command = f"open4m evaluate {report.model} --given {' '.join(report.inputs)}{to}"
    what = f"{report.samples} held-out samples, one prediction each: `{command}`"
    return f"## {', '.join(report.inputs)} given\n\n{what}\n\n{markdown(report)}"


def _usage(model: AnyToAny, samples: Sequence[Mapping[str, Any]]) -> str:
    """Share of each codebook that the held-out data uses, and its perplexity."""
    lines = ["## Codebooks\n", "On the same samples.\n"]
    lines += ["| stream | codes | used | perplexity |", "|---|---:|---:|---:|"]
    for spec in model.bundle.model.config.targets:
        if spec.kind is not StreamKind.TOKENS:
            continue
        ids = torch.stack(list(model.tokenize({spec.modality: [s[spec.modality] for s in samples]})[spec.name]))
        tokenizer = model.bundle.tokenizer(spec.name)
        shape = spec.grid or tokenizer.config.token_shape
        usage = tokenizer.codebook_usage(ids.view(len(ids), *shape))
        lines.append(f"| {spec.name} | {spec.vocab_size} | {usage.used:.0%} | {usage.perplexity:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(tyro.cli(Release, description=__doc__))
