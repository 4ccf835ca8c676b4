"""The demo: one held-out scene into every modality, a caption into every modality, depth and colours into a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from open4m.app.page import Section, write_page
from open4m.app.panels import comparisons, given_panels
from open4m.evaluation.heldout import HELDOUT, SPLIT
from open4m.evaluation.samples import read_values
from open4m.generation.pipeline import AnyToAny

CHAINS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("A picture into everything", ("rgb",), "The picture is all that the model sees."),
    (
        "A caption into everything",
        ("caption",),
        "The model sees this sentence only. Many pictures fit it, so the truth beside it is one of many right answers.",
    ),
    (
        "Depth and colours into a picture",
        ("depth", "color_palette"),
        "The model sees how far things are and which colours there should be.",
    ),
)
"""(title, what is given, what to know) of the parts of the page."""

FROM_LAYOUT = ("rgb", "normal", "semseg")
"""What is asked for when geometry is given."""


def run_demo(
    model: AnyToAny, out: Path, index: int = 0, seed: int = 0, progress: Callable[[str], None] | None = None
) -> Path:
    """Write ``out/index.html`` (self-contained) and the generated values, and return the page's path.

    Args:
        index: which of the held-out scenes.
        progress: called with the title of each part before it is generated.

    Raises:
        DataError: there is no such scene.
    """
    names = tuple(dict.fromkeys([*model.inputs, *model.targets]))
    truth = model.view(read_values(HELDOUT, SPLIT, [n for n in names if n != "t5_caption"], 1, index)[0])
    sections = []
    for title, given, intro in CHAINS:
        if progress is not None:
            progress(title)
        targets = FROM_LAYOUT if "depth" in given else [t for t in model.targets if t not in given and t in truth]
        sections.append(_section(model, title, intro, given, targets, truth, out, seed))
    card = model.bundle.info
    footer = (
        f"Model {card.name}, licence of the weights: {card.licence}. Held-out scene {index}, seed {seed}.\n"
        "Scores of a single picture say little; `open4m evaluate` scores the model on many.\n"
        "CLIP, DINOv2, ImageBind and T5 are stand-ins here (see the model card): the published teachers are not used."
    )
    page = out / "index.html"
    write_page(page, "open4m: any to any", card.description, sections, footer)
    return page


def _section(
    model: AnyToAny,
    title: str,
    intro: str,
    given: Sequence[str],
    targets: Sequence[str],
    truth: Mapping[str, Any],
    out: Path,
    seed: int,
) -> Section:
    result = model.generate({name: truth[name] for name in given}, targets, seed=seed)
    result.save(out / "_".join(given))
    sample = result.samples[0]
    predictions = {name: sample[name].value for name in targets}
    return Section(title, intro, given_panels(truth, given), comparisons(predictions, truth, targets))
