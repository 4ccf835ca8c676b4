"""Cards: what one should know about a model or tokenizer before loading it. Nothing is fetched for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open4m.hub.blueprint import PREPROCESSING, Blueprint, describe
from open4m.hub.catalogue import CATALOGUE, LICENCE_MEANING, Kind, published_configuration, published_streams_of
from open4m.hub.places import locate
from open4m.hub.sizes import model_size, tokenizer_size


@dataclass(frozen=True)
class Card:
    """Facts about a model or a tokenizer.

    Attributes:
        name, kind, description, licence, licence_url, paper: as in :class:`~open4m.hub.catalogue.Entry`.
        licence_meaning: the licence in one sentence; empty for one that is not known.
        inputs, targets: streams; of a tokenizer the streams that it writes and reads.
        parameters, trunk: see :class:`~open4m.hub.sizes.Size`.
        image_size, patch_size: in pixels.
        preprocessing: how pictures become pixels; empty for tokenizers.
        tokenizers: stream → tokenizer.
        bytes: of the files to download, without tokenizers; or of those on disk.
        estimated: whether ``bytes`` is computed from the number of parameters, as float32.
        location: where its files are; None where they are not on this machine.
    """

    name: str
    kind: Kind
    description: str
    licence: str
    licence_meaning: str
    licence_url: str
    paper: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    parameters: int
    trunk: int
    image_size: int
    patch_size: int
    preprocessing: dict[str, Any]
    tokenizers: dict[str, str]
    bytes: int
    estimated: bool
    location: str | None


def card(name: str | Path) -> Card:
    """The card of a model or tokenizer by anything that can be loaded.

    Raises:
        UnknownNameError: nothing of that name.
        CheckpointError: its configuration is missing or damaged.
    """
    where = locate(name)
    if not isinstance(where, Path) and where.name in CATALOGUE and CATALOGUE[where.name].kind == "tokenizer":
        return _tokenizer_card(where.name)
    return _model_card(describe(name))


def _model_card(plan: Blueprint) -> Card:
    info, config = plan.info, plan.config
    size = model_size(config, plan.published)
    here = plan.weights is not None and plan.weights.is_file()
    return Card(
        name=info.name,
        kind="model",
        description=info.description,
        licence=info.licence,
        licence_meaning=LICENCE_MEANING.get(info.licence, ""),
        licence_url=info.licence_url,
        paper=CATALOGUE[info.name].paper if info.name in CATALOGUE else "",
        inputs=tuple(spec.name for spec in config.inputs),
        targets=tuple(spec.name for spec in config.targets),
        parameters=size.parameters,
        trunk=size.trunk,
        image_size=info.image_size,
        patch_size=info.patch_size,
        preprocessing=PREPROCESSING,
        tokenizers=dict(info.stream_tokenizers),
        bytes=plan.weights.stat().st_size if here and plan.weights else size.stored,
        estimated=not here,
        location=str(plan.weights) if here else None,
    )


def _tokenizer_card(name: str) -> Card:
    entry, values = CATALOGUE[name], published_configuration(name)
    size = tokenizer_size(values, name)
    return Card(
        name=name,
        kind="tokenizer",
        description=entry.description,
        licence=entry.licence,
        licence_meaning=LICENCE_MEANING[entry.licence],
        licence_url=entry.licence_url,
        paper=entry.paper,
        inputs=published_streams_of(name),
        targets=published_streams_of(name),
        parameters=size.parameters,
        trunk=size.trunk,
        image_size=values.get("image_size", 224),
        patch_size=values.get("patch_size", 16),
        preprocessing={},
        tokenizers={},
        bytes=size.stored,
        estimated=True,
        location=None,
    )
