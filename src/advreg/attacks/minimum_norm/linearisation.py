"""Linearisations: logits, a function that is positive where the model is fooled, and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.hyperplane_projection import onto_plane
from advreg.attacks.minimum_norm.l0 import dual
from advreg.attacks.minimum_norm.state import Linearisation, Linearise, MinimumNormState
from advreg.attacks.model import Model, gradient_at, own_leaf, query_model
from advreg.attacks.search import QuerySpec, query
from advreg.objectives import Objective
from advreg.threat import Norm, broadcast_per_example

PlaneDistance = Callable[[MinimumNormState, Tensor, Tensor], Tensor]
"""``(state, value, gradient) -> distance`` of each iterate from the zero of a linear function, ``(B,)``."""


def linearise_objective(model: Model, objective: Objective, *, targeted: bool = False) -> Linearise:
    """Return the linearisation of an objective, negated if targeted.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        objective: function of logits and labels, positive where the model is fooled.
        targeted: whether labels are the classes that the adversary wants.

    Returns:
        The query of each step of a minimum-norm search.
    """

    spec = QuerySpec(model, objective, targeted)

    def linearise(state: MinimumNormState) -> Linearisation:
        logits, value, grad = query(spec, state.adv, state.y)
        return Linearisation(logits, _finite(value), grad)

    return linearise


def linearise_class_rank(model: Model, rank: int) -> Linearise:
    """Return the linearisation of ``z_t - z_y``, t the class of this rank (0 first) among the other clean logits.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        rank: 0 for the most likely wrong class.

    Returns:
        The query of each step of a minimum-norm search.
    """

    def linearise(state: MinimumNormState) -> Linearisation:
        others = state.clean.scatter(1, state.y[:, None], -torch.inf)
        target = others.topk(rank + 1, dim=1).indices[:, rank]

        def lead(logits: Tensor, y: Tensor) -> Tensor:
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

        return linearise_objective(model, lead)(state)

    return linearise


def linearise_nearest_class(model: Model, plane_distance: PlaneDistance) -> Linearise:
    """Return the linearisation of the ``z_k - z_y`` with the nearest zero, of all other classes k: K-1 backwards.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        plane_distance: distance of the zero of each linear function, such as `distance_in_box`.

    Returns:
        The query of each step of a minimum-norm search.
    """

    def linearise(state: MinimumNormState) -> Linearisation:
        with torch.inference_mode(False), torch.enable_grad():
            point = own_leaf(state.adv).requires_grad_()
            logits = query_model(model, point)
        value, grad, least = _linearise_rank(state, logits, point, 0, plane_distance)
        for j in range(1, logits.shape[1] - 1):
            other_value, other_grad, gap = _linearise_rank(state, logits, point, j, plane_distance)
            nearer = gap < least
            value, least = torch.where(nearer, other_value, value), torch.where(nearer, gap, least)
            grad = torch.where(broadcast_per_example(nearer, grad), other_grad, grad)
        return Linearisation(logits.detach(), value, grad, logits.shape[1] - 1)

    return linearise


def _linearise_rank(
    state: MinimumNormState, logits: Tensor, point: Tensor, j: int, plane_distance: PlaneDistance
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value and gradient of the lead of the j-th class other than the label, and the distance to its zero."""
    other = j + (j >= state.y).long()
    with torch.enable_grad():
        lead = (logits.gather(1, other[:, None]) - logits.gather(1, state.y[:, None]))[:, 0]
        grad = gradient_at(lead, point, retain_graph=True)
    value = _finite(lead.detach())
    return (
        value,
        grad,
        plane_distance(state, value, grad).masked_fill(torch.isneginf(lead.detach()), torch.inf),
    )  # a class that a mask rules out


def distance_in_box(state: MinimumNormState, value: Tensor, grad: Tensor) -> Tensor:
    """Return the distance to the nearest zero of a linear function inside the box, inf if there is none: ``(B,)``.

    Args:
        state: iterates, norm and box.
        value: value of the function at the iterates ``(B,)``.
        grad: its gradient ``(B, ...)``.

    Returns:
        Distances ``(B,)``.
    """
    low, high = state.ball.box
    point, w = state.adv.flatten(1), grad.flatten(1)
    norm: Norm = state.ball.norm  # type: ignore[assignment]  # fab rejects l0
    offset = onto_plane(norm, w, value, low - point, high - point)
    missed = (value + (w * offset).sum(1)).abs() > 1e-3 * value.abs()
    return state.ball.distance(offset, torch.zeros_like(offset)).masked_fill(missed, torch.inf)


def distance_without_box(state: MinimumNormState, value: Tensor, grad: Tensor) -> Tensor:
    """Return the distance to the zero of a linear function, with no movement out of the box: ``(B,)``.

    Args:
        state: iterates, norm and box.
        value: value of the function at the iterates ``(B,)``.
        grad: its gradient ``(B, ...)``.

    Returns:
        Distances ``(B,)``.
    """
    (low, high), uphill = state.ball.box, -grad * broadcast_per_example(value.sign(), grad)
    blocked = ((uphill > 0) & (state.adv >= high)) | ((uphill < 0) & (state.adv <= low))
    return (value.abs() / dual(state.ball, grad.masked_fill(blocked, 0.0)).clamp_min(1e-30)).double()


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, 0.0, 0.0, 0.0)
