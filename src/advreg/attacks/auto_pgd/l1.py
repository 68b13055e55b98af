"""Auto-PGD for l1: sparse signed steps, and optional stages in wider balls before the attack."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.auto_pgd.step_rule import Memory, at_peak, eps_of, update_peak
from advreg.attacks.result import AttackResult
from advreg.attacks.search import AttackState, Attempt, QuerySpec, Rule, run_attempt
from advreg.attacks.wider_balls import STAGE, find_peak
from advreg.threat import ThreatModel, broadcast_per_example

SHRINK_RATIO = 0.95
"""A support below this share of the previous one counts as shrinking."""

DIVISOR = 1.5
"""Divisor of the step size, and of the support for the sparsity of a step."""

MIN_STEP_DIVISOR = 10.0
"""The step size is at least eps over this."""

WIDER = (3, 2)
"""Stages before the last with ``large_eps``, in multiples of eps."""


def sparse_rule(steps: int, *, warm: bool = False) -> Rule:
    """Return the rule of Auto-PGD for l1: signed steps on the entries of largest gradient, from eps.

    Args:
        steps: gradient steps; the step size is reviewed every 4% of them.
        warm: whether the support of the start sets the first sparsity; otherwise it is 20% of the entries.

    Returns:
        The rule: from the state after a query to the next iterate.

    Reference: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021,
    arXiv:2103.01208.
    """
    period = max(4 * steps // 100, 1)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = update_peak(state) | ({} if state.memory else _sparse_start(state, warm))
        if k and k % period == 0:
            state, memory = _review_step_size(state, memory)
        alike = state.threat.limits is None  # with limits, the largest features may be held: steepest steps know which
        direction = (
            sparse_sign(state.grad, memory["entries"])
            if alike
            else state.threat.steepest(state.grad, state.adv, state.x)
        )
        step = broadcast_per_example(memory["step_size"], state.x) * direction
        return state.moved_to(state.adv + step, memory=memory)

    return rule


def sparse_sign(g: Tensor, entries: Tensor) -> Tensor:
    """Return the signs of the ``entries (B,)`` largest entries of ``|g|``, divided by their number.

    Args:
        g: gradients ``(B, ...)``.
        entries: number of entries of each row ``(B,)``, 1 or more.

    Returns:
        Directions ``(B, ...)`` of l1 norm 1.

    Example:
        >>> sparse_sign(torch.tensor([[3.0, -2.0, 1.0]]), torch.tensor([2])).tolist()
        [[0.5, -0.5, 0.0]]
    """
    size = g.flatten(1).abs()
    least = size.sort(1, descending=True).values.gather(1, entries[:, None] - 1)
    signs = torch.where(size >= least, g.flatten(1).sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(g)


def support(adv: Tensor, x: Tensor) -> Tensor:
    """Return how many entries of each example are changed, ``(B,)``.

    Args:
        adv: points ``(B, ...)``.
        x: clean inputs ``(B, ...)``.

    Returns:
        Counts ``(B,)``.
    """
    return (adv != x).flatten(1).sum(1)


def _step_sparsity(support: Tensor) -> Tensor:
    return (support / DIVISOR).long().clamp_min(1)


def _sparse_start(state: AttackState, warm: bool) -> Memory:
    size = state.x[0].numel()
    changed = support(state.adv, state.x) if warm else torch.full_like(state.rows, size)
    entries = _step_sparsity(changed) if warm else torch.full_like(state.rows, max(size // 5, 1))
    return {"step_size": eps_of(state), "support": changed, "entries": entries}


def _review_step_size(state: AttackState, memory: Memory) -> tuple[AttackState, Memory]:
    """Restart from the peak with a step of eps if its support still shrinks; otherwise shorten the step."""
    changed, eps = support(memory["peak"], state.x), eps_of(state)
    shrinks = changed < SHRINK_RATIO * memory["support"]
    shorter = (memory["step_size"] / DIVISOR).maximum(eps / MIN_STEP_DIVISOR)
    memory = memory | {
        "step_size": torch.where(shrinks, eps, shorter),
        "support": changed,
        "entries": _step_sparsity(changed),
    }
    return at_peak(state, memory, shrinks), memory


def sparse_attempt(spec: QuerySpec, steps: int, seed: int, early_stop: bool, large_eps: bool) -> Attempt:
    """Return an attempt: ascent from a random point inside the threat model, or from the peak of stages in wider balls.

    Args:
        spec: model and objective.
        steps: gradient steps of an attempt, stages included.
        seed: seed of the random starts.
        early_stop: whether a broken example leaves at once.
        large_eps: whether stages in balls of 3 and 2 eps come first.

    Returns:
        The attempt of `advreg.attacks.search.search`.

    Example:
        >>> from advreg.objectives import cross_entropy
        >>> model, x, y = torch.nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> attempt = sparse_attempt(QuerySpec(model, cross_entropy), steps=5, seed=0, early_stop=True, large_eps=False)
        >>> attempt(x, y, ThreatModel("l1", 0.1), torch.arange(2), 0).x_adv.shape
        torch.Size([2, 4])

    Reference: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021,
    arXiv:2103.01208.
    """
    wider = WIDER if large_eps else ()
    stage = STAGE * steps // 100
    spent = stage * len(wider)
    rule = sparse_rule(steps - spent, warm=bool(wider))

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        point = threat.displaced(x, example_rng.normal(ids, tuple(x.shape[1:]), seed, restart, x.dtype))
        for multiple in wider:
            ball = threat.with_eps(multiple * threat.eps)
            point = find_peak(spec, x, y, ball, point, steps=stage, rule=sparse_rule(stage, warm=True))
        found = run_attempt(
            spec, x, y, threat, threat.project(point, x), rule, steps=steps - spent, early_stop=early_stop
        )
        return replace(found, cost=found.cost + spec.eot * spent)

    return attempt
