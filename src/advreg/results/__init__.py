"""Results: what evaluations measure and what their ledgers hold. Needs no torch."""

from advreg.results.checks import Check, Outcome, Verdict
from advreg.results.corruptions import CorruptionAccuracy
from advreg.results.curve import Curve, CurvePoint
from advreg.results.evaluation import AttackSummary, ClassSummary, Evaluation
from advreg.results.reading import LedgerContents, read_ledger

__all__ = [
    "AttackSummary",
    "Check",
    "ClassSummary",
    "CorruptionAccuracy",
    "Curve",
    "CurvePoint",
    "Evaluation",
    "LedgerContents",
    "Outcome",
    "Verdict",
    "read_ledger",
]
