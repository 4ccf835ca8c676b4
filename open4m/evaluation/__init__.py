"""Scores of trained models on held-out data, with baselines and tokenizer bounds."""

from open4m.evaluation.evaluate import Report, TargetScores, evaluate
from open4m.evaluation.samples import read_values

__all__ = ["Report", "TargetScores", "evaluate", "read_values"]
