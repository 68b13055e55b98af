"""advreg: train networks to withstand adversarial inputs, and measure honestly how robust they are."""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOME = {
    "AttackResult": "advreg.attacks.result",
    "Config": "advreg.config",
    "Dataset": "advreg.data",
    "Evaluation": "advreg.evaluation",
    "RunFolder": "advreg.runs",
    "ThreatModel": "advreg.threat",
    "attacks": "advreg.attacks",
    "errors": "advreg.errors",
    "evaluate": "advreg.evaluation",
    "fgsm": "advreg.attacks",
    "fit": "advreg.training",
    "freeze": "advreg.models",
    "load_data": "advreg.data",
    "load_model": "advreg.models",
    "mifgsm": "advreg.attacks",
    "objectives": "advreg.objectives",
    "pgd": "advreg.attacks",
    "recipes": "advreg.training.recipes",
    "robustness_curve": "advreg.evaluation",
    "verify": "advreg.attacks",
}
_RENAMED = {"load_data": "load", "load_model": "load"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import a public name from its room the first time it is used, so that ``import advreg`` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'advreg' has no attribute {name!r}")
    home = importlib.import_module(_HOME[name])
    is_module = _HOME[name].rpartition(".")[2] == name
    value = home if is_module else getattr(home, _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
