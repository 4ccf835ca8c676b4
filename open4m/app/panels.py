"""Values as panels of a page: on their own, or prediction beside truth with its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PIL import Image

from open4m.app.page import Panel, Picture
from open4m.evaluation.tables import number
from open4m.generation.result import Item, draw_together
from open4m.modalities.registry import get_modality

SIZE = 240
"""Side of the pictures on a page, in pixels."""


def background_of(values: Mapping[str, Any]) -> Image.Image | None:
    """The RGB picture of a sample, to draw overlays on."""
    return Image.fromarray(values["rgb"]) if "rgb" in values else None


def generated_panels(items: Sequence[Item]) -> list[Panel]:
    """What a model made of one modality, a panel per item; pictures that are compared are drawn alike."""
    size = max(SIZE, *(item.size for item in items))
    return [
        Panel(item.modality.card.title, [Picture("", image, item.modality.describe(item.value, predicted=True))])
        for item, image in zip(items, draw_together(items, size), strict=True)
    ]


def given_panels(values: Mapping[str, Any], names: Iterable[str]) -> list[Panel]:
    """What a model was given; overlays lie on the picture only if it was given, too."""
    names = list(names)
    background = background_of(values) if "rgb" in names else None
    panels = []
    for name in names:
        modality, value = get_modality(name), values[name]
        image = modality.draw(value, SIZE, None if name == "rgb" else background)
        panels.append(Panel(modality.card.title, [Picture("given", image, modality.describe(value))]))
    return panels


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
    grounds = [None if name == "rgb" else ground for ground in (predicted_over or background, background)]
    images = modality.draw_all([prediction, truth], SIZE, grounds)
    pictures = [
        Picture("prediction", images[0], modality.describe(prediction, predicted=True)),
        Picture("truth", images[1], modality.describe(truth, predicted=False)),
    ]
    return Panel(modality.card.title, pictures, texts)


def comparisons(predictions: Mapping[str, Any], truths: Mapping[str, Any], names: Iterable[str]) -> Sequence[Panel]:
    """:func:`comparison` of several modalities of one sample; overlays lie on the pictures of their own side."""
    under = background_of(truths)
    over = background_of(predictions)
    return [comparison(name, predictions[name], truths[name], under, over) for name in names]
