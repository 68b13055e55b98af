"""Adaptive attacks: what the failed checks suggest is tried, in turn, on what still stands. The original model judges.

Each cause has its means: EOT for randomness, BPDA for gradients that are cut or have no slope, a loss that does not vanish
for saturation, more effort for weakness; transfer and Square need no gradient of the model at all.
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
from advreg.diagnosis.module_hooks import Smooth
from advreg.diagnosis.reported_accuracy import run_stages_in_turn
from advreg.diagnosis.result import AdaptiveAttempt, AdaptiveResult
from advreg.diagnosis.surrogate import surrogate_of
from advreg.evaluation.protocols import ProtocolStage
from advreg.objectives import cross_entropy, dlr, margin
from advreg.results.checks import CAUSES, GAIN, GAP, Check, grade_check
from advreg.statistics import clopper_pearson_interval

_COSINE = 0.9  # cosine that averaged gradients should have with each other
_MAX_SAMPLES = 64  # samples that an average may take


@dataclass(frozen=True, eq=False)
class AdaptiveAttack:
    """One way to attack: what it is called, the cause it answers, and how to get it (which may take a training)."""

    name: str
    cause: str
    make: Callable[[], tuple[nn.Module, Attack]]


def samples_needed(cosine: float) -> int:
    """Return over how many gradients to average so that two averages have a cosine of 0.9.

    With a cosine ``c`` between single gradients, averages of ``k`` have ``k c / (1 + (k - 1) c)``.

    Example:
        >>> samples_needed(1.0), samples_needed(0.5), samples_needed(0.0)
        (1, 9, 64)
    """
    if cosine <= 0:
        return _MAX_SAMPLES
    return min(_MAX_SAMPLES, max(1, math.ceil(_COSINE * (1 - cosine) / ((1 - _COSINE) * cosine) - 1e-9)))


def adapt(
    subject: DiagnosisContext,
    causes: tuple[str, ...],
    *,
    backward: Mapping[str, Smooth] | nn.Module | None = None,
) -> AdaptiveResult:
    """Attack what the figure counts as robust by every means that the causes suggest, each on what the ones before it left.

    Args:
        subject: model, examples and figure.
        causes: what a diagnosis found.
        backward: the user's own way back: a stand-in for each named module, or a differentiable model.

    Returns:
        The lower figure, and by which means. A random model is judged by the mean of 15 answers, every example anew.
    """
    stands, tries = subject.stands.clone(), []
    judge = Averaged(subject.model) if subject.is_random else subject.model
    if (
        subject.is_random
    ):  # another question than the figure's, which one lucky answer may have lowered: all are asked anew
        stands = correct_rows(judge, subject.x, subject.y)
    for means in choose_adaptive_attacks(subject, judge, causes, backward):
        rows = stands.nonzero()[:, 0]
        if not len(rows):
            break
        began = time.perf_counter()
        broken, why = _run_adaptive(subject, means, rows)
        stands[rows[broken]] = False
        share, seconds = float(stands.double().mean()), time.perf_counter() - began
        tries.append(AdaptiveAttempt(means.name, means.cause, len(rows), int(broken.sum()), share, seconds, why))
    left = int(stands.sum())
    best = max(tries, key=lambda attempt: attempt.broken, default=None)
    name = best.means if best is not None and best.broken else ""
    return AdaptiveResult(left / subject.n, clopper_pearson_interval(left, subject.n), name, tuple(tries))


def _run_adaptive(subject: DiagnosisContext, means: AdaptiveAttack, rows: Tensor) -> tuple[Tensor, str]:
    """Return which rows a means broke, and why it could not be tried if so."""
    try:
        model, attack = means.make()
        return in_batches(rows, partial(_broken, subject, model, attack), most=len(rows)), ""
    except Exception as cause:  # a stand-in that does not fit, a model that still has no gradient: the next means
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device), describe_or_reraise(cause)


def _broken(subject: DiagnosisContext, model: nn.Module, attack: Attack, rows: Tensor) -> Tensor:
    x, y, ids = subject.x[rows], subject.y[rows], subject.ids[rows]
    broken: Tensor = attack(model, x, y, subject.threat, ids=ids, seed=subject.seed).broken
    return broken


def choose_adaptive_attacks(
    subject: DiagnosisContext,
    judge: nn.Module,
    causes: tuple[str, ...],
    backward: Mapping[str, Smooth] | nn.Module | None,
) -> list[AdaptiveAttack]:
    """Return the means that the causes suggest, the cheap and specific ones first; those of the last resort always.

    Args:
        subject: model, examples and figure.
        judge: the original, which verifies every point.
        causes: causes of the checks' findings, see `advreg.results.checks.CAUSES`.
        backward: replacements of modules by name, or a differentiable model, given by the user; None without one.

    Returns:
        The attacks in the order to run them, each once.

    Example:
        >>> from advreg.diagnosis.diagnose import context_of
        >>> from advreg.threat import ThreatModel
        >>> model, x = nn.Linear(4, 3).eval(), torch.rand(4, 4)
        >>> subject, _ = context_of(model, (x, model(x).argmax(1)), ThreatModel("linf", 1e-6), 4, None, True, None, 0, None)
        >>> [attack.name for attack in choose_adaptive_attacks(subject, model, (), None)][:2]
        ['margin loss', 'DLR']
    """
    known = [
        *_user_attacks(subject, judge, backward),
        *_specific_attacks(subject, judge),
        *_general_attacks(subject, judge),
    ]
    always = {"user", "weak attack", "masked gradients"}
    wanted = [means for means in known if means.cause in always or means.cause in causes]
    return list({means.name: means for means in reversed(wanted)}.values())[::-1]  # each once, where it came first


def _user_attacks(
    subject: DiagnosisContext, judge: nn.Module, backward: Mapping[str, Smooth] | nn.Module | None
) -> Iterator[AdaptiveAttack]:
    if isinstance(backward, nn.Module):
        yield AdaptiveAttack(
            "BPDA, the user's model", "user", lambda: (bpda.Proposer(backward, judge), _gradient_attack(subject))
        )
    elif backward:
        yield AdaptiveAttack(
            "BPDA, the user's",
            "user",
            lambda: (bpda.Bridged(subject.model, backward, judge), _gradient_attack(subject)),
        )


def _specific_attacks(subject: DiagnosisContext, judge: nn.Module) -> Iterator[AdaptiveAttack]:
    x, model = subject.x[:64], subject.model
    for cause in ("probabilities", "saturated"):
        yield AdaptiveAttack(
            "saturating steps left out", cause, lambda: (bpda.Unsquashed(model, judge), _gradient_attack(subject))
        )
    for cause in ("no gradient path", "shattered gradients", "probabilities", "saturated", "wrong gradients"):
        yield AdaptiveAttack(
            "BPDA, straight through", cause, lambda: (bpda.Straight(model, judge), _gradient_attack(subject))
        )
        yield AdaptiveAttack(
            "BPDA, identity", cause,
            lambda: (bpda.Bridged(model, _require_stand_ins(bpda.identities(model, x)), judge), _gradient_attack(subject)),
        )  # fmt: skip
        yield AdaptiveAttack(
            "BPDA, fitted network", cause,
            lambda: (bpda.Bridged(model, _require_stand_ins(bpda.fit_bpda(model, x)), judge), _gradient_attack(subject)),
        )  # fmt: skip
    samples = samples_needed(gradient_agreement(subject)) if subject.is_random and not subject.no_gradient else 1
    eot = partial(attacks.apgd, steps=subject.budget.steps, objective=margin, eot=samples)
    yield AdaptiveAttack(f"EOT, {samples} samples", "random", lambda: (bpda.Proposer(model, judge), eot))
    factor = natural_scale(subject)
    rescaled = partial(
        attacks.cosine_pgd, steps=subject.budget.steps, objective=with_scaled_logits(cross_entropy, factor)
    )
    yield AdaptiveAttack(f"logits times {factor:.2g}", "saturated", lambda: (bpda.Proposer(model, judge), rescaled))


def _require_stand_ins(stand_ins: dict[str, Smooth]) -> dict[str, Smooth]:
    if not stand_ins:
        raise ValueError("no module here cuts the gradient and keeps the shape")
    return stand_ins


def adaptive_check(adapted: AdaptiveResult, subject: DiagnosisContext) -> Check:
    """Grade what the adaptive attacks broke together, as any other challenger's gain."""
    standing = len(subject.standing)
    broken = max(0, standing - round(adapted.robust_accuracy * subject.n))
    cause = next(
        (a.cause for a in adapted.attempts if a.means == adapted.means and a.cause in CAUSES), "masked gradients"
    )
    scale = standing / subject.n
    low, high = clopper_pearson_interval(broken, standing)
    return grade_check(
        "adaptive", "A", cause, f"adaptive attacks break {broken} of {standing}; most by {adapted.means or 'none'}",
        measured=broken / subject.n, threshold=GAIN, limit=GAP, ends=(low * scale, high * scale),
    )  # fmt: skip


