"""Retrieval on held-out data: how often what belongs to a sample finds it among all samples (4M-21, section 4.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from open4m.errors import GenerationError
from open4m.evaluation.evaluate import Given, Progress, label
from open4m.evaluation.measures import Sample, ranks
from open4m.generation.pipeline import AnyToAny
from open4m.retrieval.embedding import Embedder, spaces_of

WRITTEN = ("caption", "depth", "semseg", "det", "metadata", "color_palette")
"""What people describe or sketch a picture by: their pairs are queries, too."""

PICTURES, FEATURES = "pictures", "features"
"""The galleries: vectors predicted from the picture of every sample; the true features, where the data has them."""

COUNT = 300
"""Samples of a full table."""

_DEPTHS = (1, 5)
_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class QueryScores:
    """How well one kind of query finds its own sample.

    Attributes:
        given: modalities of the query, seen together.
        recall: gallery → ``recall@1`` and ``recall@5`` and the ``median_rank`` of the right sample (1 = first, ties
            count against it). A gallery that a query is made of itself is left out.
    """

    given: Given
    recall: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Retrieval:
    """A table of retrieval.

    Attributes:
        spaces: the features that were compared.
        count: samples in a gallery; by chance, recall@k is k / count.
        searches: queries of each kind: those of all galleries.
        galleries: which there are: :data:`PICTURES`, :data:`FEATURES`.
        queries: single modalities, then pairs.
        gains: gallery → the mean of :meth:`gain` over all pairs, and its standard deviation when samples are drawn anew
            (bootstrap), views of one scene together. Galleries that pairs do not search are left out.
    """

    spaces: tuple[str, ...]
    count: int
    searches: int
    galleries: tuple[str, ...]
    queries: tuple[QueryScores, ...]
    gains: dict[str, tuple[float, float]]

    def gain(self, given: Given, gallery: str) -> float:
        """How much higher the recall@5 of a pair is than that of the better one of its two parts."""
        found = {query.given: query.recall[gallery]["recall@5"] for query in self.queries if gallery in query.recall}
        parts = [found.get((name,), math.nan) for name in given]
        return found.get(given, math.nan) - max(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def retrieval(
    model: AnyToAny,
    samples: Sequence[Sample],
    count: int = COUNT,
    *,
    views: int = 1,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Retrieval:
    """Search the samples by each modality that all of them hold, and by pairs of :data:`WRITTEN`.

    Args:
        samples: held-out values (:func:`~open4m.evaluation.samples.read_values`) as the model sees them; those with a
            picture are used, as many as fill galleries of ``count``. Of fewer than ``count`` all.
        count: samples in a gallery. What is found in several is counted together: a gallery of another size would be
            another task, and one alone leaves recall@5 uncertain by some .02.
        views: that many samples in a row show one scene: found or missed alike, they say less than as many scenes.

    Raises:
        GenerationError: the model predicts no global feature, or a gallery has fewer than two pictures.
    """
    embedder = Embedder(model)
    used = [sample for sample in samples if "rgb" in sample]
    if len(used) < 2:
        raise GenerationError(f"{len(used)} samples hold a picture; retrieval needs at least two.")
    if count < 2:
        raise GenerationError(f"A gallery of {count}: whatever is searched for would be the first. Expected 2 or more.")
    count = min(count, len(used))
    sets = [used[start : start + count] for start in range(0, len(used) - count + 1, count)]
    used = [sample for members in sets for sample in members]
    held = [name for name in model.inputs if all(name in sample for sample in used)]
    pairs = list(combinations([name for name in WRITTEN if name in held], 2))
    true = [embedder.spaces] if all(name in sample for name in embedder.spaces for sample in used) else []
    sources: list[Given] = [("rgb",), *true]
    vectors: dict[Given, np.ndarray] = {}
    wanted = list(dict.fromkeys([*sources, *((name,) for name in held), *pairs]))
    for done, given in enumerate(wanted, 1):
        vectors[given] = _embed(embedder, used, given, batch_size)
        if progress is not None:
            progress("retrieval", done, len(wanted))

    def searched(given: Given, source: Given) -> np.ndarray:
        parts = (np.split(vectors[name], len(sets)) for name in (given, source))
        return np.concatenate([ranks(*both) for both in zip(*parts, strict=True)])

    galleries = dict(zip((PICTURES, FEATURES), sources, strict=False))
    asked: list[Given] = [*((name,) for name in held), *pairs]
    found = {
        name: {given: searched(given, source) for given in asked if not set(given) & set(source)}
        for name, source in galleries.items()
    }
    queries = [QueryScores(q, {name: _scores(found[name][q]) for name in found if q in found[name]}) for q in asked]
    gains = {
        name: mean_gain(places, views) for name, places in found.items() if any(len(given) > 1 for given in places)
    }
    listed = tuple(query for query in queries if query.recall)
    return Retrieval(embedder.spaces, count, len(used), tuple(galleries), listed, gains)


def can_retrieve(model: AnyToAny, samples: Sequence[Sample]) -> bool:
    """Whether :func:`retrieval` is possible."""
    return bool(spaces_of(model)) and sum("rgb" in sample for sample in samples) > 1


def header_and_rows(found: Retrieval) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The table: a row per query; for pairs also what they gain over the better one of their parts."""
    head = ("query",)
    for gallery in found.galleries:
        head += (f"{gallery}: recall@1", "recall@5", "gain of the pair", "median rank")
    rows = []
    for query in found.queries:
        row = (label(query.given),)
        for gallery in found.galleries:
            scores = query.recall.get(gallery, {})
            gain = found.gain(query.given, gallery) if len(query.given) > 1 else math.nan
            recalls = [f"{scores[f'recall@{k}']:.3f}" if scores else "–" for k in _DEPTHS]
            median = f"{scores['median_rank']:.0f}" if scores else "–"
            row += (*recalls, "–" if math.isnan(gain) else f"{gain:+.3f}", median)
        rows.append(row)
    return head, rows


