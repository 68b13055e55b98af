"""advreg: train networks to withstand adversarial inputs, and measure honestly how robust they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg.imports import lazy
from advreg.version import __version__ as __version__

if TYPE_CHECKING:
    from advreg import attacks, errors, objectives
    from advreg.attacks import AttackResult, fgsm, mifgsm, pgd, verify
    from advreg.config import Config
    from advreg.data import Dataset
    from advreg.data import load as load_data
    from advreg.diagnosis import Diagnosis, EpsilonChoice, choose_epsilon, diagnose
    from advreg.evaluation import Evaluation, evaluate, minimum_norms, robustness_curve
    from advreg.hardening.gate import Decision, gate
    from advreg.models import freeze, normalized
    from advreg.models import load as load_model
    from advreg.runs import RunFolder
    from advreg.threat import ThreatModel
    from advreg.training import fit, recipes

_HOME = {
    "AttackResult": "attacks:AttackResult",
    "Config": "config:Config",
    "Dataset": "data:Dataset",
    "Decision": "hardening.gate:Decision",
    "Diagnosis": "diagnosis:Diagnosis",
    "EpsilonChoice": "diagnosis:EpsilonChoice",
    "Evaluation": "evaluation:Evaluation",
    "RunFolder": "runs:RunFolder",
    "ThreatModel": "threat:ThreatModel",
    "attacks": "attacks",
    "choose_epsilon": "diagnosis:choose_epsilon",
    "diagnose": "diagnosis:diagnose",
    "errors": "errors",
    "evaluate": "evaluation:evaluate",
    "fgsm": "attacks:fgsm",
    "fit": "training:fit",
    "freeze": "models:freeze",
    "gate": "hardening.gate:gate",
    "load_data": "data:load",
    "load_model": "models:load",
    "mifgsm": "attacks:mifgsm",
    "minimum_norms": "evaluation:minimum_norms",
    "normalized": "models:normalized",
    "objectives": "objectives",
    "pgd": "attacks:pgd",
    "recipes": "training.recipes",
    "robustness_curve": "evaluation:robustness_curve",
    "verify": "attacks:verify",
}

__all__ = [
    "AttackResult",
    "Config",
    "Dataset",
    "Decision",
    "Diagnosis",
    "EpsilonChoice",
    "Evaluation",
    "RunFolder",
    "ThreatModel",
    "attacks",
    "choose_epsilon",
    "diagnose",
    "errors",
    "evaluate",
    "fgsm",
    "fit",
    "freeze",
    "gate",
    "load_data",
    "load_model",
    "mifgsm",
    "minimum_norms",
    "normalized",
    "objectives",
    "pgd",
    "recipes",
    "robustness_curve",
    "verify",
]


__getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
