"""Retrieval: find things of any kind by things of any other kind (4M-21, section 4.3)."""

from open4m.retrieval.embedding import Embedder
from open4m.retrieval.index import Hit, Index
from open4m.retrieval.knn import knn_accuracy, knn_classify
from open4m.retrieval.query import Term

__all__ = ["Embedder", "Hit", "Index", "Term", "knn_accuracy", "knn_classify"]
