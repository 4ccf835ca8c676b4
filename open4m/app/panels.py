"""Values as panels of a page: prediction beside truth, with its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from open4m.app.page import Panel
from open4m.evaluation.tables import number
from open4m.modalities.registry import get_modality

SIZE = 240
"""Side of the pictures on a page, in pixels."""


def background_of(values: Mapping[str, Any]) -> Image.Image | None:
    """The RGB picture of a sample, to draw overlays on."""
    return Image.fromarray(values["rgb"]) if "rgb" in values else None


def value_panel(name: str, value: Any, background: Image.Image | None, what: str, note: str = "") -> Panel:
    """One value on its own."""
    modality = get_modality(name)
    return Panel(modality.card.title, [(what, modality.draw(value, SIZE, _under(name, background)))], note=note)


def comparison(
    name: str,
    prediction: Any,
    truth: Any,
    background: Image.Image | None,
    *,
    predicted_over: Image.Image | None = None,
    note: str = "",
) -> Panel:
    """Prediction and truth side by side, scored.

    Args:
        background: the true picture, under the truth.
        predicted_over: the picture under the prediction, where it is another one.
    """
    modality = get_modality(name)
    scores = modality.score([prediction], [truth])
    units = modality.card.metrics
    texts = [(key, f"{number(value)} {units[key].unit}".strip()) for key, value in scores.items()]
    pictures = [
        ("prediction", modality.draw(prediction, SIZE, _under(name, predicted_over or background))),
        ("truth", modality.draw(truth, SIZE, _under(name, background))),
    ]
    return Panel(modality.card.title, pictures, texts, note)


def comparisons(
    predictions: Mapping[str, Any], truths: Mapping[str, Any], names: Iterable[str], notes: Mapping[str, str]
) -> Sequence[Panel]:
    """:func:`comparison` of several modalities of one sample; overlays lie on the pictures of their own side."""
    under = background_of(truths)
    over = background_of(predictions)
    return [
        comparison(name, predictions[name], truths[name], under, predicted_over=over, note=notes.get(name, ""))
        for name in names
    ]


def _under(name: str, background: Image.Image | None) -> Image.Image | None:
    return None if name == "rgb" else background