def summary(found: Retrieval) -> str:
    """What the table is of, and how many pairs beat their parts."""
    text = (
        f"Each of {found.searches} samples is searched among {found.count} by what belongs to it, through predicted "
        f"{' and '.join(found.spaces)}. Galleries: pictures (features predicted from the picture)"
        f"{' and the true features' if FEATURES in found.galleries else ''}. By chance recall@1 is "
        f"{1 / found.count:.3f}, recall@5 {min(1, 5 / found.count):.3f}."
    )
    for gallery in found.galleries:
        gains = [found.gain(query.given, gallery) for query in found.queries if len(query.given) > 1]
        gains = [gain for gain in gains if not math.isnan(gain)]
        if gains:
            better = sum(gain > 0 for gain in gains)
            text += f" Among {gallery}, {better} of {len(gains)} pairs have a higher recall@5 than each of their parts"
            text += " (mean gain {:+.3f}, standard deviation {:.3f}).".format(*found.gains[gallery])
    return text


def _embed(embedder: Embedder, samples: Sequence[Sample], given: Given, batch_size: int) -> np.ndarray:
    batches = (samples[i : i + batch_size] for i in range(0, len(samples), batch_size))
    return np.concatenate([embedder({name: [s[name] for s in batch] for name in given}) for batch in batches])


def _scores(places: np.ndarray) -> dict[str, float]:
    """From the ranks (N,) of the right samples."""
    recalls = {f"recall@{k}": float((places <= k).mean()) for k in _DEPTHS}
    return recalls | {"median_rank": float(np.median(places))}


def mean_gain(places: Mapping[Given, np.ndarray], views: int = 1) -> tuple[float, float]:
    """See :attr:`Retrieval.gains`; ``places``: query → ranks (N,), of ``views`` in a row one scene is shown."""
    hits = np.stack([ranked <= _DEPTHS[-1] for ranked in places.values()], axis=1).astype(np.float64)
    scene = np.arange(len(hits)) // views
    scenes = scene[-1] + 1
    draws = np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), size=_BOOTSTRAPS)[:, scene]
    drawn = draws @ hits / draws.sum(axis=1, keepdims=True)
    recalls = np.concatenate([hits.mean(axis=0, keepdims=True), drawn])  # the first: as they are
    column = {given: number for number, given in enumerate(places)}
    pairs = [given for given in places if len(given) > 1 and all((name,) in column for name in given)]
    better = [recalls[:, [column[(name,)] for name in given]].max(axis=1) for given in pairs]
    gains = np.mean([recalls[:, column[given]] - part for given, part in zip(pairs, better, strict=True)], axis=0)
    return float(gains[0]), float(gains[1:].std())
