"""Old home of `advreg.training.integrations` and of the loss term that is `advreg.AdversarialRegularization.regularizer`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from advreg._lazy import deprecated
from advreg.threat import ThreatModel
from advreg.training import integrations
from advreg.training.regularizer import AdversarialRegularization


def Term(threat: ThreatModel, *, weight: float = 0.2, **options: Any) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return ``(network, x, y) -> weight * recipe``, as `AdversarialRegularization.regularizer` does.

    Args:
        threat: norm, eps and box.
        weight: the multiplier.
        options: of `AdversarialRegularization`.
    """
    _warn("Term(threat)(network, x, y)", "advreg.AdversarialRegularization(network, threat).regularizer(x, y)")
    AdversarialRegularization(nn.Identity(), threat, multiplier=weight, **options)  # checks the options
    return lambda network, x, y: AdversarialRegularization(network, threat, multiplier=weight, **options).regularizer(
        x, y
    )


def _with_weight(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of `integrations` that takes ``weight`` for ``multiplier``."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        _warn(function.__name__, f"advreg.training.integrations.{function.__name__}, its weight multiplier")
        if "weight" in options:
            options["multiplier"] = options.pop("weight")
        return function(*args, **options)

    return call


def _warn(old: str, new: str) -> None:
    warnings.warn(f"advreg.training.hooks.{old} is now {new}", DeprecationWarning, stacklevel=3)


lightning = _with_weight(integrations.lightning)
huggingface = _with_weight(integrations.huggingface)

if not TYPE_CHECKING:
    _HOME = "advreg.training.integrations"
    __getattr__ = deprecated(__name__, {"first_two": f"{_HOME}:first_two", "Logits": f"{_HOME}:Logits"})
