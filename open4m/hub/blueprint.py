"""Blueprints: what a configuration says about a system, before any of its weights is read or fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from open4m.errors import CheckpointError
from open4m.hub.catalogue import (
    CATALOGUE,
    NON_COMMERCIAL,
    SAMPLE_CODE_LICENCE,
    published_configuration,
    published_tokenizer,
)
from open4m.hub.places import Repository, fetched, locate, resolve
from open4m.hub.published import is_published, model_config, resolution
from open4m.hub.text import NAME as PUBLISHED_TEXT
from open4m.hub.text import VOCABULARY
from open4m.modalities.rgb import IMAGENET_MEAN, IMAGENET_STD
from open4m.model import ModelConfig
from open4m.streams import StreamKind
from open4m.weights import CONFIG, WEIGHTS, header_config, read_config, read_config_file

FORMAT_VERSION = 1
PUBLISHED_BUNDLE = "bundle.json"
"""Our configuration of a bundle whose ``config.json`` and weights are in the published form."""

TEXT = "text_tokenizer.json"
_TOKENIZER_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # never "..", never absolute
PREPROCESSING: dict[str, Any] = {
    "crop": "centre square",
    "resize": "bicubic",
    "rgb_mean": [round(float(v), 6) for v in IMAGENET_MEAN.flatten()],
    "rgb_std": [round(float(v), 6) for v in IMAGENET_STD.flatten()],
}
"""How pictures become pixels: the only way there is; stored, and compared when a bundle is read."""


@dataclass(frozen=True)
class BundleInfo:
    """What ``config.json`` says beside the model's shape.

    Attributes:
        name: what users call the system, such as ``scenes-tiny``.
        description: one line.
        image_size, patch_size: of its pixel stream, in pixels.
        stream_tokenizers: stream name → name of the tokenizer that turns its ids into values
            (``human_poses`` and ``sam_instance``: of the ids inside their text).
        licence, licence_url: of the weights.
        provenance: where the weights come from (data, steps, versions, scores), JSON-able.
        generation: settings that suit these weights better than the published ones, which were found for models
            a hundred times larger (:func:`open4m.generation.defaults.grid_defaults`); JSON-able.
    """

    name: str
    description: str
    image_size: int
    patch_size: int
    stream_tokenizers: dict[str, str]
    licence: str
    licence_url: str
    provenance: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Blueprint:
    """What a configuration says about a system, without its weights.

    Attributes:
        info: names, resolution, licence.
        config: shape of the transformer.
        weights: file of the weights; None where they are not on this machine.
        published: whether the weights have the published names.
    """

    info: BundleInfo
    config: ModelConfig
    weights: Path | None
    published: bool

    def text(self) -> Path | None:
        """The text tokenizer in the folder; None if there is none."""
        if self.weights is None:
            return None
        found = (self.weights.parent / name for name in (TEXT, PUBLISHED_TEXT))
        return next((path for path in found if path.is_file()), None)

    def needs_published_text(self) -> bool:
        """Whether words need the published text tokenizer, which is not in the folder."""
        sizes = {spec.vocab_size for spec in self.config.streams if spec.kind is StreamKind.SEQUENCE}
        return self.published and sizes == {VOCABULARY} and self.text() is None

    def tokenizer(self, name: str) -> Path | Repository:
        """Where a tokenizer is: in the folder ``tokenizers``, beside the folder of the model, or on the hub."""
        if self.weights is not None:
            folder, base = self.weights.parent, name.rpartition("/")[2]
            beside = (folder / base, folder.parent / base) if self.published else ()
            for place in (folder / "tokenizers" / name, *beside):
                if place.is_dir():
                    return place
        if name not in CATALOGUE:
            raise CheckpointError(f"{self.info.name}: there is no tokenizer {name!r} in its folder. Copy it again.")
        where = locate(name)
        return where if isinstance(where, Path) else fetched(where) or where


# -- reading ----------------------------------------------------------------------------------------------------------
def describe(name: str | Path) -> Blueprint:
    """What is known about a model without reading or fetching its weights.

    Nothing is fetched for models of the catalogue, and only ``config.json`` for other repositories of the hub.

    Raises:
        UnknownNameError, CheckpointError: as :func:`load_bundle`.
    """
    where = locate(name)
    if isinstance(where, Path):
        return read_blueprint(where, name)
    here = fetched(where)
    if here is not None:
        return read_blueprint(here, name)
    if where.name in CATALOGUE:
        return _published_blueprint(published_configuration(where.name), where.name, None, where.name)
    return replace(read_blueprint(resolve(name, files=[CONFIG]), name), weights=None)


def read_blueprint(path: Path, name: str | Path) -> Blueprint:
    """The configuration at ``path``, a folder or a single ``.safetensors`` file, of what was asked for as ``name``."""
    if path.is_file():
        return _published_blueprint(header_config(path), path.stem, path, str(path))
    values, weights = read_config(path), path / WEIGHTS
    if not is_published(values):
        info, config = _parse_config(str(path / CONFIG), values)
        return Blueprint(info, config, weights, published=False)
    if (path / PUBLISHED_BUNDLE).is_file():
        source = path / PUBLISHED_BUNDLE
        info, config = _parse_config(str(source), read_config_file(source))
        return Blueprint(info, config, weights, published=True)
    where = locate(name)
    title = path.name if isinstance(where, Path) else where.name
    return _published_blueprint(values, title, weights, str(path / CONFIG))


def _published_blueprint(values: dict[str, Any], name: str, weights: Path | None, source: str) -> Blueprint:
    """A transformer as on the hub. Its tokenizers are those of the catalogue, by the names of its streams."""
    config = model_config(values, source)
    image_size, patch_size = resolution(values, source)
    found = {spec.name: published_tokenizer(spec.name) for spec in config.streams}
    info = BundleInfo(
        name=name,
        description=CATALOGUE[name].description if name in CATALOGUE else "Checkpoint in the published 4M format",
        image_size=image_size,
        patch_size=patch_size,
        stream_tokenizers={stream: name for stream, name in found.items() if name is not None},
        licence=NON_COMMERCIAL,
        licence_url=SAMPLE_CODE_LICENCE,
        provenance={"source": source},
    )
    return Blueprint(info, config, weights, published=True)


def _parse_config(source: str, values: dict[str, Any]) -> tuple[BundleInfo, ModelConfig]:
    if values.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{source}: format_version is {values.get('format_version')!s:.40}; this version of open4m reads "
            f"{FORMAT_VERSION}. Is it the folder of a bundle, and open4m up to date?"
        )
    known = {f.name for f in fields(BundleInfo)}
    values = {"generation": {}, **values}
    expected = known | {"format_version", "preprocessing", "model"}
    if set(values) != expected:
        wrong = [f"missing {key}" for key in expected - set(values)]
        wrong += [f"unknown {key:.60}" for key in set(values) - expected]
        raise CheckpointError(f"{source}: {', '.join(sorted(wrong))}.")
    if values["preprocessing"] != PREPROCESSING:
        raise CheckpointError(f"{source}: preprocessing is {values['preprocessing']}, only {PREPROCESSING} is known.")
    info = BundleInfo(**{key: values[key] for key in known})
    _check_info(info, source)
    return info, ModelConfig.from_dict(values["model"], f"{source}: model")


def _check_info(info: BundleInfo, source: str) -> None:
    """A configuration may come from anywhere: wrong types, and names that lead out of the folder, are refused."""
    types = {int: "a number", str: "a text", dict: "an object"}
    for entry in fields(info):
        value, expected = getattr(info, entry.name), next(t for t in types if entry.type.startswith(t.__name__))
        if isinstance(value, bool) or not isinstance(value, expected):
            raise CheckpointError(f"{source}: {entry.name} must be {types[expected]}, not {type(value).__name__}.")
    resolution({"image_size": info.image_size, "patch_size": info.patch_size}, source)  # raises if out of range
    for stream, name in info.stream_tokenizers.items():
        if not isinstance(name, str) or not _TOKENIZER_NAME.fullmatch(name):
            raise CheckpointError(
                f"{source}: {name!s:.60}, the tokenizer of {stream:.60}, is not the name of a folder in the bundle."
            )
    for situation, settings in info.generation.items():
        if not isinstance(settings, dict):
            raise CheckpointError(f"{source}: generation: {situation:.60} must be an object.")
