"""SMART and ALUM: an answer should stay as it is when embeddings move a little, whatever the label says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advreg.language.perturbation import project, replayed_rng, steepest_direction
from advreg.language.training.losses import kl, symmetric_kl

Answer = Callable[[Tensor], Tensor]
"""Perturbation ``(B, T, D)`` -> logits ``(B, V)`` or ``(B, S, V)``."""


def smart(
    answer: Answer,
    clean: Tensor,
    delta: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """Symmetric divergence between the clean answer and the worst one nearby, both of which learn.

    ``max_{|delta|_inf <= eps} kl(f(e + delta), f(e)) + kl(f(e), f(e + delta))``; add it to a loss with a weight lambda.

    Args:
        answer: perturbed logits.
        clean: logits without perturbation, with their graph.
        delta: where to begin; at zero the divergence is flat, so begin beside it.
        eps: largest change of a coordinate, in units of the embeddings.
        steps: ascents; each costs a forward and a backward, the term itself another forward.
        step_size: length of an ascent, in the same units.
        where: ``(B, T)`` bool, the tokens that may be perturbed.
        counted: ``(B, S)`` bool, the positions whose answers count, for logits of a sequence.

    Returns:
        ``(B,)``.

    Reference: Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural language models", ACL 2020.
    """
    worst = _worst(answer, clean.detach(), delta, eps, steps, step_size, where, counted)
    return symmetric_kl(answer(worst), clean, counted)


def alum(
    answer: Answer,
    clean: Tensor,
    delta: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None = None,
) -> Tensor:
    """Divergence of the worst answer nearby from the clean one, which stays put: virtual adversarial training.

    ``max_{|delta|_inf <= eps} kl(stop(f(e)), f(e + delta))``: no gradient flows through the clean answer. ALUM adds it in the
    second half of training only; see `regularizer_active`. Arguments and result are those of `smart`.

    Reference: Liu et al., "Adversarial training for large neural language models", 2020; Miyato et al., "Virtual adversarial
    training", 2018.
    """
    fixed = clean.detach()
    worst = _worst(answer, fixed, delta, eps, steps, step_size, where, counted)
    return kl(fixed, answer(worst), counted)


def regularizer_active(step: int, steps: int, clean_share: float) -> bool:
    """Tell whether the clean part of training is over: a term that starts late disturbs a fit less.

    Example:
        >>> [regularizer_active(step, 4, 0.5) for step in range(4)]
        [False, False, True, True]
    """
    return step >= clean_share * steps


def _worst(
    answer: Answer,
    clean: Tensor,
    delta: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    where: Tensor,
    counted: Tensor | None,
) -> Tensor:
    """Return the perturbation that ascends the divergence; the weights gather no gradient."""
    allowed = where.unsqueeze(-1)
    delta = project(delta.detach() * allowed, eps, "linf")
    with replayed_rng() as rewind:
        for _ in range(steps):
            delta.requires_grad_()
            apart = symmetric_kl(answer(delta), clean, counted).sum()
            (grad,) = torch.autograd.grad(apart, delta)
            delta = project(delta.detach() + step_size * steepest_direction(grad * allowed, "linf"), eps, "linf")
            rewind()
    return delta
