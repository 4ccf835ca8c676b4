"""Colour palettes: the one to seven dominant colours of a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations

import numpy as np
from PIL import Image, ImageDraw

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, TextModality
from open4m.modalities.checks import require_paired
from open4m.modalities.cielab import lab_to_rgb, rgb_to_lab
from open4m.modalities.drawing import GROUND
from open4m.modalities.grammar import END, Numbers, Terms, number_value, number_word, parse_number
from open4m.modalities.merging import Merged, medoid
from open4m.modalities.registry import register
from open4m.modalities.view import View

MAX_COLOURS = 7
DEFAULT_COLOURS = 5
_NO_PALETTE = 100.0
"""Distance (ΔE) that counts when nothing was predicted: black against white."""
_NEAR = 3 * 255 // 50


class ColorPalette(TextModality[np.ndarray]):
    """(k, 3) uint8 RGB colours; grammar of spec modalities §4.4."""

    name = "color_palette"
    card = Card(
        title="Palette",
        description="(k, 3) uint8: the k = 1…7 dominant colours, RGB. A prediction without colours has k = 0.",
        metrics={"delta_E": Metric("ΔE", False), "within_3_bins": Metric("", True)},
        source="PyPalette (4M-21, Sec. 3.1)",
    )
    extensions = ("json",)
    max_tokens = 23

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> np.ndarray:
        """The palette of five colours, or the largest there is; see :meth:`decode_all`."""
        palettes = {len(palette): palette for palette in self.decode_all(data, source)}
        return palettes.get(DEFAULT_COLOURS, palettes[max(palettes)])

    def decode_all(self, data: bytes, source: str) -> list[np.ndarray]:
        """Published JSON: a list whose first element maps ``"1"`` … ``"7"`` to k RGB triples. All, by k."""
        try:
            table = json.loads(data)[0]
            palettes = [np.array(table[key]) for key in sorted(table, key=int)]
            if not palettes:
                raise ValueError("no palette in it")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModalityError(
                self.name,
                source,
                f"not a palette file ({type(error).__name__}: {error}); "
                'expected [{"1": [[r, g, b]], "2": [[r, g, b], [r, g, b]], …}] with up to 7 colours.',
                "Make it with open4m.labeling.palette.extract_palettes and encode_all.",
            ) from error
        for palette in palettes:
            self._check(palette, source)
        return [palette.astype(np.uint8) for palette in palettes]

    def encode(self, value: np.ndarray) -> bytes:
        """A file with this palette only."""
        return self.encode_all([value])

    def encode_all(self, palettes: Sequence[np.ndarray]) -> bytes:
        """Bytes of a file with palettes of different sizes."""
        return json.dumps([{str(len(palette)): palette.tolist() for palette in palettes}]).encode()

    def validate(self, value: np.ndarray, source: str) -> None:
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8:
            found = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise ModalityError(
                self.name, source, f"found {found}, expected an array (k, 3) of uint8.", "Give RGB values 0…255."
            )
        self._check(value, source)

    def _check(self, value: np.ndarray, source: str) -> None:
        shape_fits = value.ndim == 2 and value.shape[1] == 3 and 1 <= len(value) <= MAX_COLOURS
        if not shape_fits or not np.issubdtype(value.dtype, np.integer) or value.min() < 0 or value.max() > 255:
            raise ModalityError(
                self.name,
                source,
                f"found {value.dtype} of shape {value.shape}, expected (k, 3) integers 0…255, k ≤ {MAX_COLOURS}.",
                "Scale colours in [0, 1] by 255 and round them.",
            )

    # -- geometry and pictures -----------------------------------------------------------------------------------
    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """A palette is that of the whole picture, whatever the crop (as published)."""
        return value

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """Upright stripes of equal width."""
        picture = Image.new("RGB", (size, size), GROUND)
        stripes = ImageDraw.Draw(picture)
        for index, colour in enumerate(value.tolist()):
            left, right = round(index * size / len(value)), round((index + 1) * size / len(value))
            stripes.rectangle((left, 0, right - 1, size - 1), fill=tuple(colour))
        return picture

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """Hexadecimal codes."""
        return " ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in value.tolist()) or "no colours"

    # -- words --------------------------------------------------------------------------------------------------
    def to_words(self, value: np.ndarray, rng: np.random.Generator | None = None) -> str:
        """``v1=<k>`` and 3 k words ``v0=<0…255>``. The choice of k is the choice of the value (``decode_all``)."""
        levels = [number_word(0, int(level)) for level in value.ravel()]
        return " ".join([number_word(1, len(value)), *levels])

    def from_words(self, words: str) -> np.ndarray:
        """Every three levels are a colour, up to seven; levels above 255 and an incomplete last colour are dropped."""
        numbers = [number for number in map(parse_number, words.split()) if number is not None]
        levels = [value for axis, value in numbers if axis == 0 and value <= 255]
        count = min(len(levels) // 3, MAX_COLOURS)
        return np.array(levels[: 3 * count], dtype=np.uint8).reshape(count, 3)

    def next_terms(self, terms: Sequence[str], room: int) -> Terms:
        """The number of colours, then three levels for each. The number is a request, not a property of the picture."""
        if not terms:
            count = max(1, min(DEFAULT_COLOURS, (room - 1) // 3))
            return Terms((Numbers(1, count, count),))
        return Terms((Numbers(0, 0, 255),)) if len(terms) <= 3 * number_value(terms[0]) else END

    # -- scores -------------------------------------------------------------------------------------------------
    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """``delta_E``: distance of two palettes (:func:`palette_distance`), averaged; without colours it counts 100.

        ``within_3_bins``: share of the levels (red, green, blue) of the true colours that the matched colour meets
        within three of the 50 bins in which metadata codes 0…255, that is, 15 levels. An unmatched colour is wrong.
        """
        require_paired(self.name, predictions, truths)
        pairs = list(zip(predictions, truths, strict=True))
        return {
            "delta_E": float(np.mean([palette_distance(p, t) for p, t in pairs])),
            "within_3_bins": float(np.mean([_share_near(p, t) for p, t in pairs])),
        }

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """The palette nearest to all others, its colours averaged (in Lab) with those that match them; (k,) mean ΔE.

        Only palettes with as many colours count.
        """
        reference = values[medoid(values, palette_distance)[0]]
        alike = [value for value in values if len(value) == len(reference)]
        lab = np.stack([rgb_to_lab(value[_match(_distances(reference, value))]) for value in alike])
        mean = lab.mean(axis=0)
        spread = np.linalg.norm(lab - mean, axis=-1).mean(axis=0)
        return Merged(lab_to_rgb(mean), spread.astype(np.float32), "ΔE")


def palette_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean ΔE (CIE 1976) between two palettes (k, 3) uint8, symmetric.

    Colours are matched one to one so that the distance is smallest. Those left over in the larger palette count with
    the nearest colour of the smaller, so that leaving out what is uncertain does not pay.
    """
    if not len(a) or not len(b):
        return _NO_PALETTE
    small, large = sorted((a, b), key=len)
    distances = _distances(small, large)
    matching = _match(distances)
    left_over = np.delete(distances.min(axis=0), matching)
    return float(np.concatenate([distances[np.arange(len(small)), matching], left_over]).mean())


def _share_near(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Share of the levels of ``truth`` that its match in ``prediction`` meets within :data:`_NEAR`."""
    if not len(prediction):
        return 0.0
    ours, theirs = prediction.astype(int), truth.astype(int)
    if len(ours) < len(theirs):
        theirs = theirs[_match(_distances(prediction, truth))]
    else:
        ours = ours[_match(_distances(truth, prediction))]
    return float((np.abs(ours - theirs) <= _NEAR).sum() / truth.size)


def _distances(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    return np.linalg.norm(rgb_to_lab(small)[:, None] - rgb_to_lab(large)[None], axis=-1)


def _match(distances: np.ndarray) -> np.ndarray:
    """Column of each row in the best one-to-one matching; there are at least as many columns as rows."""
    matchings = np.array(list(permutations(range(distances.shape[1]), distances.shape[0])))
    return matchings[distances[np.arange(len(distances)), matchings].mean(axis=1).argmin()]


register(ColorPalette())
