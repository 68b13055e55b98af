"""Policies: who the adversary is at each step, example by example.

    attack, threat = policy(model, x, y, ids, attack, threat, Moment(epoch, step, steps))

comes before the recipe, in our loop or anybody's. Validation and evaluation stay at the configured eps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from advreg.training.choose import choose
from advreg.training.policies.base import Moment, Policy
from advreg.training.policies.iaat import iaat
from advreg.training.policies.ldes import ldes
from advreg.training.policies.schedules import fixed, friendly, warmup

__all__ = ["POLICIES", "Moment", "Policy", "fixed", "friendly", "iaat", "ldes", "named", "warmup"]

POLICIES: dict[str, Callable[..., Policy]] = {
    "fixed": fixed,
    "warmup": warmup,
    "iaat": iaat,
    "friendly": friendly,
    "ldes": ldes,
}


def named(name: str, options: Mapping[str, Any]) -> Policy:
    """Return the policy of this name with these options, as a configuration gives them.

    Raises:
        ConfigError: an unknown policy or option, or an option that is not allowed.
    """
    return choose("policy", POLICIES, name, options)
