"""Captions as the hidden states of a language model (T5-XXL in the published models): an input only."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence

import numpy as np
from PIL import Image

from open4m.errors import ModalityError
from open4m.modalities.base import Card, Metric, Modality
from open4m.modalities.checks import require_array, require_finite, require_paired
from open4m.modalities.drawing import diverging, fit_square
from open4m.modalities.registry import register
from open4m.modalities.view import View
from open4m.streams import StreamKind, StreamSpec

MAX_LENGTH = 77
PUBLISHED_WIDTH = 4096
_FORM = "an array (words, width) of float32"


class T5Caption(Modality[np.ndarray]):
    """(L, E) float32, one vector per word piece. The width E is a property of the stream, not of the modality."""

    name = "t5_caption"
    card = Card(
        title="Caption embedding",
        description="(L, E) float32: hidden states of a text encoder, one row per word piece. Input only.",
        metrics={"cosine": Metric("", True)},
        source="T5-XXL encoder states of the caption, E = 4096, L ≤ 77 (4M-21, Sec. 3.1)",
    )
    extensions = ("npz",)

    # -- files ------------------------------------------------------------------------------------------------
    def decode(self, data: bytes, source: str) -> np.ndarray:
        """The first caption of a file; see :meth:`decode_all`."""
        return self.decode_all(data, source)[0]

    def decode_all(self, data: bytes, source: str) -> list[np.ndarray]:
        """Published npz: ``emb`` (S, L, E) and ``mask_valid`` (S, L) of S captions; only valid rows are kept."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                states, valid = archive["emb"].astype(np.float32), archive["mask_valid"].astype(bool)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ModalityError(
                self.name,
                source,
                f"not an npz file with the arrays 'emb' and 'mask_valid' ({type(error).__name__}: {error}).",
                "Save it with numpy.savez(path, emb=(S, L, E), mask_valid=(S, L)).",
            ) from error
        if states.ndim != 3 or valid.shape != states.shape[:2] or not len(states):
            raise ModalityError(
                self.name,
                source,
                f"'emb' has the shape {states.shape}, 'mask_valid' {valid.shape}; expected (S, L, E) and (S, L).",
                "Stack the captions along a first axis.",
            )
        return [rows[keep] for rows, keep in zip(states, valid, strict=True)]

    def encode(self, value: np.ndarray) -> bytes:
        """A file with one caption, in float16."""
        buffer = io.BytesIO()
        np.savez(buffer, emb=value[None].astype(np.float16), mask_valid=np.ones((1, len(value)), dtype=bool))
        return buffer.getvalue()

    def validate(self, value: np.ndarray, source: str) -> None:
        value = require_array(value, self.name, source, _FORM)
        if value.ndim != 2 or value.dtype != np.float32:
            raise ModalityError(
                self.name, source, f"found {value.dtype} of shape {value.shape}, expected {_FORM}.", "Convert it."
            )
        require_finite(value, self.name, source)

    # -- geometry, pictures, scores ----------------------------------------------------------------------------
    def apply(self, value: np.ndarray, view: View) -> np.ndarray:
        """A caption is about the whole picture, whatever the crop."""
        return value

    def draw(self, value: np.ndarray, size: int = 224, background: Image.Image | None = None) -> Image.Image:
        """One line per word piece: its vector averaged to 64 cells, blue negative, red positive."""
        cells = np.stack([part.mean(axis=1) for part in np.array_split(value, min(64, value.shape[1]), axis=1)], axis=1)
        colours = diverging(cells / max(float(np.abs(cells).max()), 1e-9))
        picture = Image.fromarray(colours).resize((size, size), Image.Resampling.NEAREST)
        return fit_square(picture, size)

    def describe(self, value: np.ndarray, predicted: bool = False) -> str:
        return f"{len(value)} word pieces × {value.shape[1]} numbers"

    def score(self, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
        """``cosine``: mean cosine similarity of the mean vectors of each pair."""
        require_paired(self.name, predictions, truths)
        cosines = []
        for prediction, truth in zip(predictions, truths, strict=True):
            a, b = prediction.mean(axis=0), truth.mean(axis=0)
            cosines.append(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
        return {"cosine": float(np.mean(cosines))}

    # -- the transformer's side ----------------------------------------------------------------------------------
    def streams(self, image_size: int, patch_size: int) -> tuple[StreamSpec, ...]:
        """The published stream: 77 vectors of width 4096, input only."""
        kind = StreamKind.EMBEDDING
        return (StreamSpec(self.name, self.name, kind, MAX_LENGTH, channels=PUBLISHED_WIDTH, is_target=False),)


register(T5Caption())
