"""Diagnosis: whether a robustness figure can be trusted, why not, and what an adaptive attack makes of it."""

from advreg.diagnosis.diagnose import diagnose
from advreg.diagnosis.epsilon import EpsilonChoice, EpsilonRow, choose_epsilon
from advreg.diagnosis.result import Adapted, Attempt, Diagnosis, DiagnosisProgress

__all__ = [
    "Adapted",
    "Attempt",
    "Diagnosis",
    "DiagnosisProgress",
    "EpsilonChoice",
    "EpsilonRow",
    "choose_epsilon",
    "diagnose",
]
