"""The registry of modalities: filled by importing the files of this folder and installed entry points."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

import open4m.modalities as package
from open4m.errors import UnknownNameError
from open4m.modalities.base import Modality

_REGISTERED: dict[str, Modality[Any]] = {}


def register(modality: Modality[Any]) -> None:
    """Make a modality known under its name. Registering another object under a taken name is an error."""
    taken = _REGISTERED.get(modality.name)
    if taken is not None and type(taken) is not type(modality):
        raise ValueError(f"modality {modality.name!r} is already registered by {type(taken).__module__}")
    _REGISTERED[modality.name] = modality


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for entry in entry_points(group="open4m.modalities"):
        entry.load()


def all_modalities() -> MappingProxyType[str, Modality[Any]]:
    """Every registered modality by name."""
    _discover()
    return MappingProxyType(_REGISTERED)


def get_modality(name: str) -> Modality[Any]:
    """The modality called ``name``; raises :class:`UnknownNameError` with suggestions."""
    modalities = all_modalities()
    if name not in modalities:
        raise UnknownNameError("modality", name, modalities)
    return modalities[name]
