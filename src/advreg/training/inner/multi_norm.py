"""Attacks on a union of norms: the worst of several attacks (MAX), the best of several steps (MSD), one norm a batch (E-AT)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from advreg import distributed
from advreg.attacks import CraftedExamples, craft
from advreg.attacks.inputs import read_training
from advreg.attacks.model import query_model, widen
from advreg.attacks.outputs import checked_once
from advreg.attacks.search import QuerySpec, query
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel, broadcast_per_example
from advreg.training.per_example_state import Saved

CraftingAttack = Callable[..., CraftedExamples]
"""An attack for training, with its cost: `advreg.attacks.craft` with its options bound."""

_PGD_LENGTH = 2.5  # eps that all steps together can go, as in PGD


def union_of(threat: ThreatModel, others: Sequence[ThreatModel], eps: float | None = None) -> list[ThreatModel]:
    """Return the threat models of a union; a policy that scales the first one's eps scales all.

    Args:
        threat: the first threat model, with the box of all.
        others: the other threat models.
        eps: radius of ``threat`` at which the others have their own; None for no scaling.

    Returns:
        All threat models.

    Example:
        >>> first = ThreatModel("linf", eps=0.05)
        >>> [each.eps for each in union_of(first, [ThreatModel("l2", eps=2.0)], eps=0.1)]
        [0.05, 1.0]
    """
    share = 1.0 if not eps else threat.eps / eps
    return [threat, *(replace(other, box=threat.box).with_eps(other.eps * share) for other in others)]


def worst_norm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    others: Sequence[ThreatModel],
    attack: CraftingAttack = craft,
    eps: float | None = None,
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
) -> CraftedExamples:
    """Attack within each norm, and keep for each example the point with the largest objective: MAX.

    With p norms and K steps: p (K + 1) forwards, p K backwards.

    Args:
        model: network that returns logits ``(B, K)``; its mode is not changed.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
        threat: the first threat model.
        others: the other threat models.
        attack: attack within one norm.
        eps: see `union_of`.
        objective: ``(logits, y) -> (B,)``, maximised.
        ids: example ids ``(B,)`` that seed the random draws; positions in the batch if None.
        seed: seed of the random draws.

    Returns:
        A `CraftedExamples`; each point is inside one of the threat models.

    Example:
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> worst_norm(nn.Linear(4, 3), x, y, ThreatModel("linf", 0.1), others=[ThreatModel("l2", 0.2)]).backwards
        40

    Reference: Tramer and Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019,
    arXiv:1904.13000.
    """
    found = [
        attack(model, x, y, each, objective=objective, ids=ids, seed=seed) for each in union_of(threat, others, eps)
    ]
    points = [each.x_adv.detach() for each in found]
    worst = _worst(model, points, y, checked_once(objective))
    forwards = sum(each.forwards for each in found) + len(points) * len(x)
    return CraftedExamples(worst, forwards=forwards, backwards=sum(each.backwards for each in found))


def multi_steepest(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    others: Sequence[ThreatModel],
    steps: int = 10,
    eps: float | None = None,
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
) -> CraftedExamples:
    """Take at each step the steepest step of the norm that raises the objective most: multi steepest descent (MSD).

    It starts at ``x``; each step is ``2.5 eps / steps`` long in its norm, and is projected onto the ball of that norm. With p
    norms and K steps: K (p + 1) forwards, K backwards.

    Args:
        model: network that returns logits ``(B, K)``; its mode is not changed.
        x: inputs ``(B, ...)`` inside the box.
        y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
        threat: the first threat model.
        others: the other threat models.
        steps: gradient steps.
        eps: see `union_of`.
        objective: ``(logits, y) -> (B,)``, maximised.
        ids: not used: nothing is drawn.
        seed: not used.

    Returns:
        A `CraftedExamples`; each point is inside one of the threat models.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.

    Example:
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> found = multi_steepest(nn.Linear(4, 3), x, y, ThreatModel("linf", 0.1), others=[ThreatModel("l2", 0.2)], steps=5)
        >>> found.forwards, found.backwards
        (30, 10)

    Reference: Maini, Wong, Kolter, "Adversarial robustness against the union of multiple perturbation models", ICML 2020,
    arXiv:1909.04068.
    """
    x, y = read_training(x, y, threat)
    x, measure = widen(x), checked_once(objective)
    threats, adv = union_of(threat, others, eps), x
    for _ in range(steps):
        _, _, grad = query(QuerySpec(model, measure), adv, y)
        moved = [_step_within(each, adv, grad, x, steps) for each in threats]
        adv = _worst(model, moved, y, measure)
    return CraftedExamples(adv, forwards=steps * (len(threats) + 1) * len(x), backwards=steps * len(x))


def _step_within(threat: ThreatModel, adv: Tensor, grad: Tensor, x: Tensor, steps: int) -> Tensor:
    length = _PGD_LENGTH * threat.radii(x) / steps
    return threat.project(adv + length * threat.steepest(grad, adv, x), x)


def _worst(model: nn.Module, points: Sequence[Tensor], y: Tensor, objective: Objective) -> Tensor:
    """Return for each example the point with the largest objective, the first of equal ones."""
    losses = torch.stack([objective(query_model(model, each), y).detach() for each in points])
    chosen, worst = losses.nan_to_num(nan=torch.inf).argmax(0), points[0]
    for number, each in enumerate(points[1:], 1):
        worst = torch.where(broadcast_per_example(chosen == number, each), each, worst)
    return worst


class SampledNorm:
    """Attack one norm a batch, drawn in proportion to the error rates under attack: the scheme of E-AT.

    The rates are running means over the batches of each norm. With K steps: K + 1 forwards, K backwards, whatever the number of
    norms.

    Args:
        others: the threat models beside the one of the call.
        attack: attack within one norm.
        eps: see `union_of`.
        decay: weight of the past in the running means.

    Example:
        >>> attack = SampledNorm([ThreatModel("l2", 0.2)])
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> attack(nn.Linear(4, 3), x, y, ThreatModel("linf", 0.1)).forwards
        22

    Reference: Croce, Hein, "Adversarial robustness against multiple and single lp-threat models via quick fine-tuning of
    robust classifiers", ICML 2022, arXiv:2105.12508.
    """

    def __init__(
        self,
        others: Sequence[ThreatModel],
        attack: CraftingAttack = craft,
        eps: float | None = None,
        decay: float = 0.9,
    ) -> None:
        self.others, self.attack = list(others), attack
        self.eps, self.decay = eps, decay
        self.errors = torch.ones(1 + len(self.others))

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        objective: Objective = cross_entropy,
        ids: Tensor | None = None,
        seed: int = 0,
    ) -> CraftedExamples:
        """Return the points to train on, all within the same norm.

        Args:
            model: network that returns logits ``(B, K)``; its mode is not changed.
            x: inputs ``(B, ...)`` inside the box.
            y: labels ``(B,)``, or probabilities ``(B, K)`` where the objective takes them.
            threat: the first threat model.
            objective: ``(logits, y) -> (B,)``, maximised.
            ids: example ids ``(B,)`` that seed the random draws; positions in the batch if None.
            seed: seed of the random draws.

        Returns:
            A `CraftedExamples`.
        """
        draws = torch.Generator().manual_seed(seed)
        chosen = int(torch.multinomial(self.errors.clamp_min(1e-3), 1, generator=draws))
        each = union_of(threat, self.others, self.eps)[chosen]
        found = self.attack(model, x, y, each, objective=objective, ids=ids, seed=seed)
        wrong = query_model(model, found.x_adv).argmax(1) != (y if y.ndim == 1 else y.argmax(1))
        self.errors[chosen] = self.decay * self.errors[chosen] + (1 - self.decay) * wrong.float().mean().cpu()
        return CraftedExamples(found.x_adv, forwards=found.forwards + len(x), backwards=found.backwards)

    def share(self) -> None:
        """Give every rank the mean of the error rates."""
        distributed.sum_in_place(self.errors)
        self.errors = self.errors / distributed.current_ranks().world_size

    def state_dict(self) -> Saved:
        """Return the error rates."""
        return {"errors": self.errors}

    def load_state_dict(self, state: Saved) -> None:
        """Restore error rates that `state_dict` returned."""
        self.errors = state["errors"].clone()
