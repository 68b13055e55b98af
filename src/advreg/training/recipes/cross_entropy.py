"""Recipes of cross-entropy alone: on clean inputs, on attacked ones, and on both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.inputs import into_box_once
from advreg.attacks.model import query_model
from advreg.tasks import as_task
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Forwards,
    Recipe,
    Share,
    Smoothing,
    Weight,
    check_loss,
    clean_and_adversarial_logits,
    worst_case,
)
from advreg.training.recipes.task_losses import TaskOption, attack_objective, loss_of


@check_loss
def standard(label_smoothing: Smoothing = 0.0, task: TaskOption = "classes") -> Recipe:
    """Minimise the cross-entropy on clean inputs: no defence, the baseline of every table.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.

    Returns:
        The recipe; its attack may be None.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> loss = standard()(model, x, y, None, ThreatModel("linf", eps=0.1))
        >>> bool(loss == nn.functional.cross_entropy(model(x), y))
        True
    """

    compute = loss_of(task, label_smoothing)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        return compute(query_model(model, x), y)

    return loss


@check_loss
def gaussian(sigma: Weight = 0.25, label_smoothing: Smoothing = 0.0, task: TaskOption = "classes") -> Recipe:
    """Minimise the cross-entropy under Gaussian noise, ``E CE(f(x + N(0, sigma^2 I)), y)``, for randomised smoothing.

    The noise leaves the box, as it does in `advreg.certify_smoothed` with the same sigma.

    Args:
        sigma: standard deviation of the noise in the units of the box.
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.

    Returns:
        The recipe; its attack may be None.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> gaussian(sigma=0.5)(model, x, y, None, ThreatModel("l2", eps=0.5)).backward()

    Reference: Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019,
    arXiv:1902.02918.
    """

    compute = loss_of(task, label_smoothing)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        return compute(query_model(model, x + sigma * torch.randn_like(x)), y)

    return loss


@check_loss
def madry(label_smoothing: Smoothing = 0.0, task: TaskOption = "classes") -> Recipe:
    """Minimise the cross-entropy at the worst point found: ``min_w E max_delta CE(f(x + delta), y)``.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.

    Returns:
        The recipe.

    Example:
        >>> from functools import partial
        >>> import advreg
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
        >>> threat = ThreatModel("linf", eps=0.1)
        >>> madry()(model, x, y, partial(advreg.pgd, steps=3), threat).backward()

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, arXiv:1706.06083.
    """

    chosen, compute = as_task(task), loss_of(task, label_smoothing)
    objective = attack_objective(chosen)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x_adv = worst_case(model, x, y, attack, threat, objective, task=chosen)
        return compute(query_model(model, x_adv), y)

    return loss


@check_loss
def mixed(ratio: Share = 0.5, label_smoothing: Smoothing = 0.0, task: TaskOption = "classes") -> Recipe:
    """Minimise the cross-entropy on a batch of which the last ``ratio`` is attacked and the rest is clean.

    Only the attacked part costs an attack. 0 is `standard`, 1 is `madry`; 0.05 to 0.15 for first experiments, 0.15 to
    0.3 where clean accuracy matters most.

    Args:
        ratio: share of the batch that is attacked, rounded to whole examples.
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.

    Returns:
        The recipe.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((8, 4), 0.5), torch.arange(8) % 3
        >>> mixed(0.25)(model, x, y, advreg.pgd, ThreatModel("linf", eps=0.1)).backward()  # attacks 2 of 8

    Reference: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, arXiv:1412.6572;
    Kurakin, Goodfellow, Bengio, "Adversarial machine learning at scale", ICLR 2017, arXiv:1611.01236, for parts of a batch.
    """

    chosen, compute = as_task(task), loss_of(task, label_smoothing)
    objective = attack_objective(chosen)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x = into_box_once(x, threat.box)
        clean = len(x) - round(ratio * len(x))
        if clean < len(x):
            attacked = threat.select(torch.arange(clean, len(x), device=x.device))
            worst = worst_case(model, x[clean:], y[clean:], attack, attacked, objective, task=chosen)
            x = torch.cat([x[:clean], worst])
        return compute(query_model(model, x), y)

    return loss


@check_loss
def multiplier(
    multiplier: Weight = 0.2,
    label_smoothing: Smoothing = 0.0,
    task: TaskOption = "classes",
    forwards: Forwards = "one",
) -> Recipe:
    """Add the attacked loss to the clean one: ``CE(f(x), y) + multiplier CE(f(x_adv), y)``. 0 is `standard`.

    Args:
        multiplier: weight of the attacked loss.
        label_smoothing: share of each label that is spread evenly over all classes.
        task: a `Task`, or text such as ``"pixels"``; its training loss takes the place of the cross-entropy.
        forwards: whether BatchNorm normalises clean and attacked inputs together, ``"one"``, or apart as in the paper's code.

    Returns:
        The recipe.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> multiplier(0.2)(model, x, y, advreg.fgsm, ThreatModel("l2", eps=0.1)).backward()

    Reference: Bui, Ravi, Ramavajjala, "Neural graph learning: training neural networks using graphs", WSDM 2018, as in
    neural structured learning.
    """

    chosen, compute = as_task(task), loss_of(task, label_smoothing)
    objective = attack_objective(chosen)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x_adv = worst_case(model, x, y, attack, threat, objective, task=chosen)
        z, z_adv = clean_and_adversarial_logits(model, x, x_adv, forwards)
        return compute(z, y) + multiplier * compute(z_adv, y)

    return loss if multiplier else standard(label_smoothing, task=task)
