"""PGD with a cosine step-size schedule from eps to zero, which finds most of what long attacks find in few passes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.auto_pgd import top_other_classes
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.scoreboard import Scoreboard
from advreg.attacks.search import (
    AttackState,
    QuerySpec,
    Rule,
    example_of_row,
    keep_labels,
    require_positive,
    run_attempt,
    search,
)
from advreg.attacks.step_rules import Start, initial_point
from advreg.errors import ConfigError
from advreg.example_rng import Stream
from advreg.objectives import Objective
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

FILL = 64
"""Rows up to which restarts are stacked in one batch: at 64 rows a step costs a third as much per row as at 8."""


def cosine_step(steps: int) -> Rule:
    """Return the rule that steps ``eps (1 + cos(pi k / steps)) / 2`` along the steepest direction at step k.

    Args:
        steps: gradient steps of an attempt.

    Returns:
        The rule: from the state after a query to the next iterate.
    """

    def rule(state: AttackState, k: int) -> AttackState:
        length = state.radii * (1 + math.cos(math.pi * k / steps)) / 2
        moved = state.adv + length * state.threat.steepest(state.grad, state.adv, state.x)
        return state.moved_to(moved)

    return rule


@renamed_options(targets="target_classes")
def cosine_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 20,
    restarts: int = 1,
    target_classes: int | None = None,
    start: Start = "uniform",
    objective: Objective | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack by PGD with step size ``eps (1 + cos(pi k / steps)) / 2`` at step k: long steps first, short ones last.

    With ``target_classes``, each attempt attacks toward one other class, in order of the clean logits; the objective then
    takes labels ``(B, 2)``, the label and that class, as `rival_margin` does. An example that survives costs ``1 + attempts
    (steps + 2)`` forwards and ``attempts * steps`` backwards, with ``max(target_classes, 1) * restarts`` attempts.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: norm, eps and box of the adversary; eps may differ between examples.
        steps: gradient steps of one attempt.
        restarts: number of rounds, each on the examples that survive.
        target_classes: number of other classes that a round attacks, by clean logit; None for an objective without them.
        start: ``"uniform"`` (a draw from the ball) or ``"zero"`` (the clean point).
        objective: function of logits and labels to maximise; the task's default, cross-entropy for classes, if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
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
        ConfigError: ``steps`` or ``restarts`` below 1, or ``target_classes`` together with ``targeted``.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> cosine_pgd(model, x, y, ThreatModel("linf", 1e-6), steps=5).backwards <= 2 * 5
        True

    Reference: the schedule of Ye et al., "Practical evaluation of adversarial robustness via adaptive auto attack", CVPR
    2022, arXiv:2203.05154.
    """
    require_positive(steps=steps)
    rivals = _count_rivals(target_classes, targeted)
    spec = QuerySpec(bind_dtype(model, x), objective or task.objective, targeted, task=task)
    rule = cosine_step(steps)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: Stream) -> AttackResult:
        labels = with_rival(y, restart, rivals) if rivals else y
        if labels is None:
            return Scoreboard(spec, x, y, threat).result()
        origin, owner = initial_point(start, x, threat, ids, seed, restart), example_of_row(restart)
        return run_attempt(spec, x, labels, threat, origin, rule, steps=steps, early_stop=early_stop, owner=owner)

    return search(
        spec,
        x,
        y,
        threat,
        attempt,
        restarts=max(rivals, 1) * restarts,
        ids=ids,
        early_stop=early_stop,
        batch_size=batch_size,
        aim=top_other_classes(rivals) if rivals else keep_labels,
        fill=FILL,
    )


def _count_rivals(target_classes: int | None, targeted: bool) -> int:
    """Return how many other classes a round attacks; 0 for an untargeted or targeted objective."""
    if targeted and target_classes:
        raise ConfigError(
            f"target_classes is {target_classes} in a targeted attack, where y gives the class; leave target_classes out"
        )
    if target_classes is not None and target_classes < 0:
        raise ConfigError(f"target_classes is {target_classes}; give 1 or more, or None for an untargeted objective")
    return target_classes or 0


def with_rival(y: Tensor, restart: Stream, rivals: int) -> Tensor | None:
    """Return the label and the attacked class of this restart, integers ``(B, 2)``.

    Args:
        y: label and other classes by clean logit, integers ``(B, 1 + R)``.
        restart: number of the restart, or integers ``(B,)`` for stacked restarts.
        rivals: number of attacked classes in a round.

    Returns:
        The labels; None if the model has no such class.
    """
    column = torch.as_tensor(1 + restart % rivals, device=y.device).expand(len(y))
    if int(column.min()) >= y.shape[1]:
        return None
    return torch.cat([y[:, :1], y.gather(1, column.clamp_max(y.shape[1] - 1)[:, None])], 1)
