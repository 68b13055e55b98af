"""Diagnosis: whether a robustness figure can be trusted, why not, and what an adaptive attack makes of it."""

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.diagnosis.diagnose import diagnose
from advreg.diagnosis.epsilon import EpsilonChoice, EpsilonRow, choose_epsilon
from advreg.diagnosis.result import AdaptiveAttempt, AdaptiveResult, Diagnosis, DiagnosisProgress

__all__ = [
    "AdaptiveAttempt",
    "AdaptiveResult",
    "Diagnosis",
    "DiagnosisProgress",
    "EpsilonChoice",
    "EpsilonRow",
    "choose_epsilon",
    "diagnose",
]

if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"Adapted": "AdaptiveResult", "Attempt": "AdaptiveAttempt"})
