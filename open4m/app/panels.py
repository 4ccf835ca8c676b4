"""Values as panels of a page: on their own, or prediction beside truth with its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from open4m.app.page import Panel, Picture
from open4m.evaluation.tables import number
from open4m.modalities.registry import get_modality

SIZE = 240
"""Side of the pictures on a page, in pixels."""


def background_of(values: Mapping[str, Any]) -> Image.Image | None:
    """The RGB picture of a sample, to draw overlays on."""
    return Image.fromarray(values["rgb"]) if "rgb" in values else None


def generated_panel(name: str, value: Any, background: Image.Image | None) -> Panel:
    """What a model made, on its own."""
    return Panel(get_modality(name).card.title, [_picture(name, value, background, "", predicted=True)])


def given_panels(values: Mapping[str, Any], names: Iterable[str]) -> list[Panel]:
    """What a model was given; overlays lie on the picture only if it was given, too."""
    names = list(names)
    background = background_of(values) if "rgb" in names else None
    return [
        Panel(get_modality(name).card.title, [_picture(name, values[name], background, "given", predicted=False)])
        for name in names
    ]


def comparison(
    name: str,
    prediction: Any,
    truth: Any,
    background: Image.Image | None,
    predicted_over: Image.Image | None = None,
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
        _picture(name, prediction, predicted_over or background, "prediction", predicted=True),
        _picture(name, truth, background, "truth", predicted=False),
    ]
    return Panel(modality.card.title, pictures, texts)


def comparisons(predictions: Mapping[str, Any], truths: Mapping[str, Any], names: Iterable[str]) -> Sequence[Panel]:
    """:func:`comparison` of several modalities of one sample; overlays lie on the pictures of their own side."""
    under = background_of(truths)
    over = background_of(predictions)
    return [comparison(name, predictions[name], truths[name], under, over) for name in names]


def _picture(name: str, value: Any, background: Image.Image | None, what: str, predicted: bool) -> Picture:
    modality = get_modality(name)
    image = modality.draw(value, SIZE, None if name == "rgb" else background)
    return Picture(what, image, modality.describe(value, predicted))
