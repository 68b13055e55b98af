"""How a minimum-norm attack looks at the model: logits, a function that is positive where it is fooled, and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.hyperplane_projection import onto_plane
from advreg.attacks.minimum_norm.l0 import dual
from advreg.attacks.minimum_norm.state import Linearisation, Look, MinimumNormState
from advreg.attacks.model import Model, gradient_at, own_leaf, query_model
from advreg.attacks.search import QuerySpec, query
from advreg.objectives import Objective
from advreg.threat import Norm, broadcast_per_example

Way = Callable[[MinimumNormState, Tensor, Tensor], Tensor]
"""``(state, value, gradient) -> distance`` of the zero of a linear function from each iterate, ``(B,)``."""


def linearise_objective(model: Model, objective: Objective, *, targeted: bool = False) -> Look:
    """Look along one objective, negated if targeted."""

    ask = QuerySpec(model, objective, targeted)

    def look(state: MinimumNormState) -> Linearisation:
        logits, value, grad = query(ask, state.adv, state.y)
        return Linearisation(logits, _finite(value), grad)

    return look


def linearise_class_rank(model: Model, rank: int) -> Look:
    """Look at ``z_t - z_y``, with t the class of this rank (0 first) among the other classes' clean logits."""

    def look(state: MinimumNormState) -> Linearisation:
        others = state.clean.scatter(1, state.y[:, None], -torch.inf)
        target = others.topk(rank + 1, dim=1).indices[:, rank]

        def lead(logits: Tensor, y: Tensor) -> Tensor:
            return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]

        return linearise_objective(model, lead)(state)

    return look


def linearise_nearest_class(model: Model, way: Way) -> Look:
    """Look at the ``z_k - z_y`` whose linear model vanishes nearest inside the box, of all other classes k: K-1 backwards."""

    def look(state: MinimumNormState) -> Linearisation:
        with torch.inference_mode(False), torch.enable_grad():
            point = own_leaf(state.adv).requires_grad_()
            logits = query_model(model, point)
        value, grad, least = _plane(state, logits, point, 0, way)
        for j in range(1, logits.shape[1] - 1):
            other_value, other_grad, gap = _plane(state, logits, point, j, way)
            nearer = gap < least
            value, least = torch.where(nearer, other_value, value), torch.where(nearer, gap, least)
            grad = torch.where(broadcast_per_example(nearer, grad), other_grad, grad)
        return Linearisation(logits.detach(), value, grad, logits.shape[1] - 1)

    return look


def _plane(state: MinimumNormState, logits: Tensor, point: Tensor, j: int, way: Way) -> tuple[Tensor, Tensor, Tensor]:
    """Return value and gradient of the lead of the j-th class that is not the label's, and the distance to its zero."""
    other = j + (j >= state.y).long()
    with torch.enable_grad():
        lead = (logits.gather(1, other[:, None]) - logits.gather(1, state.y[:, None]))[:, 0]
        grad = gradient_at(lead, point, retain_graph=True)
    value = _finite(lead.detach())
    return value, grad, way(state, value, grad).masked_fill(torch.isneginf(lead.detach()), torch.inf)  # a mask's class


def inside_way(state: MinimumNormState, value: Tensor, grad: Tensor) -> Tensor:
    """Return how far the zero of a linear function is from each iterate, inf where the box does not hold it: ``(B,)``."""
    (low, high), point, w = state.ball.box, state.adv.flatten(1), grad.flatten(1)
    norm: Norm = state.ball.norm  # type: ignore[assignment]  # l0 was refused
    offset = onto_plane(norm, w, value, low - point, high - point)
    missed = (value + (w * offset).sum(1)).abs() > 1e-3 * value.abs()
    return state.ball.distance(offset, torch.zeros_like(offset)).masked_fill(missed, torch.inf)


def straight_way(state: MinimumNormState, value: Tensor, grad: Tensor) -> Tensor:
    """Return how far the zero of a linear function is from each iterate where no box cuts the way: ``(B,)``."""
    (low, high), uphill = state.ball.box, -grad * broadcast_per_example(value.sign(), grad)
    blocked = ((uphill > 0) & (state.adv >= high)) | ((uphill < 0) & (state.adv <= low))
    return (value.abs() / dual(state.ball, grad.masked_fill(blocked, 0.0)).clamp_min(1e-30)).double()


def _finite(value: Tensor) -> Tensor:
    return torch.nan_to_num(value, 0.0, 0.0, 0.0)
