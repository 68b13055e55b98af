"""PGD through shrinking balls: start far outside the threat model, where the loss has a slope, and shrink in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from advreg.attacks.auto_pgd.l1 import sparse_rule
from advreg.attacks.cosine_pgd import FILL, cosine_step
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, Rule, example_of_row, initial_state, query, run_attempt, search
from advreg.attacks.wider_balls import wider
from advreg.errors import ConfigError
from advreg.example_rng import Stream
from advreg.objectives import Objective, margin
from advreg.threat import ThreatModel

Schedule = Sequence[tuple[float, int]]
"""Stages as ``(multiple of eps, steps)``, the last at multiple 1."""

SCHEDULE: Schedule = ((16, 5), (8, 5), (4, 5), (2, 5), (1, 8))


def shrinking_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    schedule: Schedule = SCHEDULE,
    restarts: int = 4,
    objective: Objective = margin,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack by PGD in balls of 16, 8, 4, 2 and 1 eps in turn, each stage from the end of the one before.

    In l2 and l1 a robust network is often flat around the clean point: attacks that start inside the ball see no slope, and
    more steps or restarts do not help. A random start in a ball of 16 eps finds a slope, and each smaller ball keeps the
    progress. Steps shrink along a cosine within a stage; in l1 they are the sparse steps of Auto-PGD. Only points of the
    last stage, inside eps, are verified.

    An example that survives costs ``1 + restarts (S + 2)`` forwards and ``restarts * S`` backwards, S the steps of all
    stages.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples. In linf, where the wider start gains
            nothing, a ball is never wider than the box.
        schedule: stages as ``(multiple of eps, steps)``, the last at multiple 1.
        restarts: number of attempts, each on the examples that survive.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random starts.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ConfigError: a schedule without steps or with a last stage that is not at multiple 1, or ``restarts`` below 1.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> result = shrinking_pgd(model, x, y, ThreatModel("l2", 0.1))
        >>> bool((result.distance <= 0.1).all())
        True

    Reference: the wider balls follow Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021, arXiv:2103.01208, which begins at 3 eps in l1.
    """
    _check_schedule(schedule)
    spec = QuerySpec(bind_dtype(model, x), objective, targeted)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: Stream) -> AttackResult:
        point = wider(threat, schedule[0][0]).random_start(x, ids, seed, restart)
        for multiple, steps in schedule[:-1]:
            point = last_iterate(spec, x, y, wider(threat, multiple), point, steps)
        steps, start = schedule[-1][1], threat.project(point, x)
        rule, owner = _rule(threat, steps), example_of_row(restart)
        found = run_attempt(spec, x, y, threat, start, rule, steps=steps, early_stop=early_stop, owner=owner)
        return replace(found, cost=found.cost + sum(steps for _, steps in schedule[:-1]))

    return search(
        spec, x, y, threat, attempt, restarts=restarts, ids=ids, early_stop=early_stop, batch_size=batch_size, fill=FILL
    )


def _check_schedule(schedule: Schedule) -> None:
    if not schedule or schedule[-1][0] != 1 or any(multiple <= 0 or steps < 1 for multiple, steps in schedule):
        raise ConfigError(
            f"schedule is {schedule}; give pairs (multiple of eps, steps), steps 1 or more, the last multiple 1"
        )


def last_iterate(spec: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, point: Tensor, steps: int) -> Tensor:
    """Return the last iterate of some steps in a threat model, not verified, ``(B, ...)``.

    Args:
        spec: the model and the objective.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``.
        threat: the threat model of this stage.
        point: first iterate, projected first ``(B, ...)``.
        steps: gradient steps.

    Returns:
        Points ``(B, ...)`` inside the threat model.

    Example:
        >>> import torch
        >>> from advreg.objectives import cross_entropy
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> threat = ThreatModel("l2", 0.1)
        >>> last = last_iterate(QuerySpec(model, cross_entropy), x, y, threat, x, steps=3)
        >>> bool(threat.contains(last, x, 1e-6).all())
        True
    """
    state, rule = initial_state(x, y, threat, threat.project(point, x)), _rule(threat, steps)
    for k in range(steps):
        _, loss, grad = query(spec, state.adv, y)
        state = rule(replace(state, loss=loss, grad=grad), k)
    return state.adv


def _rule(threat: ThreatModel, steps: int) -> Rule:
    return sparse_rule(steps, warm=True) if threat.norm == "l1" else cosine_step(steps)
