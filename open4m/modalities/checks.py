"""Checks that several modalities share; every one raises :class:`ModalityError` with a fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from open4m.errors import ModalityError


def require_array(value: object, modality: str, source: str, form: str) -> np.ndarray:
    """``value`` if it is a non-empty numpy array; ``form`` describes the expected one in messages."""
    if not isinstance(value, np.ndarray):
        raise ModalityError(
            modality, source, f"found {type(value).__name__}, expected {form}.", "Convert it with numpy.asarray first."
        )
    if value.size == 0:
        raise ModalityError(modality, source, f"the array of shape {value.shape} is empty.", f"Give {form}.")
    return value


def require_finite(value: np.ndarray, modality: str, source: str) -> None:
    """Refuse NaN and infinity."""
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
    if bad:
        raise ModalityError(
            modality, source, f"{bad} of {value.size} numbers are NaN or infinite.", "Find out where they come from."
        )


def require_rows(tokens: np.ndarray, count: int, modality: str) -> None:
    """Refuse a table of tokenizer ids with fewer rows than there are items."""
    if len(tokens) < count:
        raise ModalityError(
            modality, "tokens", f"found {len(tokens)} rows of ids for {count} items.", "Tokenize the data again."
        )


def require_paired(modality: str, predictions: Sequence[object], truths: Sequence[object]) -> None:
    """Refuse lists that cannot be compared one by one: empty or of unequal length."""
    if len(predictions) != len(truths) or not truths:
        raise ModalityError(
            modality,
            "score",
            f"{len(predictions)} predictions against {len(truths)} truths.",
            "Give two lists of the same length, with at least one element.",
        )


def pairs(
    modality: str, predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (prediction, truth) of equal shape, for scores; refuses empty, unequal or mis-shaped lists."""
    require_paired(modality, predictions, truths)
    for index, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        if prediction.shape != truth.shape:
            raise ModalityError(
                modality,
                f"score, element {index}",
                f"the prediction has shape {prediction.shape}, the truth {truth.shape}.",
                "Bring both to one size with Modality.apply(value, View.full(...)).",
            )
        yield prediction, truth
