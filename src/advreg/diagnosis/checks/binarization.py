"""E. The binarisation test: an attack must find an adversarial example where one exists by construction.

Around each example, points inside the ball get label 0 and one point on its surface gets label 1. A linear read-out of the
features before the last layer separates them without error. The rest of the network and the attack are unchanged.

Reference: Zimmermann et al., "Increasing confidence in adversarial robustness evaluations", NeurIPS 2022, arXiv:2206.13991.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.auto_pgd import random_sphere_point
from advreg.attacks.model import query_model
from advreg.attacks.verification import logits_of
from advreg.diagnosis.context import DiagnosisContext, margins, needs_gradient
from advreg.diagnosis.gradient_checks import describe_or_reraise
from advreg.plugins import filter_kwargs
from advreg.results.checks import Check, grade_check, skip_check
from advreg.statistics import clopper_pearson_interval
from advreg.threat import ThreatModel

_INSIDE = 0.95
_MISSED, _FAILED = 0.05, 0.2  # share of misses that is suspect, and that fails
_LEAST = 4  # planted examples that a grade needs
_LEAST_SHARE = 0.5  # share of the planted examples that random search must miss for a grade
_LANE = 9000
_DRAWS = 200


@dataclass(frozen=True, eq=False)
class ReadOut:
    """A linear read-out ``w . h + b`` of features, positive at the planted point and negative inside the ball."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return two logits for each row, ``(B, 2)``."""
        score = features @ self.weight + self.bias
        return torch.stack([-score / 2, score / 2], 1)


def binarisation(context: DiagnosisContext) -> Check:
    """Measure how often the figure's attack finds a planted example that random search misses."""
    if absent := needs_gradient(context, "binarisation", "E"):
        return absent
    if context.threat.rules is not None:
        return skip_check("binarisation", "E", "its examples are planted without the rules that rows must keep")
    head = last_linear(context.model, context.x[:2])
    if head is None:
        return skip_check("binarisation", "E", "the network does not end in a linear layer that could be replaced")
    if not accepts_two_logits(context.model, head, context.x[:2]):
        return skip_check("binarisation", "E", "what follows the last linear layer does not take two numbers from it")
    outcomes = _outcomes(context, head)
    hits = [by_attack for by_attack, by_chance in outcomes if not by_chance]
    if len(hits) < max(_LEAST, _LEAST_SHARE * len(outcomes)):
        says = f"only {len(hits)} of {len(outcomes)} examples could be planted out of reach of chance"
        return skip_check("binarisation", "E", says)
    missed, n = hits.count(False), len(hits)
    says = f"the same attack misses {missed} of {n} adversarial examples that exist by construction"
    return grade_check(
        "binarisation",
        "E",
        "masked gradients",
        says,
        measured=missed / n,
        threshold=_MISSED,
        limit=_FAILED,
        ends=clopper_pearson_interval(missed, n),
    )


def _outcomes(context: DiagnosisContext, head: nn.Linear) -> list[tuple[bool, bool]]:
    """Return for each example whether the attack and whether random search found the planted point, until the grade is certain.

    If the grade is uncertain after the examples of the budget, the other probes are tried too.
    """
    outcomes: list[tuple[bool, bool]] = []
    budget = context.budget.binarised
    for k, row in enumerate(context.probes(), 1):
        if (outcome := _try_planted(context, head, int(row))) is not None:
            outcomes.append(outcome)
        hits = [by_attack for by_attack, by_chance in outcomes if not by_chance]
        enough = len(hits) >= max(_LEAST, _LEAST_SHARE * len(outcomes)) or k >= budget
        if enough and grade_is_certain(hits.count(False), len(hits), max(budget - k, 0)):
            break
    return outcomes


def grade_is_certain(missed: int, n: int, left: int) -> bool:
    """Return whether ``missed`` of ``n`` is a failure, or remains a pass even if ``left`` more are missed.

    Example:
        >>> grade_is_certain(4, 4, 16), grade_is_certain(0, 10, 10), grade_is_certain(0, 17, 2), grade_is_certain(7, 20, 0)
        (True, False, True, False)
    """
    return (
        clopper_pearson_interval(missed, n)[0] > _FAILED
        or clopper_pearson_interval(missed + left, n + left)[0] <= _MISSED
    )


def last_linear(model: nn.Module, x: Tensor) -> nn.Linear | None:
    """Return the linear layer that is called last if no layer with weights follows it, else None."""
    called: list[nn.Module] = []

    def note(module: nn.Module, *_: Any) -> None:
        called.append(module)

    parts = [m for m in model.modules() if not list(m.children()) and not isinstance(m, torch.jit.ScriptModule)]
    handles = [m.register_forward_hook(note) for m in parts]
    try:
        with torch.no_grad():
            query_model(model, x)
    finally:
        for handle in handles:
            handle.remove()
    weighted = [module for module in called if any(True for _ in module.parameters())]
    return weighted[-1] if weighted and isinstance(weighted[-1], nn.Linear) else None


