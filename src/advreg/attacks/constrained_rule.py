"""Step rules for features with rules: gradients through derived features, less the violation of the relations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.search import AttackState, Rule
from advreg.constraints import FeatureRules


def constrained_rule(rule: Rule, rules: FeatureRules | None, penalty: float = 1.0) -> Rule:
    """Return a step rule with the gradient through derived features, less that of the violation of the rules.

    Args:
        rule: step rule of a gradient attack.
        rules: the rules; the step rule is returned unchanged if None.
        penalty: weight of the violation.

    Returns:
        The step rule.

    Example:
        >>> from advreg.attacks.auto_pgd.step_rule import momentum_rule
        >>> rule = momentum_rule(5)
        >>> constrained_rule(rule, FeatureRules()) is rule
        True
    """
    if rules is None or not rules.relations:
        return rule

    def step(state: AttackState, k: int) -> AttackState:
        return rule(replace(state, grad=_gradient(state, rules, penalty)), k)

    return step


def _gradient(state: AttackState, rules: FeatureRules, penalty: float) -> Tensor:
    """Return the gradient of the objective through derived features, less that of the violation."""
    with torch.enable_grad():
        point = state.adv.detach().requires_grad_()
        total = (rules.derive(point) * state.grad).sum() - penalty * rules.violation(rules.derive(point)).sum()
        grad: Tensor = torch.autograd.grad(total, point)[0]
    return grad.nan_to_num(0.0, 0.0, 0.0)
