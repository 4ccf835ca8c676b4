"""Models on disk and by name: bundles, the catalogue of published weights, conversion of the published format."""

from open4m.hub.bundle import Bundle, BundleInfo, load_bundle, save_bundle
from open4m.hub.catalogue import Entry, list_models, resolve

__all__ = ["Bundle", "BundleInfo", "Entry", "list_models", "load_bundle", "resolve", "save_bundle"]
