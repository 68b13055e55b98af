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

_NEAR = 0.9
"""Lead in probability below which a fast target's work is gone over: about a tenth of what stands on robust networks."""


def initial_point(start: Start, x: Tensor, threat: ThreatModel, ids: Tensor, seed: int, stream: Stream = 0) -> Tensor:
    """Return where an attempt begins: the clean point, or a point drawn uniformly from the ball.

    Raises:
        ThreatError: a start of another name.
    """
    if start == "zero":
        return x
    if start != "uniform":
        raise ThreatError(f"start is {start!r}; allowed: 'uniform' (drawn from the ball) or 'zero' (the clean point)")
    return threat.random_start(x, ids, seed, stream)


def step_length(state: AttackState, step_size: float | None, share: float) -> float | Tensor:
    """Return the length of a step: ``step_size`` where it is given, else that share of each row's eps."""
    return share * state.radii if step_size is None else step_size


def steepest_step(step_size: float | None, share: float) -> Rule:
    """Step along the steepest direction of the norm, then project."""

    def rule(state: AttackState, _: int) -> AttackState:
        direction = state.threat.steepest(state.grad, state.adv)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved)

    return rule


def momentum_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Step along an average of past gradients, each divided by its l1 norm (Dong et al., CVPR 2018)."""

    def rule(state: AttackState, _: int) -> AttackState:
        size = state.grad.flatten(1).abs().sum(1).clamp_min(torch.finfo(state.grad.dtype).tiny)
        unit = state.grad / broadcast_per_example(size, state.x)
        velocity = decay * state.memory.get("velocity", torch.zeros_like(unit)) + unit
        direction = state.threat.steepest(velocity, state.adv)
        moved = state.adv + step_length(state, step_size, share) * direction
        return state.moved_to(moved, memory={"velocity": velocity})

    return rule


def nesterov_step(step_size: float | None, share: float, decay: float) -> Rule:
    """Step as with momentum, but ask for the next gradient where the momentum alone would lead (Lin et al., ICLR 2020).

    ``adv`` is that look-ahead point, itself inside the threat model; ``memory["at"]`` is where the attack stands.
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
    """Return PGD's rule. A step is ``2.5 eps / steps`` unless given: enough to cross the ball and settle.

    A single step is eps long, or 1.25 eps from a random start (Wong, Rice, Kolter, ICLR 2020).
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
    """Attack with one step of length eps: ``x + eps steepest(grad loss)``.

    With ``start="uniform"`` the step begins at a random point and is ``1.25 eps`` long unless given, then projected (RS-FGSM).

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)``; the wanted classes if targeted.
        threat: what the adversary may do.
        start: ``"zero"`` (the clean point) or ``"uniform"``.
        step_size: length of the step, in the units of the input.
        objective: what to maximise, a function of logits and labels.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether an example that is wrong already is left alone.
        ids: example ids ``(B,)`` for the random start.
        seed: seed of the random start.

    Returns:
        An `AttackResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> fgsm(model, x, y, ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Goodfellow, Shlens, Szegedy, ICLR 2015; Wong, Rice, Kolter, ICLR 2020 for the random start.
    """
    return pgd(
        model, x, y, threat, steps=1, step_size=step_size, start=start,
        objective=objective, targeted=targeted, early_stop=early_stop, ids=ids, seed=seed,
    )  # fmt: skip


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
    """Attack by projected gradient ascent: ``x <- project(x + step_size steepest(grad loss))``, best iterate kept.

    An example that still stands after one restart costs ``steps + 3`` forwards (the clean point, the iterates, the judge) and
    ``steps`` backwards. Where a fast target proposes, its original is asked once more, and who came
    near (within 0.9 of probability) gets a quarter more steps on it; a single step stays single, for it has a name.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: what the adversary may do; its eps may differ from example to example.
        steps: gradient steps of one attempt.
        step_size: length of a step in the units of the input; ``2.5 eps / steps`` if None, example by example.
        restarts: attempts, each on the examples that still stand.
        start: ``"uniform"`` (drawn from the ball) or ``"zero"`` (the clean point: the basic iterative method).
        momentum: decay of the averaged gradient; 0 for none, 1 as in the momentum iterative method.
        objective: what to maximise, a function of logits and labels.
        targeted: whether ``y`` is the class the adversary wants.
        eot: samples to average over at every query, for models that are random.
        early_stop: whether a broken example leaves at once (same verdicts, less work) or is attacked to the end.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the random starts.
        batch_size: examples under attack at a time.

    Returns:
        An `AttackResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: steps, restarts or eot below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = pgd(model, x, y, ThreatModel("linf", 0.1), steps=5)
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018.
    """
    require_positive(steps=steps)
    ask = QuerySpec(bind_dtype(model, x), objective, targeted, eot)
    attempt = make_attempt(ask, pgd_rule(steps, step_size, momentum, start), steps, start, seed, early_stop=early_stop)
    return search(ask, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def make_attempt(ask: QuerySpec, rule: Rule, steps: int, start: Start, seed: int, *, early_stop: bool) -> Attempt:
    """Return an attempt that climbs by a rule from a start, then polishes what a fast target found."""

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        origin = initial_point(start, x, threat, ids, seed, restart)
        found = run_attempt(ask, x, y, threat, origin, rule, steps, early_stop=early_stop)
        return refine_on_original(ask, found, x, y, threat, rule, math.ceil(steps / 4)) if steps > 1 else found

    return attempt


def refine_on_original(
    ask: QuerySpec, found: AttackResult, x: Tensor, y: Tensor, threat: ThreatModel, rule: Rule, steps: int
) -> AttackResult:
    """Go on with the original for some steps where a fast target came near: the target's gradients are rounded.

    Near is a lead in probability of less than 0.9 over the next class, so that it does not depend on the batch. Without a
    fast target there is nothing to mend.
    """
    standing = (~found.broken).nonzero()[:, 0]
    judge = original(ask.model)
    if judge is ask.model or not len(standing):
        return found
    found.cost[standing, 0] += 1
    ahead = probability_margin(logits_of(judge, found.x_adv[standing]), y[standing])
    near = standing[ahead < _NEAR if ask.targeted else ahead > -_NEAR]
    if not len(near):
        return found
    start = found.x_adv[near]
    again = run_attempt(
        replace(ask, model=judge), x[near], y[near], threat.select(near), start, rule, steps, early_stop=True
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
    """Attack by the momentum iterative method: PGD from the clean point, gradients averaged with decay ``momentum``.

    Args:
        model, x, y, threat, restarts, start, objective, targeted, eot, early_stop, ids, seed, batch_size: as for `pgd`.
        steps: gradient steps.
        step_size: length of a step, in the units of the input; ``eps / steps`` if None, example by example.
        momentum: decay of the average.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> mifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.
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
    """Attack by the Nesterov iterative method: momentum, its gradients taken where the momentum is about to lead.

    The look-ahead goes ``momentum step_size`` along the norm's steepest direction; it is inside the threat model, and judged.

    Args:
        model, x, y, threat, objective, targeted, early_stop, batch_size: as for `pgd`.
        ids, seed: taken because every attack takes them; this one draws nothing.
        steps: gradient steps.
        step_size: length of a step, in the units of the input; ``eps / steps`` if None.
        momentum: decay of the average, and length of the look-ahead in steps.

    Returns:
        An `AttackResult`, judged by the original model.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> nifgsm(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])

    Reference: Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020.
    """
    require_positive(steps=steps)
    ask, rule = QuerySpec(bind_dtype(model, x), objective, targeted), nesterov_step(step_size, 1 / steps, momentum)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        return run_attempt(ask, x, y, threat, x, rule, steps, early_stop=early_stop)

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
    """Make training points with PGD in exactly ``steps`` forwards and backwards: the last iterate, not judged.

    Args:
        model, x, y, threat, objective, ids, seed: as for `pgd`; the model's mode is left as it is.
        steps: gradient steps; 1 with ``start="uniform"`` is RS-FGSM.
        step_size: length of a step; if None ``2.5 eps / steps``, or ``1.25 eps`` for one step from a random start.
        start: ``"uniform"`` or ``"zero"``.
        momentum: decay of the averaged gradient.

    Returns:
        A `CraftedExamples`: ``x_adv`` inside the threat model, and its cost.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is no logits, no gradient path.

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
