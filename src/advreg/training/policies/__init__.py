"""Policies: the attack and the eps of each example at each step.

    attack, threat = policy(model, x, y, ids, attack, threat, Moment(epoch, step, steps))

precedes the recipe, in `advreg.fit` or a loop of your own. Validation and evaluation stay at the configured eps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from advreg._lazy import deprecated
from advreg.config.registry import Registry
from advreg.trainer.moment import Moment
from advreg.training.policies.base import Policy
from advreg.training.policies.iaat import iaat
from advreg.training.policies.ldes import ldes
from advreg.training.policies.schedules import fixed, friendly, warmup

__all__ = ["POLICIES", "Moment", "Policy", "fixed", "friendly", "iaat", "ldes", "warmup"]

POLICIES: Registry[Policy] = Registry(
    "policy",
    {
        "fixed": fixed,
        "warmup": warmup,
        "iaat": iaat,
        "friendly": friendly,
        "ldes": ldes,
    },
)


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"named": "POLICIES.build"})
