"""The l2 attack of Carlini and Wagner: Adam on squared length plus c times the margin."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg._deprecation import renamed_options
from advreg.attacks.minimum_norm.linearisation import linearise_objective
from advreg.attacks.minimum_norm.result import MinimalResult
from advreg.attacks.minimum_norm.search import SearchConfig, require_norm, search_minimum_norm
from advreg.attacks.minimum_norm.state import MinimumNormState, Rule
from advreg.attacks.model import Model, bind_dtype
from advreg.objectives import margin
from advreg.threat import ThreatModel, broadcast_per_example

_INSIDE = 1 - 1e-6
"""Factor that keeps the start off the faces of the box, where the variable would be infinite."""


@renamed_options(rounds="binary_search_steps")
def carlini_wagner(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    binary_search_steps: int = 9,
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
    """Attack in l2 by minimising ``(||x' - x|| / w)^2 + c max(confidence - f(x'), 0)``, f the margin, w the width.

    ``x'`` is the tanh of a variable, shifted and scaled to the box, so it cannot leave the box. Adam takes ``steps`` steps
    for each c; c is multiplied by ten until one succeeds, then bisected, example by example. An example costs
    ``binary_search_steps * steps`` forwards and backwards, and the result is rarely nearer than that of DDN or FMN.

    Args:
        model: maps inputs ``(B, ...)`` to logits ``(B, K)``; must be in eval mode. For a fast copy, its original verifies.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)`` or probabilities ``(B, K)``; the target classes if ``targeted``.
        threat: l2, box, and the eps within which an example counts as broken; with eps 0 every search runs to the end.
        binary_search_steps: number of values of c for each example.
        steps: Adam steps for each c.
        weight: the first c, the weight of the margin against the squared length in widths of the box.
        step_size: step size of Adam, in the variable under the tanh.
        confidence: lead over the next class that a point must have to count; a clean error counts without it.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether an example within eps leaves at once, or the search for a nearer point goes on.
        ids: accepted because every attack accepts them; this attack draws nothing.
        seed: accepted because every attack accepts it; this attack draws nothing.
        batch_size: number of examples attacked at a time.

    Returns:
        A `MinimalResult`, verified on the original model.

    Raises:
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that do not fit the box or the labels.
        ThreatError: a norm other than l2.
        ConfigError: ``binary_search_steps`` or ``steps`` below 1.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> found = carlini_wagner(model, torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ThreatModel("l2", 0.0))
        >>> round(float(found.min_distance), 2)
        0.14

    Reference: Carlini and Wagner, "Towards evaluating the robustness of neural networks", IEEE S&P 2017, arXiv:1608.04644.
    """
    require_norm("carlini_wagner", threat, "l2")
    model = bind_dtype(model, x)
    linearise = linearise_objective(model, margin, targeted=targeted)
    rule, queries = carlini_wagner_rule(steps, weight, step_size, confidence), binary_search_steps * steps
    plan = SearchConfig(model, [linearise], rule, queries, 1, targeted, early_stop, confidence=confidence, seed=seed)
    return search_minimum_norm(plan, x, y, threat, ids=ids, batch_size=batch_size)


def carlini_wagner_rule(steps: int, weight: float, step_size: float, confidence: float) -> Rule:
    """Return a step of Adam, or the restart from ``x`` with the next c.

    Args:
        steps: Adam steps for each c.
        weight: the first c.
        step_size: step size of Adam.
        confidence: lead at which the margin term vanishes.

    Returns:
        The rule of `advreg.attacks.minimum_norm.search.SearchConfig`.

    Example:
        >>> from advreg.attacks.minimum_norm.search import SearchConfig, search_minimum_norm
        >>> from advreg.objectives import margin
        >>> model, x, y = torch.nn.Linear(2, 2).eval(), torch.full((1, 2), 0.5), torch.tensor([0])
        >>> rule = carlini_wagner_rule(2, weight=1.0, step_size=0.1, confidence=0.0)
        >>> plan = SearchConfig(model, [linearise_objective(model, margin)], rule, steps=4)
        >>> search_minimum_norm(plan, x, y, ThreatModel("l2", 0.0)).closest_adv.shape
        torch.Size([1, 2])
    """

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
    """Return the centre of the box and half its width."""
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
    """Return the memory with a smaller c where the last one succeeded, and a larger one elsewhere."""
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
