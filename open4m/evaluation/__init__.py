"""Scores of trained models on held-out data, with what they must beat and what their tokenizers allow."""

from open4m.evaluation.evaluate import Report, TargetScores, evaluate
from open4m.evaluation.heldout import evaluation_samples, heldout_values
from open4m.evaluation.matrix import Matrix, any_to_any
from open4m.evaluation.retrieval import Retrieval, retrieval
from open4m.evaluation.samples import read_values

__all__ = [
    "Matrix", "Report", "Retrieval", "TargetScores", "any_to_any", "evaluate", "evaluation_samples", "heldout_values",
    "read_values", "retrieval",
]  # fmt: skip
