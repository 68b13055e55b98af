"""SMART and ALUM: the output should not change when embeddings change a little, whatever the label."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.language.perturbation import project, replayed_rng, steepest_direction
from advreg.language.training.losses import kl, symmetric_kl

LogitsOf = Callable[[Tensor], Tensor]
"""Perturbation ``(B, T, D)`` -> logits ``(B, V)`` or ``(B, S, V)``."""


def smart(
    logits_of: LogitsOf,
    clean: Tensor,
    delta: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the symmetric divergence between the clean output and the worst one nearby; gradients flow through both.

    ``max_{|delta|_inf <= eps} kl(f(e + delta), f(e)) + kl(f(e), f(e + delta))``; add it to a loss with a weight lambda.

    Args:
        logits_of: perturbation to logits.
        clean: logits without perturbation, with their graph.
        delta: start of the search; at zero the gradient of the divergence is zero, so start beside it.
        eps: largest change of a coordinate, in units of the embeddings.
        steps: ascents; each costs a forward and a backward, the term itself another forward.
        step_size: length of an ascent, in the same units.
        where: ``(B, T)`` bool, the tokens that may be perturbed.
        counted: ``(B, S)`` bool, the positions that count, for logits of a sequence.

    Returns:
        ``(B,)``.

    Reference: Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural language models", ACL 2020.
    """
    worst = _worst(logits_of, clean.detach(), delta, eps, steps, step_size, where, counted)
    return symmetric_kl(logits_of(worst), clean, counted)


def alum(
    logits_of: LogitsOf,
    clean: Tensor,
    delta: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """Return the divergence of the worst output nearby from the clean one, which is fixed: virtual adversarial training.

    ``max_{|delta|_inf <= eps} kl(stop(f(e)), f(e + delta))``: no gradient flows through the clean output. ALUM adds it in the
    second half of training only; see `regularizer_active`.

    Args:
        logits_of: perturbation to logits.
        clean: logits without perturbation; their graph is not used.
        delta: start of the search; at zero the gradient of the divergence is zero, so start beside it.
        eps: largest change of a coordinate, in units of the embeddings.
        steps: ascents; each costs a forward and a backward, the term itself another forward.
        step_size: length of an ascent, in the same units.
        where: ``(B, T)`` bool, the tokens that may be perturbed.
        counted: ``(B, S)`` bool, the positions that count, for logits of a sequence.

    Returns:
        ``(B,)``.

    Reference: Liu et al., "Adversarial training for large neural language models", 2020; Miyato et al., "Virtual adversarial
    training", 2018.
    """
    fixed = clean.detach()
    worst = _worst(logits_of, fixed, delta, eps, steps, step_size, where, counted)
    return kl(fixed, logits_of(worst), counted)


def regularizer_active(step: int, steps: int, clean_share: float) -> bool:
    """Return whether the regularizer applies at a step: it starts after the clean share of training.

    Args:
        step: number of the step, from 0.
        steps: steps of the whole run.
        clean_share: share of training without the regularizer.

    Example:
        >>> [regularizer_active(step, 4, 0.5) for step in range(4)]
        [False, False, True, True]
    """
    return step >= clean_share * steps


def _worst(
    logits_of: LogitsOf,
    clean: Tensor,
    delta: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Return the perturbation that maximises the divergence; the weights get no gradient."""
    allowed = where.unsqueeze(-1)
    delta = project(delta.detach() * allowed, eps, "linf")
    with replayed_rng() as rewind:
        for _ in range(steps):
            delta.requires_grad_()
            divergence = symmetric_kl(logits_of(delta), clean, counted).sum()
            (grad,) = torch.autograd.grad(divergence, delta)
            delta = project(delta.detach() + step_size * steepest_direction(grad * allowed, "linf"), eps, "linf")
            rewind()
    return delta
