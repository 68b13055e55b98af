"""Evaluation: the worst case over a protocol's attacks, verified on the original model and written to a ledger."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.evaluation.corruptions import evaluate_corruptions
from advreg.evaluation.curve_evaluation import robustness_curve
from advreg.evaluation.evaluate import evaluate
from advreg.evaluation.minimum_norms import MinimumNorms, minimum_norms
from advreg.evaluation.protocols import DEFAULT_PROTOCOL, PROTOCOLS, Protocol, ProtocolStage, resolve
from advreg.results import AttackSummary, Check, ClassSummary, Curve, CurvePoint, Evaluation
from advreg.results.corruptions import CorruptionAccuracy

__all__ = [
    "DEFAULT_PROTOCOL",
    "PROTOCOLS",
    "AttackSummary",
    "Check",
    "ClassSummary",
    "CorruptionAccuracy",
    "Curve",
    "CurvePoint",
    "Evaluation",
    "MinimumNorms",
    "Protocol",
    "ProtocolStage",
    "evaluate",
    "evaluate_corruptions",
    "minimum_norms",
    "resolve",
    "robustness_curve",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"Stage": "ProtocolStage"})
