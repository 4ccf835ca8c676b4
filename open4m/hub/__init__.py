"""Models on disk and by name: bundles, the catalogue of published weights, conversion of the published format."""

from open4m.hub.blueprint import Blueprint, BundleInfo, describe
from open4m.hub.bundle import Bundle, export_bundle, load_bundle, save_bundle
from open4m.hub.cards import Card, card
from open4m.hub.catalogue import Entry, list_models
from open4m.hub.places import resolve

__all__ = [
    "Blueprint",
    "Bundle",
    "BundleInfo",
    "Card",
    "Entry",
    "card",
    "describe",
    "export_bundle",
    "list_models",
    "load_bundle",
    "resolve",
    "save_bundle",
]
