"""SPSA: gradient ascent with a gradient estimated from finite differences of scores."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from advreg import example_rng
from advreg._deprecation import renamed_options
from advreg.attacks.blackbox.score_based import Proposal, QueryState, run_score_based
from advreg.attacks.input_limits import require_alike_features
from advreg.attacks.model import Model, bind_dtype, query_model
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import ThreatError
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel

_LENGTH = 0.01
"""Default ``step_size`` and ``delta``, as a share of the box's width."""
_CHUNK = 16
"""Directions in one forward; a constant, so that draws do not depend on the batch."""
_LANE = 1 << 20
"""Number of random streams reserved for one step."""


@renamed_options(probe="delta")
def spsa(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    steps: int = 50,
    samples: int = 64,
    step_size: float | None = None,
    delta: float | None = None,
    targeted: bool = False,
    early_stop: bool = True,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 32,
    task: Task = CLASSES,
) -> AttackResult:
    """Attack in linf by Adam on ``g = mean_v [f(x + delta v) - f(x - delta v)] / (2 delta) v``, v random signs.

    f is the margin. It needs no gradient, so a model cannot hide its gradient from it, and it averages over the outputs of
    a random model. An example that survives costs ``1 + steps (2 samples + 1) + 1`` forwards: the clean point, the
    differences and the iterate of each step, and the verification.

    Args:
        model: any function from inputs ``(B, ...)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean inputs ``(B, ...)`` in the box of ``threat``.
        y: labels ``(B,)``; the target classes if ``targeted``.
        threat: norm (linf), eps and box of the adversary; eps may differ between examples.
        steps: number of Adam steps.
        samples: random directions at each step.
        step_size: length of a step for each value in the units of the input; 0.01 of the box's width if None.
        delta: half the distance of the finite differences in the units of the input; 0.01 of the box's width if None.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once (same verdicts, fewer passes).
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the directions.
        batch_size: number of examples attacked at a time; a forward has up to 32 inputs for each of them.
        task: what an output is worth and when it is broken; `advreg.tasks` has others than classification.

    Returns:
        An `AttackResult`, verified on the original model.

    Raises:
        ThreatError: another norm than linf, or a count or length that is not positive.
        ModelError: train mode, or wrong output.
        DataError: inputs that do not fit the box or the labels.

    Example:
        >>> model = torch.nn.Linear(4, 3).eval()
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> spsa(model, x, y, ThreatModel("linf", 0.1), steps=3, samples=4).backwards
        0

    Reference: Uesato, O'Donoghue, van den Oord, Kohli, "Adversarial risk and the dangers of evaluating against weak
    attacks", ICML 2018, arXiv:1802.05666.
    """
    require_alike_features("spsa", threat)
    if threat.norm != "linf":
        raise ThreatError(
            f"spsa works in linf, the threat is {threat}; use square or hopskipjump for l2, square for l1"
        )
    step_size = _LENGTH * threat.width if step_size is None else step_size
    delta = _LENGTH * threat.width if delta is None else delta
    if min(steps, samples, step_size, delta) <= 0:
        raise ThreatError(
            f"steps, samples, step_size, delta are {steps}, {samples}, {step_size}, {delta}; give more than 0"
        )
    spec = QuerySpec(bind_dtype(model, x), task.nearness, targeted, task=task)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        propose = _adam_proposal(spec, samples, step_size, delta, seed)
        return run_score_based(
            spec, x, y, threat, ids, propose, queries=steps, price=2 * samples + 1, early_stop=early_stop
        )

    return search(spec, x, y, threat, attempt, ids=ids, early_stop=early_stop, batch_size=batch_size)


def _adam_proposal(spec: QuerySpec, samples: int, step_size: float, delta: float, seed: int) -> Proposal:
    """Return the proposal: a step of Adam from the last iterate, whether that was the best or not."""

    def propose(state: QueryState, k: int) -> QueryState:
        g = _estimate_gradient(spec, state, samples=samples, delta=delta, seed=seed, stream=k * _LANE)
        zero = torch.zeros_like(g)
        first = 0.9 * state.memory.get("first", zero) + 0.1 * g
        second = 0.999 * state.memory.get("second", zero) + 0.001 * g.square()
        scaled = first / (1 - 0.9 ** (k + 1)) / ((second / (1 - 0.999 ** (k + 1))).sqrt() + 1e-12)
        moved = state.threat.project(state.adv + step_size * scaled, state.x)
        return replace(state, adv=moved).remember(first=first, second=second)

    return propose


@torch.no_grad()
def _estimate_gradient(
    spec: QuerySpec, state: QueryState, *, samples: int, delta: float, seed: int, stream: int
) -> Tensor:
    """Return the estimated gradient at the iterate, loss per width of the box.

    Queried points stay in the box, because a service may reject inputs outside it.
    """
    low, high = state.threat.box
    total = torch.zeros_like(state.adv)
    for done in range(0, samples, _CHUNK):
        count = min(_CHUNK, samples - done)
        shape = (count, *state.x.shape[1:])
        v = example_rng.signs(state.ids, shape, seed, stream + done, state.x.dtype)
        pair = torch.stack([state.adv[:, None] + delta * v, state.adv[:, None] - delta * v], 1).clamp(low, high)
        logits = query_model(spec.model, pair.flatten(0, 2))
        loss = spec.loss_at(logits, state.y.repeat_interleave(2 * count, 0)).to(state.x.dtype).view(-1, 2, count)
        slope = torch.nan_to_num(loss[:, 0] - loss[:, 1], 0.0, 0.0, 0.0) / (2 * (delta / state.threat.width) * samples)
        total = total + (slope.view(*slope.shape, *[1] * (v.ndim - 2)) * v).sum(1)
    return total
