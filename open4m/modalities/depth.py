"""Distance along the optical axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, DenseModality, Metric, token_stream
from open4m.modalities.checks import pairs, require_array
from open4m.modalities.drawing import fit_square, heat_map
from open4m.modalities.merging import Merged
from open4m.modalities.pictures import open_picture, png_bytes
from open4m.modalities.registry import register
from open4m.modalities.view import Resample, View
from open4m.streams import StreamSpec

MILLIMETRES = 1000.0
FULL_SCALE = 65_535
"""Largest value of the 16-bit file; the published normalisation works on value / FULL_SCALE."""
_FORM = "an (H, W) float32 array of metres with NaN where depth is unknown"
_FARTHEST_MEDIAN = 200.0
"""Metres. A map whose middle is farther away is in another unit: the file format ends at 65.535 m."""


class Depth(DenseModality[np.ndarray]):
    """(H, W) float32 metres, NaN = unknown.

    The tokens of the published stream hold *relative* depth: every picture is standardised on its own
    (:meth:`to_array`), so a prediction knows neither metres nor offset (:meth:`from_array`).
    """

    name = "depth"
    extensions = ("png",)
    channels = 1
    card = Card(
        title="Depth",
        description="Distance along the optical axis: (H, W) float32 metres, NaN = unknown. File: 16-bit PNG in "
        "millimetres, 0 = unknown. Predictions are relative: in robust standard deviations, nearest pixel at 1.",
        metrics={
            "abs_rel": Metric("", False),
            "l1": Metric("robust standard deviations", False),
            "delta1": Metric("", True),
        },
        source="Omnidata DPT-Hybrid v2 pseudo labels in the published system.",
    )

    def decode(self, data: bytes, source: str) -> np.ndarray:
        image = open_picture(data, source, self.name)
        if not image.mode.startswith("I"):
            raise ModalityError(
                self.name,
                source,
                f"found a picture of mode {image.mode!r}, expected a 16-bit grey PNG.",
                "Save depth as unsigned 16-bit millimetres (0 = unknown); 8-bit or coloured depth has lost its values.",
            )
        stored = np.asarray(image).astype(np.float32)
        if stored.min() < 0 or stored.max() > FULL_SCALE:
            raise ModalityError(self.name, source, "found 32-bit values beyond 65 535.", "Save it with 16 bits.")
        return np.where(stored > 0, stored / np.float32(MILLIMETRES), np.float32(np.nan))

    def encode(self, value: np.ndarray) -> bytes:
        """16-bit PNG in millimetres; more than 65.535 m is stored as 65.535 m, less than 1 mm as 1 mm."""
        self._check_form(value, "encode")
        stored = np.clip(np.rint(value.astype(np.float64) * MILLIMETRES), 1, FULL_SCALE)
        return png_bytes(np.nan_to_num(stored, nan=0.0).astype(np.uint16))

    def validate(self, value: np.ndarray, source: str) -> None:
        valid = self._check_form(value, source)
        if value.size > 1 and valid.min() == valid.max():
            fix = "Check that it is a depth map and was not clipped or scaled to nothing."
            raise ModalityError(self.name, source, f"all pixels have the same depth {valid.min():g}.", fix)
        median = float(np.median(valid))
        if median > _FARTHEST_MEDIAN:
            raise ModalityError(
                self.name,
                source,
                f"the median depth is {median:g}, expected metres.",
                "It looks like millimetres: give array / 1000 (and NaN where depth is unknown).",
            )

    def _check_form(self, value: np.ndarray, source: str) -> np.ndarray:
        """The known depths of a well-formed map (which a poor prediction is, too)."""
        value = require_array(value, self.name, source, _FORM)
        if value.ndim != 2 or value.dtype.kind != "f":
            fix = f"Give {_FORM}"
            if value.ndim == 2 and value.dtype.kind in "iu":
                fix += "; of whole millimetres with 0 = unknown: numpy.where(array > 0, array / 1000, numpy.nan)"
            raise ModalityError(self.name, source, f"found {value.dtype} {value.shape}.", f"{fix}.")
        valid = value[~np.isnan(value)]
        if not valid.size:
            raise ModalityError(self.name, source, "no pixel has a depth.", "Leave the modality out for this picture.")
        if np.isinf(valid).any():
            raise ModalityError(self.name, source, "some pixels are infinite.", "Mark unknown pixels with NaN.")
        if valid.min() <= 0:
            fix = "Give metres (not standardised or inverse depth) and mark unknown pixels with NaN."
            raise ModalityError(self.name, source, f"the smallest depth is {valid.min():g}, expected > 0.", fix)
        return valid

    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """Nearest neighbour (no depths between object and background are invented); NaN outside of the picture."""
        seen = view.array(np.nan_to_num(value, nan=0.0), Resample.NEAREST)
        return np.where(seen > 0, seen, np.float32(np.nan))

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """Turbo colours from near (blue) to far (red), from the 1st to the 99th percentile; unknown is dark grey."""
        valid = np.isfinite(value)
        low, high = np.percentile(value[valid], [1, 99]) if valid.any() else (0.0, 1.0)
        return fit_square(heat_map(value, low, high), size)

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        """The range. Predictions are relative, see the card."""
        known = value[np.isfinite(value)]
        if not known.size:
            return "no known pixel"
        unit = "robust standard deviations (relative)" if predicted else "m"
        return f"{known.min():.2f} … {known.max():.2f} {unit}"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """Means over pictures, on the pixels known in the truth.

        ``l1``: |difference| of both maps as standardised by :meth:`to_array` (4M-21, Table 1). ``abs_rel`` and
        ``delta1`` (share of pixels within a factor 1.25): in metres, after the prediction was fitted to the truth
        with the least-squares scale and shift.
        """
        scores: dict[str, list[float]] = {key: [] for key in self.card.metrics}
        for prediction, truth in pairs(self.name, predictions, truths):
            known = np.isfinite(truth)
            if not known.any():
                raise ModalityError(self.name, "score", "a truth has no known pixel.", "Leave it out.")
            predicted, standard = (side[known].astype(np.float64) for side in self._standard(prediction, truth))
            metres = truth[known].astype(np.float64)
            scores["l1"].append(float(np.abs(predicted - standard).mean()))
            columns = np.stack([predicted, np.ones_like(predicted)], axis=1)
            aligned = np.maximum(columns @ np.linalg.lstsq(columns, metres, rcond=None)[0], 1e-3)
            scores["abs_rel"].append(float((np.abs(aligned - metres) / metres).mean()))
            scores["delta1"].append(float((np.maximum(aligned / metres, metres / aligned) < 1.25).mean()))
        return {key: float(np.mean(values)) for key, values in scores.items()}

    def errors(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """(H, W) |difference| of the standardised maps, whose mean is the score ``l1``."""
        predicted, standard = self._standard(prediction, truth)
        return np.where(np.isfinite(truth), np.abs(predicted - standard), np.float32(np.nan))

    def _standard(self, prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both maps (H, W), standardised on the pixels that are known in the truth."""
        return self.to_array(np.where(np.isfinite(truth), prediction, np.nan))[0], self.to_array(truth)[0]

    def merge(self, values: Sequence[np.ndarray]) -> Merged[np.ndarray]:
        """Median of the standardised maps, as relative depth (:meth:`from_array`); their standard deviation."""
        known = np.isfinite(values).all(axis=0)
        maps = np.stack([self.to_array(value)[0] for value in values])
        middle = np.where(known, self.from_array(np.median(maps, axis=0)[None]), np.float32(np.nan))
        spread = np.where(known, maps.std(axis=0), np.float32(np.nan))
        return Merged(middle, spread, "robust standard deviations")

    def to_array(self, value: np.ndarray) -> np.ndarray:
        """(1, H, W) float32, robustly standardised; unknown pixels are 0.

        In the units of the file (value / 65 535): minus the mean, over sqrt(unbiased variance + 1e-6), both of the
        known pixels without the lowest and the highest 10 %.
        """
        stored = value.astype(np.float64) * (MILLIMETRES / FULL_SCALE)
        known = np.isfinite(stored)
        ordered = np.sort(stored[known])
        core = ordered[int(0.1 * ordered.size) : int(0.9 * ordered.size)]
        if core.size < 2:
            return np.zeros((1, *value.shape), dtype=np.float32)
        standard = (stored - core.mean()) / np.sqrt(core.var(ddof=1) + 1e-6)
        return np.where(known, standard, 0.0).astype(np.float32)[None]

    def from_array(self, array: np.ndarray) -> np.ndarray:
        """(1, H, W) standardised → (H, W) relative depth in the same units, shifted so that the nearest pixel is 1.

        The shift is arbitrary; it keeps predictions positive like every depth, so that they can be saved and given
        back to a model (standardisation removes it).
        """
        relative = array[0].astype(np.float32)
        return relative - relative.min() + np.float32(1.0)

    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        return (token_stream(self.name, self.name, image_size, patch_size, 8192),)


register(Depth())
