"""The attack of TRADES: PGD from a Gaussian start beside the clean point, where the divergence has a gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg import example_rng
from advreg.attacks import CraftedExamples
from advreg.attacks.inputs import read_training
from advreg.attacks.model import widen
from advreg.attacks.outputs import checked_once
from advreg.attacks.pgd import ascend
from advreg.attacks.search import QuerySpec, initial_state
from advreg.attacks.step_rules import pgd_rule
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel


def trades_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    scale: float = 0.001,
    steps: int = 10,
    step_size: float | None = None,
    objective: Objective | None = None,
    ids: Tensor | None = None,
    seed: int = 0,
    task: Task = CLASSES,
) -> CraftedExamples:
    """Make training points with PGD from ``x + scale N(0, 1)`` in exactly ``steps`` forwards and backwards.

    With ``trades(reference="clean")`` (objective: the divergence from the prediction at ``x``), this is the inner
    attack of the paper, which reports 10 steps of 0.007 at eps 0.031.

    Args:
        model: network that returns logits ``(B, K)``; its mode is not changed.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
        threat: norm, eps and box.
        scale: standard deviation of the start, in the units of the input.
        steps: gradient steps.
        step_size: length of a step; ``2.5 eps / steps`` if None.
        objective: ``(logits, y) -> (B,)``, maximised; the task's default, cross-entropy for classes, if None.
        ids: example ids ``(B,)`` that seed the random draws; positions in the batch if None.
        seed: seed of the random draws.
        task: what an output is worth.

    Returns:
        A `CraftedExamples`: ``x_adv`` inside the threat model, and its cost.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> trades_pgd(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).backwards
        20

    Reference: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019, arXiv:1901.08573.
    """
    x, y = read_training(x, y, threat, task)
    ids = torch.arange(len(x), device=x.device) if ids is None else ids
    x, ask = widen(x), QuerySpec(model, checked_once(objective or task.objective, task), task=task)
    beside = x + scale * example_rng.normal(ids, tuple(x.shape[1:]), seed, dtype=x.dtype)
    rule = pgd_rule(steps, step_size, 0.0, "zero")
    return ascend(ask, initial_state(x, y, threat, threat.project(beside, x)), rule, steps)