def _gradient_attack(subject: DiagnosisContext) -> Attack:
    """Return what follows a mended gradient: the margin first, then every other class in turn on what is left."""
    untargeted = partial(attacks.apgd, steps=subject.budget.steps, objective=margin, restarts=2)
    targeted = partial(attacks.apgd_targeted, steps=40, target_classes=9)
    return run_stages_in_turn((ProtocolStage("margin", untargeted), ProtocolStage("targeted", targeted)))


def _general_attacks(subject: DiagnosisContext, judge: nn.Module) -> Iterator[AdaptiveAttack]:
    steps, queries = subject.budget.steps, subject.budget.queries
    asked = bpda.Proposer(subject.model, judge)
    for name, attack in (
        ("margin loss", partial(attacks.cosine_pgd, steps=steps, objective=margin, restarts=2)),
        ("DLR", partial(attacks.apgd, steps=steps, objective=dlr)),
        ("three wrong classes in turn", partial(attacks.apgd_targeted, steps=steps, target_classes=3)),
    ):
        yield AdaptiveAttack(name, "weak attack", partial(_pair, asked, attack))
    square = partial(attacks.square, queries=4 * queries, rescale=True)
    yield AdaptiveAttack(f"Square, {4 * queries} queries", "masked gradients", partial(_pair, judge, square))
    for adversarial in (True, False) if subject.budget.thorough else (True,):
        word = "an adversarially" if adversarial else "a plainly"
        yield AdaptiveAttack(
            f"transfer from {word} trained surrogate", "masked gradients",
            partial(_transfer_attack, subject, judge, adversarial),
        )  # fmt: skip


def _pair(model: nn.Module, attack: Attack) -> tuple[nn.Module, Attack]:
    return model, attack


def _transfer_attack(subject: DiagnosisContext, judge: nn.Module, adversarial: bool) -> tuple[nn.Module, Attack]:
    return judge, partial(attacks.transfer, surrogate=surrogate_of(subject, adversarial=adversarial))
