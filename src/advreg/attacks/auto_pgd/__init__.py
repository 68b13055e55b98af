"""Auto-PGD: projected gradient ascent without a step size to choose, untargeted and toward each rival class in turn."""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.attacks.auto_pgd.l1 import sparse_attempt
from advreg.attacks.auto_pgd.step_rule import momentum_rule
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import Attempt, LabelSelector, QuerySpec, require_positive, run_attempt, search
from advreg.errors import ThreatError
from advreg.objectives import Objective, cross_entropy, labels_of, targeted_dlr
from advreg.threat import ThreatModel, broadcast_per_example


def random_sphere_point(x: Tensor, threat: ThreatModel, ids: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Return a random point at distance eps before the box cuts it: a uniform draw from the ball, pushed to its surface."""
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
    objective: Objective = cross_entropy,
    targeted: bool = False,
    eot: int = 1,
    ids: Tensor | None = None,
    seed: int = 0,
    early_stop: bool = True,
    batch_size: int = 512,
    large_eps: bool = False,
) -> AttackResult:
    """Attack by Auto-PGD: ascent with momentum from a step of 2 eps, halved and restarted from the peak where it stops paying.

    For l1, steps on the largest gradient entries only, the more sparse the better that works. An example that still stands
    after one restart costs ``steps + 3`` forwards (the clean point, the iterates, the judge) and ``steps`` backwards.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: what the adversary may do; its eps may differ from example to example.
        steps: gradient steps of one attempt.
        restarts: attempts, each on the examples that still stand.
        objective: what to maximise, a function of logits and labels.
        targeted: whether ``y`` is the class the adversary wants.
        eot: samples to average gradient, loss and verdict over at every query, for models that are random.
        ids: example ids ``(B,)``: an example's draws depend on its id and the seed only.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves at once (same verdicts, less work) or is attacked to the end.
        batch_size: examples under attack at a time.
        large_eps: l1 only: spend 30% of the steps in a ball of 3 eps and 30% in one of 2 eps, each stage from the peak of
            the one before; the cost of an example that stands is the same.

    Returns:
        An `AttackResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: ``large_eps`` for another norm than l1.
        ConfigError: steps, restarts, targets or eot below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = apgd(model, x, y, ThreatModel("linf", 0.1), steps=10)
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness", ICML 2020; for l1 "Mind the box", ICML 2021.
    """
    ask = QuerySpec(bind_dtype(model, x), objective, targeted, eot)
    attempt = _attempt(ask, threat, steps, seed, early_stop, large_eps)
    return search(ask, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size)


def apgd_targeted(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 100,
    targets: int = 9,
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

    The rivals of an example are the classes of highest logit at its clean point, its label left out: ``targets`` of them, or
    all where the model has fewer. With fewer than 4 classes the objective is the margin: see `targeted_dlr`. An example
    that stands costs ``1 + rivals * (steps + 2)`` forwards and ``rivals * steps`` backwards.

    Args:
        model, x, threat, steps, eot, ids, seed, early_stop, batch_size, large_eps: as for `apgd`.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        targets: how many rivals to try, each on the examples that still stand.
        restarts: rounds over all rivals.
        objective: what to maximise, a function of logits and ``(B, 2)`` integers: the label, and the rival to beat it.

    Returns:
        An `AttackResult`, judged by the original model. Its ``loss`` is the objective for the rival that came nearest.

    Raises:
        ModelError: train mode, no gradient path, wrong output, a single class.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: ``large_eps`` for another norm than l1.
        ConfigError: steps, restarts, targets or eot below 1.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> apgd_targeted(model, x, y, ThreatModel("linf", 1e-6), steps=10).backwards <= 2 * 2 * 10
        True

    Reference: Croce and Hein, "Reliable evaluation of adversarial robustness", ICML 2020.
    """
    require_positive(targets=targets, restarts=restarts)
    ask = QuerySpec(bind_dtype(model, x), objective, eot=eot)
    once = _attempt(ask, threat, steps, seed, early_stop, large_eps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        rival = 1 + restart % targets
        if rival >= y.shape[1]:  # the model has no such class: nothing found, nothing spent
            return Scoreboard(ask, x, y, threat).result()
        return once(x, y[:, [0, rival]], threat, ids, restart)

    return search(
        ask, x, y, threat, attempt, restarts=targets * restarts,
        ids=ids, early_stop=early_stop, batch_size=batch_size, aim=top_other_classes(targets),
    )  # fmt: skip


def top_other_classes(count: int) -> LabelSelector:
    """Aim at the classes of highest clean logit but the label: labels ``(B,)`` become ``(B, 1 + count)``, label first."""

    def aim(logits: Tensor, y: Tensor) -> Tensor:
        own, classes = labels_of(y)[:, None], logits.shape[1]
        others = logits.scatter(1, own, -torch.inf).topk(min(count, classes - 1), dim=1).indices
        return torch.cat([own, others], 1)

    return aim


def _attempt(ask: QuerySpec, threat: ThreatModel, steps: int, seed: int, early_stop: bool, large_eps: bool) -> Attempt:
    require_positive(steps=steps)
    if threat.norm == "l1":
        return sparse_attempt(ask, steps, seed, early_stop, large_eps)
    if large_eps:
        raise ThreatError(f"large_eps is for l1, and the threat model is {threat}; leave it out")
    rule = momentum_rule(steps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        start = random_sphere_point(x, threat, ids, seed, restart)
        return run_attempt(ask, x, y, threat, start, rule, steps, early_stop=early_stop)

    return attempt
