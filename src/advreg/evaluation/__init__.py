"""Evaluation: the worst case over a protocol's attacks, judged by the original model, written to a ledger."""

from advreg.evaluation.curve import Curve, robustness_curve
from advreg.evaluation.protocols import PROTOCOLS, Protocol, Stage, resolve
from advreg.evaluation.run import evaluate
from advreg.evaluation.summary import AttackSummary, Evaluation

__all__ = [
    "PROTOCOLS",
    "AttackSummary",
    "Curve",
    "Evaluation",
    "Protocol",
    "Stage",
    "evaluate",
    "resolve",
    "robustness_curve",
]
