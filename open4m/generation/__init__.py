"""Any-to-any generation: plan → steps → canvas → result."""

from open4m.generation.agreement import best_of
from open4m.generation.ensemble import Ensemble, sampling_plan
from open4m.generation.features import TokenFeatures
from open4m.generation.inputs import Tokens
from open4m.generation.loading import load
from open4m.generation.masks import Masked
from open4m.generation.pipeline import AnyToAny
from open4m.generation.plan import Plan, TargetPlan
from open4m.generation.preview import preview, preview_upscale
from open4m.generation.result import Item, Result
from open4m.generation.streaming import Partial

__all__ = [
    "AnyToAny",
    "Ensemble",
    "Item",
    "Masked",
    "Partial",
    "Plan",
    "Result",
    "TargetPlan",
    "TokenFeatures",
    "Tokens",
    "best_of",
    "load",
    "preview",
    "preview_upscale",
    "sampling_plan",
]