def accepts_two_logits(model: nn.Module, head: nn.Linear, x: Tensor) -> bool:
    """Return whether the network returns two finite logits where this layer returns two."""
    try:
        with replace_output(head, lambda features: features.new_zeros(len(features), 2)), torch.no_grad():
            z = query_model(model, x)
    except Exception as cause:  # the network may pick, group or reshape its classes
        return not describe_or_reraise(cause)
    return z.shape == (len(x), 2) and bool(torch.isfinite(z).all())


def _try_planted(context: DiagnosisContext, head: nn.Linear, row: int) -> tuple[bool, bool] | None:
    """Return whether the attack and random search found the point planted near one input; None if none can be planted."""
    x, ids = context.x[row : row + 1], context.ids[row : row + 1]
    planted = _plant(context, head, x, ids)
    if planted is None:
        return None
    y = torch.zeros(1, dtype=torch.int64, device=x.device)
    draws = draw_points(context.threat, x, ids, _DRAWS, context.seed + 1)
    with replace_output(head, planted):
        options = filter_kwargs(context.attack, seed=context.seed, ids=ids)
        found = context.attack(context.model, x, y, context.threat, **options)
        blind = logits_of(context.model, draws).argmax(1).any()
    return bool(found.broken), bool(blind)


def _plant(context: DiagnosisContext, head: nn.Linear, x: Tensor, ids: Tensor) -> ReadOut | None:
    inside, outside = _points(context.threat, x, ids, context.budget.inner, context.seed)
    with record_features(head) as seen:
        for part in torch.split(torch.cat([x, inside, outside]), 256):
            logits_of(context.model, part)
    return fit_readout(torch.cat(seen), float(margins(context.model, x, logits_of(context.model, x).argmax(1)).abs()))


def _points(threat: ThreatModel, x: Tensor, ids: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points inside 0.95 eps, ``(count, ...)``, and one at eps, ``(1, ...)``."""
    inner = threat.with_eps(_INSIDE * float(threat.eps))
    return draw_points(inner, x, ids, count, seed), random_sphere_point(x, threat, ids, seed, _LANE)


def draw_points(threat: ThreatModel, x: Tensor, ids: Tensor, count: int, seed: int) -> Tensor:
    """Return random points of the ball around one input ``(1, ...)``: ``(count, ...)``.

    Args:
        threat: norm, eps and box.
        x: the input ``(1, ...)``.
        ids: its example id ``(1,)``, on which the draws depend.
        count: number of points.
        seed: seed of the draws.

    Returns:
        Points ``(count, ...)`` inside the threat model.

    Example:
        >>> draw_points(ThreatModel("linf", 0.1), torch.zeros(1, 3), torch.tensor([0]), count=5, seed=0).shape
        torch.Size([5, 3])
    """
    own = ids.repeat(count) * 100_003 + torch.arange(count, device=ids.device)  # an id for each point
    return threat.random_start(x.expand(count, *x.shape[1:]), own, seed, _LANE)


def fit_readout(features: Tensor, scale: float) -> ReadOut | None:
    """Return the read-out along Fisher's direction that separates the last row from all others, or None if it does not.

    Args:
        features: features of the clean point, the points inside, and last the planted point ``(2 + inner, F)``.
        scale: margin of the clean point under the read-out.

    Returns:
        The read-out, or None.
    """
    inside, planted = features[:-1].double(), features[-1].double()
    centred = inside - inside.mean(0)
    spread = centred.T @ centred / len(inside)
    ridge = 1e-3 * spread.diagonal().mean().clamp_min(1e-12)
    eye = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    weight = torch.linalg.solve(spread + ridge * eye, planted - inside.mean(0))
    score, top = inside @ weight, planted @ weight
    gap = top - score.max()
    if not float(gap) > 1e-6 * float(weight.norm() * planted.norm().clamp_min(1e-12)):
        return None
    between = score.max() + gap / 2
    factor = scale / (between - score[0]).clamp_min(1e-12)
    return ReadOut((weight * factor).to(features), (-between * factor).to(features))


@contextmanager
def record_features(head: nn.Linear) -> Iterator[list[Tensor]]:
    """Record the inputs of a layer inside the block."""
    seen: list[Tensor] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].detach().flatten(1))

    handle = head.register_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def replace_output(head: nn.Linear, readout: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of a layer by a function of its inputs inside the block."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return readout(inputs[0].flatten(1))

    handle = head.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
