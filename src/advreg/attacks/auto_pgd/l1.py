"""Auto-PGD for l1: sparse signed steps, and stages in wider balls to start from."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.auto_pgd.step_rule import Memory, at_peak, eps_of, peaked
from advreg.attacks.result import AttackResult
from advreg.attacks.search import AttackState, Attempt, QuerySpec, Rule, initial_state, run_attempt, update_state
from advreg.threat import ThreatModel, broadcast_per_example

SHRUNK = 0.95  # a support below this share of the one before is still shrinking
SHORTER = 1.5  # divisor of the step size, and of the support for the sparsity of a step
SHORTEST = 10.0  # the step size is never below eps over this
WIDER = (3, 2)  # with large eps: the stages before the last, in multiples of eps
STAGE = 30  # percent of the steps spent in each of them


def sparse_rule(steps: int, *, warm: bool = False) -> Rule:
    """Return Auto-PGD's rule for l1: signed steps on the largest gradient entries, from eps, as sparse as what works.

    Args:
        steps: gradient steps; the step is reviewed every 4% of them.
        warm: whether the start is worth its support, which then sets the first sparsity; else it is 20% of the entries.

    Reference: Croce and Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", ICML 2021.
    """
    period = max(4 * steps // 100, 1)

    def rule(state: AttackState, k: int) -> AttackState:
        memory = peaked(state) | ({} if state.memory else _sparse_start(state, warm))
        if k and k % period == 0:
            state, memory = _resized(state, memory)
        step = broadcast_per_example(memory["step_size"], state.x) * sparse_sign(state.grad, memory["kept"])
        return state.moved_to(state.adv + step, memory=memory)

    return rule


def sparse_sign(g: Tensor, kept: Tensor) -> Tensor:
    """Return the signs of the largest entries of ``|g|``, ``kept (B,)`` of them, divided by how many they are."""
    size = g.flatten(1).abs()
    least = size.sort(1, descending=True).values.gather(1, kept[:, None] - 1)
    signs = torch.where(size >= least, g.flatten(1).sign(), 0.0)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(g)


def support(adv: Tensor, x: Tensor) -> Tensor:
    """Return how many entries of each example were changed: ``(B,)``."""
    return (adv != x).flatten(1).sum(1)


def _kept(support: Tensor) -> Tensor:
    return (support / SHORTER).long().clamp_min(1)


def _sparse_start(state: AttackState, warm: bool) -> Memory:
    size = state.x[0].numel()
    changed = support(state.adv, state.x) if warm else torch.full_like(state.rows, size)
    kept = _kept(changed) if warm else torch.full_like(state.rows, max(size // 5, 1))
    return {"step_size": eps_of(state), "support": changed, "kept": kept}


def _resized(state: AttackState, memory: Memory) -> tuple[AttackState, Memory]:
    """Start again from the peak with a step of eps where its support still shrinks; elsewhere shorten the step."""
    changed, eps = support(memory["peak"], state.x), eps_of(state)
    shrinks = changed < SHRUNK * memory["support"]
    shorter = (memory["step_size"] / SHORTER).maximum(eps / SHORTEST)
    memory = memory | {
        "step_size": torch.where(shrinks, eps, shorter),
        "support": changed,
        "kept": _kept(changed),
    }
    return at_peak(state, memory, shrinks), memory


def sparse_attempt(ask: QuerySpec, steps: int, seed: int, early_stop: bool, large_eps: bool) -> Attempt:
    """Climb inside the threat model from a random point, sparse once projected, or from the peak of stages in wider balls."""
    wider = WIDER if large_eps else ()
    stage = STAGE * steps // 100
    spent = stage * len(wider)
    rule = sparse_rule(steps - spent, warm=bool(wider))

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, restart: int) -> AttackResult:
        point = x + threat.width * example_rng.normal(ids, tuple(x.shape[1:]), seed, restart, x.dtype)
        for times in wider:
            point = peak_in(ask, x, y, threat.with_eps(times * threat.eps), point, stage)
        found = run_attempt(ask, x, y, threat, threat.project(point, x), rule, steps - spent, early_stop=early_stop)
        return replace(found, cost=found.cost + ask.eot * spent)

    return attempt


def peak_in(ask: QuerySpec, x: Tensor, y: Tensor, threat: ThreatModel, point: Tensor, steps: int) -> Tensor:
    """Return the point of highest loss among ``steps`` queries in this threat model; nobody is judged there."""
    state, rule = initial_state(x, y, threat, threat.project(point, x)), sparse_rule(steps, warm=True)
    for k in range(steps):
        state = rule(update_state(ask, state, gradient=True), k)
    return state.memory.get("peak", point)
