"""Semantic segmentation with the classes of COCO-panoptic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array
from open4m.modalities.coco import COLOURS, PANOPTIC_CLASSES, panoptic_colours
from open4m.modalities.drawing import Colour, fit_square
from open4m.modalities.drawing import legend as draw_legend
from open4m.modalities.merging import Merged
from open4m.modalities.pictures import open_picture, png_bytes
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import StreamSpec

CLASSES = len(PANOPTIC_CLASSES)
FILE_NONE = 255
_DESCRIBED = 6
_FORM = f"an (H, W) uint8 array: 0 = none, 1…{CLASSES} COCO-panoptic"


class Semseg(DenseModality[np.ndarray]):
    """(H, W) uint8: 0 = none, 1…133 = contiguous COCO-panoptic id + 1."""

    name = "semseg"
    extensions = ("png",)
    channels = 64  # width of the published class embedding; the tokenizer embeds the ids itself
    card = Card(
        title="Semantic segmentation",
        description=f"Class of every pixel: (H, W) uint8, 0 = none, 1…{CLASSES} COCO-panoptic (contiguous id + 1). "
        "File: 8-bit grey PNG holding the contiguous id, 255 = none.",
        metrics={"miou": Metric("", True), "pixel_accuracy": Metric("", True)},
        source="Mask2Former Swin-B (COCO-panoptic) pseudo labels in the published system.",
    )

    def decode(self, data: bytes, source: str) -> np.ndarray:
        image = open_picture(data, source, self.name)
        if image.mode not in ("L", "P"):
            raise ModalityError(
                self.name,
                source,
                f"found a picture of mode {image.mode!r}, expected 8-bit grey (or palette) class ids.",
                "Save the ids 0…132 (255 = none) as an 8-bit grey PNG, not the coloured picture of them.",
            )
        stored = np.asarray(image)
        wrong = np.unique(stored[(stored >= CLASSES) & (stored != FILE_NONE)])
        if wrong.size:
            raise ModalityError(
                self.name,
                source,
                f"found the ids {', '.join(str(v) for v in wrong[:8])}; expected 0…{CLASSES - 1}, or 255 for none.",
                "Map official COCO category ids (up to 200) to contiguous ones: open4m.modalities.coco.",
            )
        return stored + np.uint8(1)  # 255 wraps to 0, "none"

    def encode(self, value: np.ndarray) -> bytes:
        self.validate(value, "encode")
        return png_bytes(value - np.uint8(1))

    def validate(self, value: np.ndarray, source: str) -> None:
        value = require_array(value, self.name, source, _FORM)
        if value.ndim != 2 or value.dtype != np.uint8:
            fix = f"Give {_FORM}"
            if value.ndim == 2 and value.dtype.kind in "iub":
                fix += "; convert with astype(numpy.uint8) after mapping ignored pixels to 0"
            elif value.ndim == 3:
                fix += "; colours are not class ids, and logits need argmax first"
            raise ModalityError(self.name, source, f"found {value.dtype} {value.shape}.", f"{fix}.")
        if value.max() > CLASSES:
            wrong = np.unique(value[value > CLASSES])
            fix = "Values are the contiguous id + 1 with 0 = none; "
            if 255 in wrong:
                fix += "255 stands for none in files only: numpy.where(array == 255, 0, array + 1)."
            else:
                fix += "map official COCO category ids (up to 200) with open4m.modalities.coco.panoptic_value(name)."
            found = ", ".join(str(v) for v in wrong[:8])
            raise ModalityError(self.name, source, f"found the values {found}, expected 0…{CLASSES}.", fix)

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Nearest neighbour; 0 outside of the picture."""
        return np.array(view.image(Image.fromarray(value), Resample.NEAREST))

    def draw(
        self, value: np.ndarray, size: int = 224, background: Image.Image | None = None, legend: bool = False
    ) -> Image.Image:
        """Official COCO-panoptic colours, laid over ``background`` where one is given.

        Args:
            legend: name the classes in the picture, the largest first.
        """
        picture = fit_square(Image.fromarray(panoptic_colours()[value]), size, smooth=False)
        if background is not None:
            picture = Image.blend(fit_square(background, size), picture, 0.6)
        if legend:
            draw_legend(picture, self.legend_entries(value))
        return picture

    def legend_entries(self, value: np.ndarray) -> list[tuple[str, Colour]]:
        """(name, colour) of the classes in a map, the largest first."""
        counts = np.bincount(value.ravel(), minlength=CLASSES + 1)[1:]
        order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return [(PANOPTIC_CLASSES[i], COLOURS[i]) for i in order]

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """The largest classes with their share of the picture."""
        shares = np.bincount(value.ravel(), minlength=CLASSES + 1)[1:] / value.size
        largest = [i for i in np.argsort(-shares, kind="stable")[:_DESCRIBED] if shares[i] >= 0.005]
        return ", ".join(f"{PANOPTIC_CLASSES[i]} {shares[i]:.0%}" for i in largest) or "no classes"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """Accumulated over the whole list, on the pixels that have a class in the truth.

        ``miou``: intersection over union, averaged over the classes that occur in the truth.
        """
        confusion = np.zeros((CLASSES + 1, CLASSES + 1), dtype=np.int64)
        for prediction, truth in pairs(self.name, predictions, truths):
            known = truth > 0
            cells = truth[known].astype(np.int64) * (CLASSES + 1) + prediction[known]
            confusion += np.bincount(cells, minlength=confusion.size).reshape(confusion.shape)
        true, predicted, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
        present = true > 0
        if not present.any():
            raise ModalityError(self.name, "score", "no truth holds a class.", "Leave out empty maps.")
        iou = hits[present] / (true + predicted - hits)[present]
        return {"miou": float(iou.mean()), "pixel_accuracy": float(hits.sum() / true.sum())}

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(H, W) 1 where the class is wrong, 0 where it is right, NaN where there is none in the truth."""
        return np.where(truth > 0, (prediction != truth).astype(np.float32), np.float32(np.nan))

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """The class with the most votes (of a tie, the lower number); the entropy of the votes in bits."""
        labels = np.unique(values)
        shares = np.stack([np.mean([value == label for value in values], axis=0) for label in labels])
        entropy = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(axis=0)
        return Merged(labels[shares.argmax(axis=0)], np.abs(entropy).astype(np.float32), "bits")

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(H, W) int64 class values 0…133."""
        return value.astype(np.int64)

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(134, H, W) logits → the likeliest value of every pixel."""
        return array.argmax(axis=0).astype(np.uint8)

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        return (token_stream(self.name, self.name, image_size, patch_size, 4096),)


register(Semseg())
