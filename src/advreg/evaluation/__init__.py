"""Evaluation: the worst case over a protocol's attacks, judged by the original model, written to a ledger."""

from advreg.evaluation.curve import Curve
from advreg.evaluation.curve_evaluation import robustness_curve
from advreg.evaluation.evaluate import evaluate
from advreg.evaluation.minimum_norms import MinimumNorms, minimum_norms
from advreg.evaluation.protocols import PROTOCOLS, Protocol, Stage, resolve
from advreg.evaluation.summary import AttackSummary, Evaluation

__all__ = [
    "PROTOCOLS",
    "AttackSummary",
    "Curve",
    "Evaluation",
    "MinimumNorms",
    "Protocol",
    "Stage",
    "evaluate",
    "minimum_norms",
    "resolve",
    "robustness_curve",
]
