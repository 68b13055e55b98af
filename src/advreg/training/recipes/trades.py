"""TRADES: cross-entropy on clean inputs, and a divergence between clean and attacked predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.module_modes import eval_mode
from advreg.objectives import kl
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Forwards,
    Recipe,
    Smoothing,
    Weight,
    beside,
    check_loss,
    clean_and_adversarial_logits,
    divergence,
    label_loss,
    perturbed_reference,
    probabilities,
    worst_case,
)
from advreg.training.recipes.task_losses import TaskOption, loss_of, stability


@check_loss
def trades(
    beta: Weight = 6.0,
    label_smoothing: Smoothing = 0.0,
    reference: Literal["beside", "clean"] = "beside",
    task: TaskOption = "classes",
    forwards: Forwards = "one",
) -> Recipe:
    """Trade clean accuracy for stable predictions: ``CE(f(x), y) + beta KL(p(x) || p(x_adv))``.

    The attack maximises the same divergence and gets no label. Its reference is the prediction at a point beside ``x``, so it
    may start anywhere, the clean point included. The paper has the reference at ``x`` and a start beside it:
    ``reference="clean"`` with `advreg.training.inner.trades_pgd`.

    Args:
        beta: weight of the divergence; 6 on CIFAR-10, 1 on MNIST in the paper.
        label_smoothing: share of each label that is spread evenly over all classes.
        reference: prediction that the attack moves away from; that at ``x``, ``"clean"``, has a zero gradient at ``x``.
        task: what an output is worth: a `Task` with a divergence, or text such as ``"pixels"``.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart as in the paper's code.

    Returns:
        The recipe.

    Example:
        >>> import advreg, torch
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> trades(beta=6.0)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019, arXiv:1901.08573.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        target = probabilities(model, x) if reference == "clean" else perturbed_reference(model, x, threat)
        x_adv = worst_case(model, x, target, attack, threat, kl)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        return label_loss(z, y, label_smoothing) + beta * divergence(z, z_adv).mean()

    return (
        loss
        if as_task(task) is CLASSES
        else _of_task(beta, as_task(task), loss_of(task, label_smoothing), reference, forwards)
    )


def _of_task(
    beta: float, task: Task, compute: Callable[[Tensor, Tensor], Tensor], reference: str, forwards: Forwards
) -> Recipe:
    """Return TRADES for the divergence of a task."""
    unstable = stability(task)
    apart = unstable.objective

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        with eval_mode(model):
            point = x if reference == "clean" else beside(x, threat)
            target = query_model(model, point).detach()
        x_adv = worst_case(model, x, target, attack, threat, apart, task=unstable)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        return compute(z, y) + beta * apart(z_adv, z).mean()

    return loss
