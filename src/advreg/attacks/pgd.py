"""Attacks along the steepest direction of the gradient: one step (FGSM), many (PGD), and with momentum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from advreg.attacks.inputs import checked_once, read_ids, read_training
from advreg.attacks.model import Model, bind_dtype, original, widen
from advreg.attacks.result import AttackResult, CraftedExamples
from advreg.attacks.search import (
    AttackState,
    Attempt,
    QuerySpec,
    Rule,
    initial_state,
    query,
    require_positive,
    run_attempt,
    search,
)
from advreg.attacks.verification import logits_of, reject_device
from advreg.errors import ThreatError
from advreg.example_rng import Stream
from advreg.objectives import Objective, cross_entropy, probability_margin
from advreg.threat import ThreatModel, broadcast_per_example

Start = Literal["uniform", "zero"]

_NEAR_LEAD = 0.9
"""Lead in probability below which a fast copy's point is attacked again: about a tenth of a robust network's survivors."""


def initial_point(start: Start, x: Tensor, threat: ThreatModel, ids: Tensor, seed: int, stream: Stream = 0) -> Tensor:
    """Return the first point of an attempt: the clean point, or a uniform draw from the ball.

    Args:
        start: ``"uniform"`` or ``"zero"``.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        ids: example ids ``(B,)``, on which the draws depend.
        seed: seed of the random draws.
        stream: which of several independent draws, such as the restart.

    Raises:
        ThreatError: another ``start``.
    """
    if start == "zero":
        return x
    if start != "uniform":
        raise ThreatError(f"start is {start!r}; allowed: 'uniform' (drawn from the ball) or 'zero' (the clean point)")
    return threat.random_start(x, ids, seed, stream)


def step_length(state: AttackState, step_size: float | None, share: float) -> float | Tensor:
    """Return the length of a step: ``step_size`` if given, else ``share`` of each row's eps."""
    return share * state.radii if step_size is None else step_size


def steepest_step(step_size: float | None, share: float) -> Rule:
    """Return the rule that steps along the steepest direction of the norm, then projects.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.
    """

    def rule(state: AttackState, _: int) -> AttackState:
        direction = state.threat.steepest(state.grad, state.adv)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved)

    return rule


def momentum_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Return the rule that steps along a decaying sum of past gradients, each divided by its l1 norm.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.
        decay: factor of the sum at each step.

    Reference: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.
    """

    def rule(state: AttackState, _: int) -> AttackState:
        size = state.grad.flatten(1).abs().sum(1).clamp_min(torch.finfo(state.grad.dtype).tiny)
        unit = state.grad / broadcast_per_example(size, state.x)
        velocity = decay * state.memory.get("velocity", torch.zeros_like(unit)) + unit
        direction = state.threat.steepest(velocity, state.adv)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved, memory={"velocity": velocity})

    return rule


def nesterov_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Return the momentum rule whose next gradient is taken where the momentum alone would lead.

    ``adv`` is that look-ahead point, inside the threat model; ``memory["at"]`` is the iterate itself.

    Args:
        step_size: length of a step in the units of the input, or None.
        share: length of a step as a share of eps if ``step_size`` is None.
        decay: factor of the sum of gradients at each step, and length of the look-ahead in steps.

    Reference: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020.
    """
    plain = momentum_step(step_size, share, decay)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = dict(state.memory)
        at = memory.pop("at", state.adv)
        moved = plain(replace(state, adv=at, memory=memory), k)
        ahead = (
            decay * step_length(state, step_size, share) * state.threat.steepest(moved.memory["velocity"], moved.adv)
        )
        return moved.moved_to(moved.adv + ahead, memory={**moved.memory, "at": moved.adv})

    return rule


