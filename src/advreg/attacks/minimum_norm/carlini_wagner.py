"""Carlini and Wagner's l2 attack: Adam on length plus c times the margin, in a variable that cannot leave the box."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.linearisation import linearise_objective
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.objectives import margin
from advreg.threat import ThreatModel, broadcast_per_example

_INSIDE = 1 - 1e-6  # where tanh would have to be infinite, it starts this near the box


def carlini_wagner(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    rounds: int = 9,
    steps: int = 100,
    weight: float = 1e-3,
    step_size: float = 0.05,
    confidence: float = 0.0,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> MinimalResult:
    """Attack in l2 by minimising ``(||x' - x|| / w)^2 + c max(confidence - f(x'), 0)``: f the margin, w the box's width.

    ``x'`` is the tanh of a variable, moved and stretched to the box, which it therefore cannot leave.

    Adam takes ``steps`` steps in each round; between rounds c is multiplied by ten until a round succeeds, then bisected,
    example by example. An example costs ``rounds * steps`` forwards and backwards: dear, and rarely nearer than DDN or FMN.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``; eval mode. A fast target proposes, its original judges.
        x: clean inputs ``(B, ...)`` in the threat's box.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the wanted classes if targeted.
        threat: l2, box, and the eps within which an example counts as broken; with eps 0 all search to the end.
        rounds: values of c tried for each example.
        steps: looks in one round.
        weight: the first c, which weighs margin against squared length in widths of the box.
        step_size: Adam's, in the variable under the tanh.
        confidence: lead over the next class that a point must reach to be found; a clean error is one without it.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether an example within eps leaves at once, or goes on for a nearer point.
        ids, seed: taken because every attack takes them; this one draws nothing.
        batch_size: examples under attack at a time.

    Returns:
        A `MinimalResult`, judged by the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: a norm other than l2.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = carlini(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("l2", 0.0))
        >>> round(float(found.minimal), 2)
        0.14

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", S&P 2017.
    """
    require_norm("carlini", threat, "l2")
    model = bind_dtype(model, x)
    look, rule = (
        linearise_objective(model, margin, targeted=targeted),
        carlini_wagner_rule(steps, weight, step_size, confidence),
    )
    plan = SearchConfig(model, [look], rule, rounds * steps, 1, targeted, early_stop, confidence=confidence, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def carlini_wagner_rule(steps: int, weight: float, step_size: float, confidence: float) -> Rule:
    """Return a step of Adam, or the beginning of the next round with another c."""

    def rule(state: MinimumNormState, k: int) -> MinimumNormState:
        memory = state.memory or _first_round(state, weight)
        memory = {**memory, "success": memory["success"] | state.fooled}
        if k and k % steps == 0:
            memory = _next_round(state, memory)
        else:
            memory = _adam(state, memory, step_size, confidence, k % steps)
        return replace(state, adv=_inside(state, memory["variable"]), memory=memory)

    return rule


def _frame(state: MinimumNormState) -> tuple[float, float]:
    """Return the box's middle and half its width."""
    low, high = state.ball.box
    return (low + high) / 2, (high - low) / 2


def _inside(state: MinimumNormState, variable: Tensor) -> Tensor:
    middle, half = _frame(state)
    return (middle + half * variable.tanh()).clamp(*state.ball.box)


def _start(state: MinimumNormState) -> dict[str, Tensor]:
    middle, half = _frame(state)
    zero = torch.zeros_like(state.x)
    variable = ((state.x - middle) / half * _INSIDE).atanh()
    return {"variable": variable, "first": zero, "second": zero, "success": torch.zeros_like(state.fooled)}


def _first_round(state: MinimumNormState, weight: float) -> dict[str, Tensor]:
    c = torch.full_like(state.value, weight)
    return {**_start(state), "c": c, "least": torch.zeros_like(c), "most": torch.full_like(c, torch.inf)}


def _next_round(state: MinimumNormState, memory: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the memory with a smaller c where the round succeeded and a larger one where it did not."""
    c, success = memory["c"], memory["success"]
    most = torch.where(success, memory["most"].minimum(c), memory["most"])
    least = torch.where(success, memory["least"], memory["least"].maximum(c))
    between = torch.where(torch.isfinite(most), (least + most) / 2, 10 * c)
    return {**_start(state), "c": between, "least": least, "most": most}


def _adam(
    state: MinimumNormState, memory: dict[str, Tensor], step_size: float, confidence: float, k: int
) -> dict[str, Tensor]:
    variable, (_, half) = memory["variable"], _frame(state)
    pushing = broadcast_per_example(torch.where(state.value < confidence, memory["c"], 0.0), state.x)
    slope = half * (1 - variable.tanh().square())
    grad = (2 * (state.adv - state.x) / state.ball.width**2 - pushing * state.grad) * slope
    first = 0.9 * memory["first"] + 0.1 * grad
    second = 0.999 * memory["second"] + 0.001 * grad.square()
    unbiased = (second / (1 - 0.999 ** (k + 1))).sqrt()
    step = step_size * first / (1 - 0.9 ** (k + 1)) / (unbiased + 1e-8)
    return {**memory, "variable": variable - step, "first": first, "second": second}
