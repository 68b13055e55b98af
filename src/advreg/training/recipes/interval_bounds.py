"""Certified training: the loss of the worst logits that bounds allow, alone or beside the loss of attacked inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.bounds.graph import Graph
from advreg.bounds.inputs import InputSet
from advreg.bounds.interval import Interval, interval_bounds
from advreg.bounds.live_weights import batch_statistics, bind_weights
from advreg.bounds.margins import margins
from advreg.errors import DataError
from advreg.threat import ThreatModel
from advreg.training.recipes.base import Attack, Recipe, Share, Weight, check_loss, label_loss, worst_case

Margins = Callable[[Graph, InputSet, Tensor, list[Interval]], Tensor]


@check_loss
def ibp(kappa: Share = 0.0, tightness: Weight = 0.0) -> Recipe:
    """Minimise the cross-entropy of the worst logits that interval bounds allow: ``k CE(f(x), y) + (1 - k) CE(u(eps), y)``.

    ``u(eps)`` has 0 at the label and ``-low_j`` at every other class, with the lower bound of the margin ``z_y - z_j``.
    Let eps grow from 0 (policy ``warmup``): bounds of a network with new weights are too wide to learn from.

    Args:
        kappa: weight of the clean loss.
        tightness: weight of a penalty on intervals that widen from the input to an activation; 0.5 in Shi et al.

    Returns:
        The recipe; its attack may be None.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> loss = ibp()(model, x, y, None, ThreatModel("linf", 0.1))
        >>> bool(loss > nn.functional.cross_entropy(model(x), y))
        True

    Reference: Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models", 2018,
    arXiv:1810.12715; Shi et al., "Fast certified robust training with short warmup", NeurIPS 2021, arXiv:2103.17268.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        z, graph = _forward(model, x)
        intervals, worst = _worst_case(graph, InputSet(x, threat), y, _interval_margins)
        penalty = tightness * _widening(graph, intervals) if tightness else 0.0
        return _mix(kappa, label_loss(z, y), worst) + penalty

    return loss


@check_loss
def crown_ibp(beta: Share = 1.0, kappa: Share = 0.0) -> Recipe:
    """Minimise the cross-entropy of worst logits from linear bounds of the margins over interval bounds of the activations.

    The margins are ``b CROWN-IBP + (1 - b) IBP``; the rest is as in `ibp`, and so are the cost's two forwards, with one
    backward pass of the K - 1 margins of each example.

    Args:
        beta: share of the linear bounds.
        kappa: weight of the clean loss.

    Returns:
        The recipe; its attack may be None.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> arguments = (model, x, y, None, ThreatModel("linf", 0.1))
        >>> bool((crown_ibp()(*arguments) - ibp()(*arguments)).abs() < 1e-5)  # equal on a linear network
        True

    Reference: Zhang et al., "Towards stable and efficient training of verifiably robust neural networks", ICLR 2020,
    arXiv:1906.06316.
    """

    def bounds(graph: Graph, inputs: InputSet, y: Tensor, intervals: list[Interval]) -> Tensor:
        linear = margins(graph, inputs, y, intervals).value
        return linear if beta == 1 else beta * linear + (1 - beta) * _interval_margins(graph, inputs, y, intervals)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        z, graph = _forward(model, x)
        return _mix(kappa, label_loss(z, y), _worst_case(graph, InputSet(x, threat), y, bounds)[1])

    return loss


@check_loss
def mtl_ibp(alpha: Share = 0.5) -> Recipe:
    """Minimise the loss of attacked inputs and that of interval bounds together: ``(1 - a) CE(f(x_adv), y) + a CE(u(eps), y)``.

    Bounds overestimate the worst loss and attacks underestimate it; ``a`` is the trade-off: small for small eps.

    Args:
        alpha: weight of the bounds; 0.02 for MNIST at 0.1, 0.5 at 0.3, 0.01 for CIFAR-10 at 2/255, 0.6 at 8/255.

    Returns:
        The recipe.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> mtl_ibp(0.5)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: De Palma et al., "Expressive losses for verified robustness via convex combinations", ICLR 2024,
    arXiv:2305.13991.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        z, graph = _forward(model, worst_case(model, x, y, attack, threat))
        return _mix(1 - alpha, label_loss(z, y), _worst_case(graph, InputSet(x, threat), y, _interval_margins)[1])

    return loss


@check_loss
def sabr(tau: Share = 0.4) -> Recipe:
    """Minimise the loss of interval bounds over a small set near the worst point: radius ``t eps`` inside the threat model.

    The set lies around ``x_adv``, moved to a distance of ``(1 - t) eps`` from ``x``, so all of it is valid. With ``t = 1`` it
    is `ibp`, and with ``t = 0`` adversarial training.

    Args:
        tau: radius of the small set as a share of eps; 0.4 for MNIST at 0.1, 0.9 at 0.3, 0.1 for CIFAR-10 at 2/255.

    Returns:
        The recipe.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> sabr(0.4)(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Müller et al., "Certified training: small boxes are all you need", ICLR 2023, arXiv:2210.04871.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        around = threat.with_eps(threat.eps * (1 - tau)).project(worst_case(model, x, y, attack, threat), x)
        _, graph = _forward(model, around)
        inputs = InputSet(around, threat.with_eps(threat.eps * tau))
        return _worst_case(graph, inputs, y, _interval_margins)[1]

    return loss


def certified_hits(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> int:
    """Return how many examples interval bounds prove, in eval mode and up to rounding.

    Args:
        model: the network; its modes are restored.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``.
        threat: norm, eps and box.

    Returns:
        Number of examples with positive lower bounds of all margins.
    """
    inputs = InputSet(x, threat)
    with torch.no_grad():
        graph = bind_weights(model, x, {})
        low = _interval_margins(graph, inputs, y, interval_bounds(graph, *inputs.interval))
    return int((low.amin(1) > 0).sum())


def _forward(model: nn.Module, x: Tensor) -> tuple[Tensor, Graph]:
    """Return the logits, and the operations with the statistics of that forward."""
    with batch_statistics(model) as statistics:
        z = query_model(model, x)
    return z, bind_weights(model, x, statistics)


def _interval_margins(graph: Graph, inputs: InputSet, y: Tensor, intervals: list[Interval]) -> Tensor:
    return margins(graph, inputs, y, intervals, depth=1).value


def _worst_case(graph: Graph, inputs: InputSet, y: Tensor, bounds: Margins) -> tuple[list[Interval], Tensor]:
    """Return the intervals, and the mean cross-entropy of the worst logits; examples labelled -100 do not count."""
    if y.is_floating_point():
        raise DataError("labels are probabilities, and bounds of margins need classes; leave out data.cutmix")
    intervals = interval_bounds(graph, *inputs.interval)
    low = bounds(graph, inputs, y.clamp_min(0), intervals)
    logits = torch.cat([low.new_zeros(len(y), 1), -low], 1)
    return intervals, label_loss(logits, torch.where(y < 0, y, 0))


def _widening(graph: Graph, intervals: list[Interval]) -> Tensor:
    """Return the mean share by which widths at activations exceed twice that of the input."""
    width = [(high - low).mean() for low, high in intervals]
    ratios = torch.stack([width[0] / width[graph.nodes[i].inputs[0]].clamp_min(1e-12) for i in graph.activations])
    return (1 - 2 * ratios).clamp_min(0.0).mean()


def _mix(share: float, clean: Tensor, worst: Tensor) -> Tensor:
    return worst if share == 0 else share * clean + (1 - share) * worst
