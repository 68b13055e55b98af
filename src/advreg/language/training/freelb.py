"""FreeLB: the ascents that search the worst perturbation also train the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.language.perturbation import project, replayed_rng, steepest_direction


def freelb(
    loss: Callable[[Tensor], Tensor], delta: Tensor, *, eps: float, steps: int, step_size: float, where: Tensor
) -> Tensor:
    """Add to the gradients the mean gradient over ``steps`` ascents, ``1/K sum_k grad loss(delta_k)``.

    ``delta_{k+1} = project(delta_k + step_size g_k / |g_k|)``, where ``g_k`` and the gradient of the weights come from one
    backward. All ascents use the same dropout mask, because the loss depends on it.

    Args:
        loss: perturbation ``(B, T, D)`` -> loss ``()``, with a graph to the weights.
        delta: start of the search, such as `random_start`.
        eps: radius of the ball, l2 over all tokens of an example, in units of the embeddings.
        steps: ascents, K; each costs one forward and one backward.
        step_size: length of an ascent.
        where: ``(B, T)`` bool, the tokens that may be perturbed.

    Returns:
        The mean of the losses ``()``, detached; gradients are already in the weights.

    Reference: Zhu et al., "FreeLB: enhanced adversarial training for natural language understanding", ICLR 2020.
    """
    allowed = where.unsqueeze(-1)
    delta = project(delta.detach() * allowed, eps, "example")
    total = torch.zeros((), device=delta.device, dtype=delta.dtype)
    with replayed_rng() as rewind:
        for step in range(steps):
            if step:
                rewind()
            delta = delta.detach().requires_grad_()
            value = loss(delta)
            (value / steps).backward()  # type: ignore[no-untyped-call]
            total += value.detach() / steps
            delta = _ascend(delta, allowed, eps, step_size)
    return total


def _ascend(delta: Tensor, allowed: Tensor, eps: float, step_size: float) -> Tensor:
    assert delta.grad is not None
    moved = delta.detach() + step_size * steepest_direction(delta.grad * allowed, "example")
    return project(moved, eps, "example")
