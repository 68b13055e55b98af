"""Auto-PGD: projected gradient ascent that chooses its step size, untargeted and toward each other class in turn."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.auto_pgd.l1 import sparse_attempt
from advreg.attacks.auto_pgd.step_rule import momentum_rule
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import Attempt, LabelSelector, QuerySpec, require_positive, run_attempt, search
from advreg.attacks.wider_balls import STAGE, find_peak, wider
from advreg.objectives import Objective, labels_of, targeted_dlr
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel, broadcast_per_example

WIDER = (2.0, 1.5)
"""Stages before the last with ``large_eps`` in linf and l2, in multiples of eps."""


def random_sphere_point(x: Tensor, threat: ThreatModel, ids: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Return a random point at distance eps from ``x``, before the box cuts it.

    Args:
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        ids: example ids ``(B,)``, on which the draws depend.
        seed: seed of the random draws.
        stream: which of several independent draws, such as the restart.

    Returns:
        Points ``(B, ...)`` inside the threat model.

    Example:
        >>> threat, x = ThreatModel("l2", eps=0.1), torch.full((1, 4), 0.5)
        >>> round(float((random_sphere_point(x, threat, torch.tensor([0]), seed=0) - x).norm()), 4)
        0.1
    """
    if threat.limits is not None:
        return threat.random_start(x, ids, seed, stream)
    centre, unit = torch.zeros_like(x), ThreatModel(threat.norm, 1.0, (-1.0, 1.0))
    drawn = unit.random_start(centre, ids, seed, stream)
    length = unit.distance(drawn, centre).to(x.dtype).clamp_min(1e-30)
    return threat.project(x + threat.radii(x) * drawn / broadcast_per_example(length, x), x)


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    restarts: int = 1,
    objective: Objective | None = None,
    targeted: bool = False,
    eot: int = 1,
    ids: Tensor | None = None,
    seed: int = 0,
    early_stop: bool = True,
    batch_size: int = 512,
    large_eps: bool = False,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by Auto-PGD: ascent with momentum and a step from 2 eps that is halved when progress stops.

    After a halving the ascent restarts from the best iterate. In l1 a step changes the entries of largest gradient only;
    fewer entries as the perturbation gets sparser. An example that survives one restart costs ``steps + 3`` forwards (the
    clean point, the iterates, the verification) and ``steps`` backwards.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps of one attempt.
        restarts: number of attempts, each on the examples that survive.
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        eot: number of samples averaged at every query, for models that are random.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        batch_size: number of examples attacked at a time.
        large_eps: spend 30% of the steps in a ball of 2 eps (3 in l1) and 30% in one of 1.5 eps (2 in l1), each stage from
            the best iterate of the one before; the cost of a survivor is the same.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts`` or ``eot`` below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = apgd(model, x, y, ThreatModel("linf", 0.1), steps=10)
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690; for l1 "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021, arXiv:2103.01208; Croce, Singh, Hein, "Towards reliable evaluation and fast training of robust
    semantic segmentation models", ECCV 2024, arXiv:2306.12941, for ``large_eps`` in linf and l2.
    """
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, targeted, eot, task)
    attempt = _attempt(spec, threat, steps, seed, early_stop, large_eps)
    return search(spec, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


@renamed_options(targets="target_classes")
def apgd_targeted(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    target_classes: int = 9,
    restarts: int = 1,
    objective: Objective = targeted_dlr,
    eot: int = 1,
    ids: Tensor | None = None,
    seed: int = 0,
    early_stop: bool = True,
    batch_size: int = 512,
    large_eps: bool = False,
) -> AttackResult:
    """Attack by Auto-PGD toward each of the most likely wrong classes in turn; any wrong class breaks the example.

    The attacked classes have the highest clean logits, the label excluded: ``target_classes`` of them, or all R if the
    model has fewer. With fewer than 4 classes `targeted_dlr` is the margin. An example that survives costs ``1 + R (steps +
    2)`` forwards and ``R * steps`` backwards.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps toward one class.
        target_classes: number of wrong classes to attack, each on the examples that survive.
        restarts: number of rounds over all these classes.
        objective: function of logits and integers ``(B, 2)`` to maximise: the label, and the class to reach.
        eot: number of samples averaged at every query, for models that are random.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        batch_size: number of examples attacked at a time.
        large_eps: spend 30% of the steps in a ball of 2 eps (3 in l1) and 30% in one of 1.5 eps (2 in l1), each stage from
            the best iterate of the one before; the cost of a survivor is the same.

    Returns:
        An `AttackResult`, verified on the original model; its ``loss`` is the objective for the class that came nearest.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: ``steps``, ``restarts``, ``target_classes`` or ``eot`` below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> apgd_targeted(model, x, y, ThreatModel("linf", 1e-6), steps=10).backwards <= 2 * 2 * 10
        True

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020, arXiv:2003.01690.
    """
    require_positive(target_classes=target_classes, restarts=restarts)
    spec = QuerySpec(bind_dtype(model, x), objective, eot=eot)
    attempt_pair = _attempt(spec, threat, steps, seed, early_stop, large_eps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        rival = 1 + restart % target_classes
        if rival >= y.shape[1]:  # the model has no such class: no query, no cost
            return Scoreboard(spec, x, y, threat).result()
        return attempt_pair(x, y[:, [0, rival]], threat, ids, restart)

    return search(
        spec,
        x,
        y,
        threat,
        attempt,
        restarts=target_classes * restarts,
        ids=ids,
        early_stop=early_stop,
        batch_size=batch_size,
        aim=top_other_classes(target_classes),
    )


def top_other_classes(count: int) -> LabelSelector:
    """Return the selector ``(B,) -> (B, 1 + count)``: the label, then the other classes of highest clean logit.

    Args:
        count: number of wrong classes; all of them if the model has fewer.

    Returns:
        Function of clean logits ``(B, K)`` and labels ``(B,)``.

    Example:
        >>> top_other_classes(2)(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0])).tolist()
        [[0, 2, 1]]
    """

    def aim(logits: Tensor, y: Tensor) -> Tensor:
        own, classes = labels_of(y)[:, None], logits.shape[1]
        others = logits.scatter(1, own, -torch.inf).topk(min(count, classes - 1), dim=1).indices
        return torch.cat([own, others], 1)

    return aim


def _attempt(spec: QuerySpec, threat: ThreatModel, steps: int, seed: int, early_stop: bool, large_eps: bool) -> Attempt:
    require_positive(steps=steps)
    if threat.norm == "l1":
        return sparse_attempt(spec, steps, seed, early_stop, large_eps)
    if large_eps:
        return _staged_attempt(spec, steps, seed, early_stop)
    rule = momentum_rule(steps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        start = random_sphere_point(x, threat, ids, seed, restart)
        return run_attempt(spec, x, y, threat, start, rule, steps=steps, early_stop=early_stop)

    return attempt


def _staged_attempt(spec: QuerySpec, steps: int, seed: int, early_stop: bool) -> Attempt:
    """Return an attempt that begins in wider balls; only points of the last stage, inside eps, are verified."""
    stage = STAGE * steps // 100
    last = steps - stage * len(WIDER)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        point = random_sphere_point(x, wider(threat, WIDER[0]), ids, seed, restart)
        for multiple in WIDER:
            ball = wider(threat, multiple)
            point = find_peak(spec, x, y, ball, point, steps=stage, rule=momentum_rule(max(1, stage)))
        start, rule = threat.project(point, x), momentum_rule(last)
        found = run_attempt(spec, x, y, threat, start, rule, steps=last, early_stop=early_stop)
        return replace(found, cost=found.cost + spec.eot * stage * len(WIDER))

    return attempt
