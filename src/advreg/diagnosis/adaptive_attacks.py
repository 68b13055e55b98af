"""Adaptive attacks: the attacks that the failed checks suggest, each on the survivors of those before it.

Each cause has its attacks: EOT against randomness, BPDA against gradients that are cut or vanish, another loss against
saturation, more steps against a weak attack. Transfer and Square need no gradient of the model. The original model verifies.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from advreg import attacks
from advreg.diagnosis import bpda
from advreg.diagnosis.checks.model_flags import gradient_agreement
from advreg.diagnosis.checks.numerics import natural_scale, with_scaled_logits
from advreg.diagnosis.context import Attack, DiagnosisContext, correct_rows, in_batches
from advreg.diagnosis.gradient_checks import Averaged, describe_or_reraise
from advreg.diagnosis.module_hooks import Approximation
from advreg.diagnosis.reported_accuracy import run_stages_in_turn
from advreg.diagnosis.result import AdaptiveAttempt, AdaptiveResult
from advreg.diagnosis.surrogate import surrogate_of
from advreg.evaluation.protocols import ProtocolStage
from advreg.objectives import cross_entropy, dlr, margin
from advreg.results.checks import CAUSES, GAIN, GAP, Check, grade_check
from advreg.statistics import clopper_pearson_interval

_COSINE = 0.9  # cosine between two averaged gradients to reach
_MAX_SAMPLES = 64  # samples in an average at most


@dataclass(frozen=True, eq=False)
class AdaptiveAttack:
    """An attack against one cause.

    Attributes:
        name: label in the result.
        cause: cause that it is chosen for.
        make: returns the model to attack and the attack; may train a network.
    """

    name: str
    cause: str
    make: Callable[[], tuple[nn.Module, Attack]]


def samples_needed(cosine: float) -> int:
    """Return how many gradients to average so that two averages have a cosine of 0.9.

    With a cosine ``c`` between single gradients, averages of ``k`` have ``k c / (1 + (k - 1) c)``.

    Example:
        >>> samples_needed(1.0), samples_needed(0.5), samples_needed(0.0)
        (1, 9, 64)
    """
    if cosine <= 0:
        return _MAX_SAMPLES
    return min(_MAX_SAMPLES, max(1, math.ceil(_COSINE * (1 - cosine) / ((1 - _COSINE) * cosine) - 1e-9)))


def adapt(
    context: DiagnosisContext,
    causes: tuple[str, ...],
    *,
    backward: Mapping[str, Approximation] | nn.Module | None = None,
) -> AdaptiveResult:
    """Run the adaptive attacks for these causes on the robust examples, each on the survivors of those before it.

    Args:
        context: model, examples and figure.
        causes: findings of a diagnosis.
        backward: the caller's backward pass: a differentiable approximation of each named module, or a whole model.

    Returns:
        The lower figure, and the attack that broke most. A random model is verified on the mean of 15 outputs, starting from
        all examples that this mean classifies correctly.
    """
    robust, attempts = context.robust.clone(), []
    original = Averaged(context.model) if context.is_random else context.model
    if context.is_random:  # one lucky draw may have lowered the figure: start from all that the average gets right
        robust = correct_rows(original, context.x, context.y)
    for attack in choose_adaptive_attacks(context, original, causes, backward):
        rows = robust.nonzero()[:, 0]
        if not len(rows):
            break
        began = time.perf_counter()
        broken, failure = _run_adaptive(context, attack, rows)
        robust[rows[broken]] = False
        share, seconds = float(robust.double().mean()), time.perf_counter() - began
        attempts.append(
            AdaptiveAttempt(attack.name, attack.cause, len(rows), int(broken.sum()), share, seconds, failure)
        )
    survivors = int(robust.sum())
    best = max(attempts, key=lambda attempt: attempt.broken, default=None)
    name = best.means if best is not None and best.broken else ""
    return AdaptiveResult(survivors / context.n, clopper_pearson_interval(survivors, context.n), name, tuple(attempts))


def _run_adaptive(context: DiagnosisContext, adaptive: AdaptiveAttack, rows: Tensor) -> tuple[Tensor, str]:
    """Return which rows an adaptive attack breaks, and the reason if it cannot be run."""
    try:
        model, attack = adaptive.make()
        return in_batches(rows, partial(_broken, context, model, attack), most=len(rows)), ""
    except Exception as cause:  # an approximation that does not fit, or still no gradient: the next attack runs
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device), describe_or_reraise(cause)


def _broken(context: DiagnosisContext, model: nn.Module, attack: Attack, rows: Tensor) -> Tensor:
    x, y = context.x[rows], context.y[rows]
    broken: Tensor = attack(model, x, y, context.threat, ids=context.ids[rows], seed=context.seed).broken
    return broken


def choose_adaptive_attacks(
    context: DiagnosisContext,
    original: nn.Module,
    causes: tuple[str, ...],
    backward: Mapping[str, Approximation] | nn.Module | None,
) -> list[AdaptiveAttack]:
    """Return the attacks for these causes, cheap and specific ones first; those against any weakness are always included.

    Args:
        context: model, examples and figure.
        original: the model that verifies.
        causes: findings of a diagnosis.
        backward: the caller's backward pass, see `adapt`.

    Returns:
        The attacks in the order to run them, each once.

    Example:
        >>> from advreg.diagnosis.diagnose import make_context
        >>> from advreg.threat import ThreatModel
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> context, _ = make_context(model, (x, model(x).argmax(1)), ThreatModel("linf", 1e-6), 4, quick=True)
        >>> [attack.name for attack in choose_adaptive_attacks(context, model, (), None)][:2]
        ['margin loss', 'DLR']
    """
    known = [
        *_user_attacks(context, original, backward),
        *_specific_attacks(context, original),
        *_general_attacks(context, original),
    ]
    always = {"user", "weak attack", "masked gradients"}
    wanted = [each for each in known if each.cause in always or each.cause in causes]
    return list({each.name: each for each in reversed(wanted)}.values())[::-1]  # each name once, with its first cause


def _user_attacks(
    context: DiagnosisContext, original: nn.Module, backward: Mapping[str, Approximation] | nn.Module | None
) -> Iterator[AdaptiveAttack]:
    if isinstance(backward, nn.Module):
        yield _bpda_attack(context, "BPDA, the user's model", "user", lambda: bpda.AttackProxy(backward, original))
    elif backward:
        yield _bpda_attack(
            context, "BPDA, the user's", "user", lambda: bpda.BpdaProxy(context.model, backward, original)
        )


def _bpda_attack(
    context: DiagnosisContext, name: str, cause: str, make_proxy: Callable[[], nn.Module]
) -> AdaptiveAttack:
    """Return an adaptive attack that follows the gradients of a proxy."""
    return AdaptiveAttack(name, cause, lambda: (make_proxy(), _gradient_attack(context)))


def _specific_attacks(context: DiagnosisContext, original: nn.Module) -> Iterator[AdaptiveAttack]:
    x, steps = context.x[:64], context.budget.steps
    model = context.model
    for cause in ("probabilities", "saturated"):
        yield _bpda_attack(context, "saturating steps left out", cause, lambda: bpda.UnsaturatedProxy(model, original))
    for cause in ("no gradient path", "shattered gradients", "probabilities", "saturated", "wrong gradients"):
        yield _bpda_attack(context, "BPDA, straight through", cause, lambda: bpda.StraightThroughProxy(model, original))
        for name, approximate in (("identity", bpda.identity_approximations), ("fitted network", bpda.fit_bpda)):
            yield _bpda_attack(context, f"BPDA, {name}", cause, partial(_bpda_proxy, model, x, original, approximate))
    samples = samples_needed(gradient_agreement(context)) if context.is_random and not context.no_gradient else 1
    eot = partial(attacks.apgd, steps=steps, objective=margin, eot=samples)
    yield AdaptiveAttack(f"EOT, {samples} samples", "random", lambda: (bpda.AttackProxy(model, original), eot))
    factor = natural_scale(context)
    rescaled = partial(attacks.cosine_pgd, steps=steps, objective=with_scaled_logits(cross_entropy, factor))
    yield AdaptiveAttack(
        f"logits times {factor:.2g}", "saturated", lambda: (bpda.AttackProxy(model, original), rescaled)
    )


def _bpda_proxy(
    model: nn.Module,
    x: Tensor,
    original: nn.Module,
    approximate: Callable[[nn.Module, Tensor], dict[str, Approximation]],
) -> bpda.BpdaProxy:
    """Return the model with approximations of the modules that pass no gradient back.

    Raises:
        ValueError: no such module, or none that can be approximated.
    """
    approximations = approximate(model, x)
    if not approximations:
        raise ValueError("no module here cuts the gradient and keeps the shape")
    return bpda.BpdaProxy(model, approximations, original)


def adaptive_check(adapted: AdaptiveResult, context: DiagnosisContext) -> Check:
    """Grade what the adaptive attacks broke together, as the gain of any other attack.

    Args:
        adapted: result of the adaptive attacks.
        context: model, examples and figure.
    """
    survivors = len(context.robust_rows)
    broken = max(0, survivors - round(adapted.robust_accuracy * context.n))
    cause = next(
        (a.cause for a in adapted.attempts if a.means == adapted.means and a.cause in CAUSES), "masked gradients"
    )
    scale = survivors / context.n
    low, high = clopper_pearson_interval(broken, survivors)
    return grade_check(
        "adaptive",
        "A",
        cause,
        f"adaptive attacks break {broken} of {survivors}; most by {adapted.means or 'none'}",
        measured=broken / context.n,
        threshold=GAIN,
        limit=GAP,
        ends=(low * scale, high * scale),
    )


def _gradient_attack(context: DiagnosisContext) -> Attack:
    """Return the attack that follows a repaired gradient: on the margin, then at every other class on the survivors."""
    untargeted = partial(attacks.apgd, steps=context.budget.steps, objective=margin, restarts=2)
    targeted = partial(attacks.apgd_targeted, steps=40, target_classes=9)
    return run_stages_in_turn((ProtocolStage("margin", untargeted), ProtocolStage("targeted", targeted)))


def _general_attacks(context: DiagnosisContext, original: nn.Module) -> Iterator[AdaptiveAttack]:
    steps, queries = context.budget.steps, context.budget.queries
    proxy = bpda.AttackProxy(context.model, original)
    for name, attack in (
        ("margin loss", partial(attacks.cosine_pgd, steps=steps, objective=margin, restarts=2)),
        ("DLR", partial(attacks.apgd, steps=steps, objective=dlr)),
        ("three wrong classes in turn", partial(attacks.apgd_targeted, steps=steps, target_classes=3)),
    ):
        yield AdaptiveAttack(name, "weak attack", partial(_pair, proxy, attack))
    square = partial(attacks.square, queries=4 * queries, rescale=True)
    yield AdaptiveAttack(f"Square, {4 * queries} queries", "masked gradients", partial(_pair, original, square))
    for adversarial in (True, False) if context.budget.thorough else (True,):
        name = f"transfer from {'an adversarially' if adversarial else 'a plainly'} trained surrogate"
        make = partial(_transfer_attack, context, original, adversarial)
        yield AdaptiveAttack(name, "masked gradients", make)


def _pair(model: nn.Module, attack: Attack) -> tuple[nn.Module, Attack]:
    return model, attack


def _transfer_attack(context: DiagnosisContext, original: nn.Module, adversarial: bool) -> tuple[nn.Module, Attack]:
    return original, partial(attacks.transfer, surrogate=surrogate_of(context, adversarial=adversarial))
