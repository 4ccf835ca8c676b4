"""open4m: any-to-any vision. One transformer predicts any of 21 kinds of vision data from any subset of the others.

>>> import open4m
>>> model = open4m.load("scenes-tiny")
>>> out = model.generate({"rgb": "photo.jpg"}, ["depth", "caption"], seed=0)
>>> out["depth"].image; out["caption"].value; out.save("out/")

The names below are imported when they are first used, so that ``import open4m`` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open4m.generation import AnyToAny, Masked, Plan, Result, TargetPlan, Tokens, best_of, load
    from open4m.hub.catalogue import list_models
    from open4m.hub.vit import vit

__version__ = "0.1.0"

__all__ = [
    "AnyToAny",
    "Masked",
    "Plan",
    "Result",
    "TargetPlan",
    "Tokens",
    "__version__",
    "best_of",
    "list_models",
    "load",
    "vit",
]

_HOME = {"list_models": "open4m.hub.catalogue", "vit": "open4m.hub.vit"}  # all others: open4m.generation


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'open4m' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME.get(name, "open4m.generation")), name)


def __dir__() -> list[str]:
    return __all__
