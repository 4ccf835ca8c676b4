"""Held-out scenes: those that ship with the package, and as many more of the same world as are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open4m.data.shards import finished_shards, folder_names, shard_keys
from open4m.errors import DataError, MissingExtraError, UnknownNameError
from open4m.evaluation.samples import read_values
from open4m.generation.pipeline import AnyToAny
from open4m.hub.catalogue import ASSETS

HELDOUT = ASSETS / "scenes-heldout"
"""Scenes that no model was trained on, with every label; they ship with the package."""

SPLIT = "heldout"
COUNT = 300
"""Scenes of a full evaluation."""

VIEWS = 3
"""Of one scene, one after the other."""

SEED, SHARD_SIZE = 2, 72
"""Of the shipped scenes: rendering ``SHARD_SIZE`` views with this seed gives them again, bit for bit."""


def evaluation_samples(
    model: AnyToAny, data: Path | None = None, split: str = SPLIT, limit: int | None = None, needed: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], str]:
    """What a model is scored on, as it sees it (:meth:`~open4m.generation.pipeline.AnyToAny.view`), and its name.

    Args:
        data: root of a data set, used as it is; default: the held-out scenes (:func:`heldout_values`).
        limit: only the first so many samples; default: all of ``data``, or :data:`COUNT` held-out scenes.
        needed: modalities that must be there.

    Raises:
        UnknownNameError: one of ``needed`` is not in the data; similar names are suggested.
        DataError: there is no such data, or it is damaged.
    """
    root = data or HELDOUT
    present = folder_names(root, split)
    for name in needed:
        if name not in present:
            raise UnknownNameError(f"folder of {root / split}", name, present)
    names = [name for name in present if name in model.inputs or name in model.targets]
    if data is None:
        values, source = heldout_values(names, COUNT if limit is None else limit), "the held-out scenes"
    else:
        values, source = read_values(data, split, names, limit), f"{data.name}/{split}"
    return [model.view(sample) for sample in values], source


def views_in_a_row(data: Path | None) -> int:
    """How many samples of :func:`evaluation_samples` show one scene: known of the held-out ones, else 1."""
    return VIEWS if data is None else 1


def heldout_values(names: Sequence[str], count: int = COUNT) -> list[dict[str, Any]]:
    """``count`` held-out scenes: the shipped ones, then the next ones of the same world and seed.

    The others are rendered once into the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``). They have no
    features, whose teachers do not ship.

    Args:
        names: modalities that are wanted, where a scene has them.

    Raises:
        DataError: scenes must be rendered and the extra ``scenes`` is not installed.
    """
    shipped = read_values(HELDOUT, SPLIT, names, count)
    missing = count - len(shipped)
    if missing <= 0:
        return shipped
    try:
        from open4m.scenes.dataset import FOLDERS, render_dataset
        from open4m.scenes.worlds import WORLD_VERSION
    except MissingExtraError as error:
        raise DataError(
            f"{count} held-out scenes asked for; {len(shipped)} ship with the package, the others are rendered. "
            f"{error}. Or take your own data (--data), or the shipped scenes only (--limit {len(shipped)})."
        ) from error
    root = cache_folder() / f"scenes-heldout-{WORLD_VERSION}"
    finished = finished_shards(root, SPLIT, FOLDERS)
    if sum(len(shard_keys(root, SPLIT, FOLDERS[-1], shard)) for shard in finished) < count:
        render_dataset(root, count, SEED, split=SPLIT, shard_size=SHARD_SIZE)
    return shipped + read_values(root, SPLIT, [n for n in names if n in FOLDERS], missing, first=len(shipped))


def cache_folder() -> Path:
    """The user's cache folder for this package."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "open4m"
