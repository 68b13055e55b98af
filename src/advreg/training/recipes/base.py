"""What a recipe is, and the steps that recipes share: find the worst case, ask the model once, compare two answers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, ParamSpec, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.inputs import read_pair, reject_classes, reject_logits, reject_radii, reject_unboxed
from advreg.attacks.model import query_model, widen
from advreg.config.registry import call_with_options
from advreg.module_modes import eval_mode
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel

P = ParamSpec("P")


class InnerResult(Protocol):
    """What an attack returns, as far as a recipe looks."""

    @property
    def x_adv(self) -> Tensor:
        """The attacked inputs ``(B, ...)``."""


Attack = Callable[..., InnerResult]
"""``(model, x, y, threat, *, objective, seed) -> result`` with ``x_adv``: any attack, its other options bound.

`advreg.attacks.craft` spends nothing on judging; of `advreg.pgd` and others, recipes switch the early stop off.
"""

Recipe = Callable[[nn.Module, Tensor, Tensor, Attack, ThreatModel], Tensor]
"""``(model, x, y, attack, threat) -> loss``, a scalar to call ``backward`` on."""

Smoothing = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


def check_loss(make: Callable[P, Recipe]) -> Callable[P, Recipe]:
    """Hold the options of a recipe to their annotations, and its batches to what fits together: one line says what is wrong."""

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        options = inspect.signature(make).bind_partial(*args).arguments | kwargs
        recipe = call_with_options("recipe", make.__name__, make, options)
        return on_pairs(recipe) if inspect.isfunction(recipe) else recipe

    return made


def on_pairs(recipe: Recipe) -> Recipe:
    """Return the recipe for batches of any form: it gets tensors of equal length, labels as int64.

    Raises:
        DataError: when called with an empty batch, or with inputs and labels that do not fit each other.
    """

    @functools.wraps(recipe)
    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x, y = read_pair(x, y)
        if threat is not None:  # recipes without an attack need none
            reject_radii(x, threat)
        return recipe(model, x, y, attack, threat)

    return loss


def label_loss(z: Tensor, y: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits ``(B, K)``; examples labelled -100 do not count.

    Args:
        z: logits.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        label_smoothing: share of each label that is spread evenly over all classes.
        reduction: as torch's.

    Raises:
        DataError: a label that the model does not have.
        ModelError: an output that is no logits.
    """
    try:
        y = y.to(z.dtype) if y.is_floating_point() else y
        return F.cross_entropy(z, y, label_smoothing=label_smoothing, reduction=reduction)
    except (IndexError, RuntimeError, TypeError):  # looking first would wait for the device at every step
        reject_logits(z, len(y))
        reject_classes(y, z.shape[1], ignored=True)
        raise


def run_attack_in_eval(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: ThreatModel,
    objective: Objective = cross_entropy,
) -> InnerResult:
    """Return all that the attack says, with the model in eval mode; weights, their gradients and modes are untouched.

    The attack's seed is drawn from torch's generator: a new random start at every step, the same in a repeated run.

    Raises:
        DataError: inputs outside the threat's box.
    """
    reject_unboxed(x, threat.box)
    with eval_mode(model):
        return disable_early_stop(attack)(model, x, y, threat, objective=objective, seed=draw_seed())


def disable_early_stop(attack: Attack) -> Attack:
    """Return the attack told not to leave alone what is wrong already, unless the caller has bound that himself.

    An evaluation has learned all it wants once an example is broken; training wants the worst point of every one.

    Example:
        >>> from advreg.attacks import pgd
        >>> disable_early_stop(pgd).keywords, disable_early_stop(functools.partial(pgd, early_stop=True)).keywords
        ({'early_stop': False}, {'early_stop': True})
    """
    bound = attack.keywords if isinstance(attack, functools.partial) else {}
    if "early_stop" in bound or "early_stop" not in inspect.signature(attack).parameters:
        return attack
    return functools.partial(attack, early_stop=False)


def worst_case(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: ThreatModel,
    objective: Objective = cross_entropy,
) -> Tensor:
    """Return the attacked inputs; `run_attack_in_eval` says how they are found."""
    return run_attack_in_eval(model, x, y, attack, threat, objective).x_adv.detach()


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Return what the model answers in eval mode, without gradient ``(B, K)``."""
    with eval_mode(model):
        return query_model(model, x).softmax(1).detach()  # not under no_grad: torch < 2.10's autocast caches that


def perturbed_reference(model: nn.Module, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return the probabilities ``(B, K)`` in eval mode a hair (eps / 32, in a random direction) beside ``x``.

    A divergence from the answer at ``x`` itself is flat at ``x``, and an attack that starts there would never move.
    The direction is the same for every example, so that it does not depend on who else is in the batch.
    """
    x = widen(x)
    nobody = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return probabilities(model, x + (threat.random_start(x, nobody, draw_seed()) - x) / 32)


def clean_and_adversarial_logits(model: nn.Module, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of clean and attacked inputs, in one forward (BatchNorm sees both) with the attacked ones last."""
    z, z_adv = query_model(model, torch.cat([x, x_adv])).chunk(2)
    return z, z_adv


def divergence(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return ``KL(softmax(z) || softmax(z_adv))`` for each example, finite also where probabilities are 0 or 1.

    Classes that a mask of -inf rules out in both add nothing.
    """
    least = torch.finfo(z.dtype).min / 4  # finite, so that its difference to itself is 0
    log_p, log_q = (logits.log_softmax(1).clamp_min(least) for logits in (z, z_adv))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def pairing(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return the mean squared difference of logits; classes that a mask of -inf rules out in both add nothing."""
    masked = torch.isneginf(z) & torch.isneginf(z_adv)
    return F.mse_loss(z_adv.masked_fill(masked, 0.0), z.masked_fill(masked, 0.0))


def bind_ids(attack: Attack, ids: Tensor) -> Attack:
    """Return the attack with the random draws of these examples; a recipe that attacks fewer attacks the last ones.

    Args:
        attack: an attack that takes ``ids``.
        ids: example ids of the whole batch ``(B,)``.
    """
    whole = disable_early_stop(attack)

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: object) -> InnerResult:
        return whole(model, x, y, threat, ids=ids[len(ids) - len(x) :], **options)

    return attacked


def draw_seed() -> int:
    """Return a seed from torch's generator."""
    return int(torch.randint(2**31, ()))
