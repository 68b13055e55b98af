"""Attacks along the steepest direction of the gradient: one step (FGSM) and many (PGD); and points for training."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor

from advreg.attacks.constrained_rule import constrained_rule
from advreg.attacks.inputs import read_ids, read_training
from advreg.attacks.model import Model, bind_dtype, original, widen
from advreg.attacks.outputs import checked_once
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
from advreg.attacks.step_rules import Start, initial_point, pgd_rule
from advreg.attacks.verification import logits_of, reject_device
from advreg.objectives import Objective, probability_margin
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

_NEAR_LEAD = 0.9
"""Lead in probability below which a fast copy's point is attacked again: about a tenth of a robust network's survivors."""


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    start: Start = "zero",
    step_size: float | None = None,
    objective: Objective | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    task: Task = CLASSES,
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
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether clean errors, and points that fool the model before the step, are not attacked further.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random start.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: another ``start``.

    Example:
        >>> import torch
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
        task=task,
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
    objective: Objective | None = None,
    targeted: bool = False,
    eot: int = 1,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by projected gradient ascent: ``x <- project(x + step_size * steepest(grad loss))``.

    The result is the best iterate: one that breaks the example, else the one of highest loss. An example that survives one
    restart costs ``steps + 3`` forwards (the clean point, the iterates, the verification) and ``steps`` backwards. A fast
    copy costs one more forward of its original for each survivor; survivors with a lead below 0.9 in probability get a
    quarter more steps on the original (never with ``steps=1``, so that it is exactly FGSM).

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
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        eot: number of samples averaged at every query, for models that are random.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts`` or ``eot`` below 1.
        ThreatError: another ``start``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = pgd(model, x, y, ThreatModel("linf", 0.1), steps=5)
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, arXiv:1706.06083.
    """
    require_positive(steps=steps)
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, targeted, eot, task)
    attempt = make_attempt(spec, pgd_rule(steps, step_size, momentum, start), steps, start, seed, early_stop=early_stop)
    return search(spec, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def make_attempt(spec: QuerySpec, rule: Rule, steps: int, start: Start, seed: int, *, early_stop: bool) -> Attempt:
    """Return an attempt: gradient ascent by a rule, then more steps on the original where a fast copy came near.

    Args:
        spec: the model and the objective.
        rule: step rule.
        steps: gradient steps.
        start: ``"uniform"`` or ``"zero"``.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves at once.

    Returns:
        The attempt of `advreg.attacks.search.search`.

    Example:
        >>> import torch
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> from advreg.objectives import cross_entropy
        >>> spec = QuerySpec(model, cross_entropy)
        >>> attempt = make_attempt(spec, pgd_rule(5, None, 0.0, "zero"), 5, "zero", seed=0, early_stop=True)
        >>> attempt(x, y, ThreatModel("linf", 0.1), torch.arange(2), 0).x_adv.shape
        torch.Size([2, 4])
    """

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        origin = initial_point(start, x, threat, ids, seed, restart)
        found = run_attempt(spec, x, y, threat, origin, rule, steps=steps, early_stop=early_stop)
        if steps == 1:  # one-step attacks are never extended, so that steps=1 is exactly FGSM
            return found
        return refine_on_original(spec, found, (x, y, threat), rule, steps=math.ceil(steps / 4))

    return attempt


def refine_on_original(
    spec: QuerySpec, found: AttackResult, examples: tuple[Tensor, Tensor, ThreatModel], rule: Rule, *, steps: int
) -> AttackResult:
    """Continue on the original model where a fast copy came near, because the gradients of the copy are rounded.

    Near is a lead below 0.9 in probability over the next class, which does not depend on the batch. Without a fast copy, and in
    other tasks than classification, the result is returned unchanged.

    Args:
        spec: the model and the objective.
        found: the result on the fast copy; its cost is updated in place.
        examples: clean inputs, labels and threat model of the attempt.
        rule: step rule.
        steps: gradient steps on the original.

    Returns:
        The result, with the examples replaced for which the new point is better.

    Example:
        >>> import torch
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> threat, rule = ThreatModel("linf", 0.1), pgd_rule(5, None, 0.0, "zero")
        >>> from advreg.objectives import cross_entropy
        >>> found = pgd(model, x, y, threat, steps=5)
        >>> refine_on_original(QuerySpec(model, cross_entropy), found, (x, y, threat), rule, steps=2) is found
        True
    """
    x, y, threat = examples
    survivors = (~found.broken).nonzero()[:, 0]
    model = original(spec.model)
    if model is spec.model or not len(survivors) or spec.task is not CLASSES:
        return found
    found.cost[survivors, 0] += 1
    lead = probability_margin(logits_of(model, found.x_adv[survivors]), y[survivors])
    near = survivors[lead < _NEAR_LEAD if spec.targeted else lead > -_NEAR_LEAD]
    if not len(near):
        return found
    start = found.x_adv[near]
    again = run_attempt(
        replace(spec, model=model), x[near], y[near], threat.select(near), start, rule, steps=steps, early_stop=True
    )
    return found.improved_by(again, near)


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
    objective: Objective | None = None,
    ids: Tensor | None = None,
    seed: int = 0,
    task: Task = CLASSES,
) -> CraftedExamples:
    """Make adversarial examples for training: the last iterate of PGD, not verified.

    The cost is exactly ``steps`` forwards and backwards of each example.

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
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random start.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        A `CraftedExamples`: ``x_adv`` inside the threat model, and its cost.

    Raises:
        DataError: inputs outside the box, an empty batch, labels that the model does not have.
        ModelError: an output that is not logits, or no gradient path.
        ThreatError: another ``start``.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3)
        >>> craft(model, torch.full((2, 4), 0.5), torch.tensor([0, 1]), ThreatModel("linf", 0.1)).backwards
        20
    """
    x, y = read_training(x, y, threat, task)
    reject_device(model, x)
    spec, rule = (
        QuerySpec(bind_dtype(model, x), checked_once(objective or task.objective, task)),
        pgd_rule(steps, step_size, momentum, start),
    )
    x, ids = widen(x.detach()), read_ids(ids, x)
    return ascend(spec, initial_state(x, y, threat, initial_point(start, x, threat, ids, seed)), rule, steps)


def ascend(spec: QuerySpec, state: AttackState, rule: Rule, steps: int) -> CraftedExamples:
    """Take steps by a rule and return the last iterate; where features have rules, the repaired one, as at every query.

    Args:
        spec: the model and the objective.
        state: state with the first iterates.
        rule: step rule.
        steps: gradient steps, each one forward and one backward.

    Returns:
        The points ``(B, ...)`` and their cost.
    """
    x, rule = state.x, constrained_rule(rule, state.threat.rules)
    for k in range(steps):
        _, _, grad = query(spec, state.threat.repair(state.adv, x), state.y)
        state = rule(replace(state, grad=grad), k)
    points = state.threat.repair(state.adv, x)
    return CraftedExamples(points, forwards=steps * len(x), backwards=steps * len(x))
