"""Recorded outputs of the public reference implementation, recomputed: ``open4m verify``."""

from open4m.verify.kinds import KINDS, verify
from open4m.verify.options import Options
from open4m.verify.report import TOLERANCES, Check, Report, Tolerance

__all__ = ["KINDS", "TOLERANCES", "Check", "Options", "Report", "Tolerance", "verify"]