def pgd_rule(steps: int, step_size: float | None, momentum: float, start: Start) -> Rule:
    """Return the step rule of PGD.

    A step is ``2.5 eps / steps`` long by default, which is enough to cross the ball and to converge. A single step is eps
    long, or 1.25 eps from a random start.

    Args:
        steps: number of steps of an attempt.
        step_size: length of a step in the units of the input, or None for the default.
        momentum: decay of the averaged gradient; 0 for none.
        start: ``"uniform"`` or ``"zero"``.

    Reference: Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, for one step.
    """
    share = 2.5 / steps if steps > 1 else 1.25 if start == "uniform" else 1.0
    return momentum_step(step_size, share, momentum) if momentum else steepest_step(step_size, share)


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    start: Start = "zero",
    step_size: float | None = None,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
) -> AttackResult:
    """Attack with one gradient step of length eps: ``x + eps * steepest(grad loss)``.

    With ``start="uniform"`` the step begins at a random point, is ``1.25 eps`` long and is then projected (RS-FGSM).

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        start: ``"zero"`` (the clean point) or ``"uniform"`` (a draw from the ball).
        step_size: length of the step in the units of the input; eps if None, or 1.25 eps from a random start.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether clean errors, and points that fool the model before the step, are not attacked further.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random start.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: another ``start``.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> fgsm(model, x, y, ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, arXiv:1412.6572;
    Wong, Rice, Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, for the random start.
    """
    return pgd(
        model,
        x,
        y,
        threat,
        steps=1,
        step_size=step_size,
        start=start,
        objective=objective,
        targeted=targeted,
        early_stop=early_stop,
        ids=ids,
        seed=seed,
    )


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 40,
    step_size: float | None = None,
    restarts: int = 1,
    start: Start = "uniform",
    momentum: float = 0.0,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    eot: int = 1,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by projected gradient ascent: ``x <- project(x + step_size * steepest(grad loss))``; the best iterate
    counts.

    An example that survives one restart costs ``steps + 3`` forwards (the clean point, the iterates, the verification) and
    ``steps`` backwards. A fast copy costs one more forward of its original for each survivor; survivors with a lead below
    0.9 in probability get a quarter more steps on the original (never with ``steps=1``, so that it is exactly FGSM).

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps of one attempt.
        step_size: length of a step in the units of the input; ``2.5 eps / steps`` of each example if None.
        restarts: number of attempts, each on the examples that survive.
        start: ``"uniform"`` (a draw from the ball) or ``"zero"`` (the clean point: the basic iterative method).
        momentum: decay of the averaged gradient; 0 for none, 1 as in the momentum iterative method.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        eot: number of samples averaged at every query, for models that are random.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts`` or ``eot`` below 1.
        ThreatError: another ``start``.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = pgd(model, x, y, ThreatModel("linf", 0.1), steps=5)
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, arXiv:1706.06083.
    """
    require_positive(steps=steps)
    ask = QuerySpec(bind_dtype(model, x), objective, targeted, eot)
    attempt = make_attempt(ask, pgd_rule(steps, step_size, momentum, start), steps, start, seed, early_stop=early_stop)
    return search(ask, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def make_attempt(ask: QuerySpec, rule: Rule, steps: int, start: Start, seed: int, *, early_stop: bool) -> Attempt:
    """Return an attempt: gradient ascent by a rule, then more steps on the original where a fast copy came near.

    Args:
        ask: the model and the objective.
        rule: step rule.
        steps: gradient steps.
        start: ``"uniform"`` or ``"zero"``.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves at once.
    """

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        origin = initial_point(start, x, threat, ids, seed, restart)
        found = run_attempt(ask, x, y, threat, origin, rule, steps=steps, early_stop=early_stop)
        if steps == 1:  # one-step attacks are never extended, so that steps=1 is exactly FGSM
            return found
        return refine_on_original(ask, found, (x, y, threat), rule, steps=math.ceil(steps / 4))

    return attempt


def refine_on_original(
    ask: QuerySpec, found: AttackResult, examples: tuple[Tensor, Tensor, ThreatModel], rule: Rule, *, steps: int
) -> AttackResult:
    """Continue on the original model where a fast copy came near, because the gradients of the copy are rounded.

    Near is a lead below 0.9 in probability over the next class, which does not depend on the batch. Without a fast copy the
    result is returned unchanged.

    Args:
        ask: the model and the objective.
        found: the result on the fast copy; its cost is updated in place.
        examples: clean inputs, labels and threat model of the attempt.
        rule: step rule.
        steps: gradient steps on the original.
    """
    x, y, threat = examples
    survivors = (~found.broken).nonzero()[:, 0]
    model = original(ask.model)
    if model is ask.model or not len(survivors):
        return found
    found.cost[survivors, 0] += 1
    lead = probability_margin(logits_of(model, found.x_adv[survivors]), y[survivors])
    near = survivors[lead < _NEAR_LEAD if ask.targeted else lead > -_NEAR_LEAD]
    if not len(near):
        return found
    start = found.x_adv[near]
    again = run_attempt(
        replace(ask, model=model), x[near], y[near], threat.select(near), start, rule, steps=steps, early_stop=True
    )
    return found.improved_by(again, near)


def mifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    start: Start = "zero",
    momentum: float = 1.0,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    eot: int = 1,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by the momentum iterative method: PGD from the clean point along ``v <- momentum * v + grad /
    ||grad||_1``.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps of one attempt.
        step_size: length of a step in the units of the input; ``eps / steps`` of each example if None.
        restarts: number of attempts, each on the examples that survive.
        start: ``"zero"`` (the clean point) or ``"uniform"`` (a draw from the ball).
        momentum: decay of the averaged gradient.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        eot: number of samples averaged at every query, for models that are random.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts`` or ``eot`` below 1.
        ThreatError: another ``start``.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> mifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, arXiv:1710.06081.
    """
    require_positive(steps=steps)
    ask = QuerySpec(bind_dtype(model, x), objective, targeted, eot)
    attempt = make_attempt(
        ask, momentum_step(step_size, 1 / steps, momentum), steps, start, seed, early_stop=early_stop
    )
    return search(ask, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def nifgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 1.0,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by the Nesterov iterative method: momentum whose gradient is taken at a look-ahead point.

    The look-ahead goes ``momentum * step_size`` along the norm's steepest direction; it stays inside the threat model and
    counts as an iterate.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps.
        step_size: length of a step in the units of the input; ``eps / steps`` of each example if None.
        momentum: decay of the averaged gradient, and length of the look-ahead in steps.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: accepted because every attack accepts them; this attack draws nothing.
        seed: accepted because every attack accepts it; this attack draws nothing.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps`` below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> nifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020,
    arXiv:1908.06281.
    """
    require_positive(steps=steps)
    ask, rule = QuerySpec(bind_dtype(model, x), objective, targeted), nesterov_step(step_size, 1 / steps, momentum)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        return run_attempt(ask, x, y, threat, x, rule, steps=steps, early_stop=early_stop)

    return search(ask, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)


def craft(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 10,
    step_size: float | None = None,
    start: Start = "uniform",
    momentum: float = 0.0,
    objective: Objective = cross_entropy,
    ids: Tensor | None = None,
    seed: int = 0,
) -> CraftedExamples:
    """Make adversarial examples for training: the last iterate of PGD, not verified, in exactly ``steps`` forwards and
    backwards.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; in train or eval mode, which does not change.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps; 1 with ``start="uniform"`` is RS-FGSM.
        step_size: length of a step in the units of the input; if None ``2.5 eps / steps``, or ``1.25 eps`` for one step
            from a random start.
        start: ``"uniform"`` (a draw from the ball) or ``"zero"`` (the clean point).
        momentum: decay of the averaged gradient; 0 for none.
        objective: function of logits and labels to maximise.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random start.

    Returns:
        A `CraftedExamples`: ``x_adv`` inside the threat model, and its cost.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.
        ThreatError: another ``start``.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> craft(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).backwards
        20
    """
    x, y = read_training(x, y, threat)
    reject_device(model, x)
    ask, rule = QuerySpec(bind_dtype(model, x), checked_once(objective)), pgd_rule(steps, step_size, momentum, start)
    x, ids = widen(x.detach()), read_ids(ids, x)
    state = initial_state(x, y, threat, initial_point(start, x, threat, ids, seed))
    for k in range(steps):
        _, _, grad = query(ask, state.adv, y)
        state = rule(replace(state, grad=grad), k)
    return CraftedExamples(state.adv, forwards=steps * len(x), backwards=steps * len(x))
