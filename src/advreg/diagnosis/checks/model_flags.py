"""C. Flags: what a look at the model says before any attack.

Reference: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
ICML 2020, arXiv:2003.01690.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.attacks.verification import logits_of
from advreg.diagnosis.context import DiagnosisContext, correct_rows, gradients, needs_gradient
from advreg.diagnosis.gradient_checks import gradient_spread
from advreg.evaluation.ledger_checks import averages_outputs
from advreg.objectives import are_probabilities, margin, scale_free
from advreg.results.checks import DISAGREEMENT, DISAGREEMENT_LIMIT, Check, flag_check, grade_check, skip_check
from advreg.statistics import clopper_pearson_interval

_REPEATS = 8
_SAME = 1e-4


def eval_mode(trains: Sequence[str]) -> Check:
    """Report whether the model came in train mode, where BatchNorm and dropout answer for the batch."""
    says = f"in train mode: {', '.join(trains[:3])}; all other checks hold it in eval mode" if trains else ""
    return flag_check("eval-mode", "B", "train mode", says or "every part is in eval mode", raised=bool(trains))


def logits(subject: DiagnosisContext) -> Check:
    """Check whether the outputs are probabilities."""
    z = logits_of(subject.model, subject.x[:64])
    raised = are_probabilities(z)
    says = "outputs are non-negative and sum to 1: probabilities" if raised else "outputs are no probabilities"
    return flag_check("logits", "C", "probabilities", says, raised=raised)


def few_classes(subject: DiagnosisContext) -> Check:
    """Report whether there are too few classes for DLR: then the margin replaces it, which is no fault."""
    count = logits_of(subject.model, subject.x[:1]).shape[1]
    word = "enough for" if scale_free(count) else "fewer than 4: the margin stands in for"
    return flag_check("few-classes", "C", "weak attack", f"{count} classes, {word} DLR", raised=False)


def randomness(subject: DiagnosisContext) -> Check:
    """Check whether repeated outputs on the same input differ."""
    measured = gradient_spread(torch.stack([logits_of(subject.model, subject.x[:64]) for _ in range(_REPEATS)]))
    says = f"answers to the same input differ by {measured:.2g} of the largest logit"
    return grade_check("randomness", "C", "random", says, measured=measured, threshold=_SAME)


def gradient_randomness(subject: DiagnosisContext) -> Check:
    """Check whether repeated gradients at the same input point elsewhere: ``1 - cosine``, on average."""
    if absent := needs_gradient(subject, "gradient-randomness", "C"):
        return absent
    measured = max(0.0, 1 - gradient_agreement(subject))
    says = f"two gradients at the same input have a cosine of {1 - measured:.3g}"
    return grade_check("gradient-randomness", "C", "random", says, measured=measured, threshold=1e-3)


def verdict_randomness(subject: DiagnosisContext) -> Check:
    """Measure on how many examples repeated answers to the same attacked point disagree about whether the model is right.

    Attacked points lie near the boundary, where a random answer changes sides; without a gradient, clean points are used.
    """
    name, rows = "verdict-randomness", subject.probes()
    if not subject.is_random:
        return skip_check(name, "C", "the model gives the same answer twice")
    if averages_outputs(subject.claim):
        return skip_check(name, "C", "the protocol averages over answers: no single one decides the figure")
    if not len(rows):
        return skip_check(name, "C", "no example is right: there is none to look at")
    points = subject.x[rows] if subject.no_gradient else subject.trace.result.x_adv
    changing, n = count_unsettled(subject.model, points, subject.y[rows]), len(rows)
    says = (
        f"on {changing} of {n} examples {_REPEATS} answers to the same point disagree about whether the model is right"
    )
    return grade_check(
        name, "C", "random", says, measured=changing / n, threshold=DISAGREEMENT, limit=DISAGREEMENT_LIMIT,
        ends=clopper_pearson_interval(changing, n),
    )  # fmt: skip


def count_unsettled(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return on how many inputs repeated answers are not all right or all wrong.

    Args:
        model: the original, which may be random.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``.
    """
    verdicts = torch.stack([correct_rows(model, x, y) for _ in range(_REPEATS)])
    return int((verdicts.any(0) & ~verdicts.all(0)).sum())


def gradient_agreement(subject: DiagnosisContext) -> float:
    """Return the mean cosine of two gradients of the margin at the same inputs; 1 where both vanish."""
    rows = subject.probes()
    pair = (gradients(subject.model, subject.x[rows], subject.y[rows], margin).flatten(1) for _ in range(2))
    a, b = pair
    length = a.norm(dim=1) * b.norm(dim=1)
    cosine = torch.where(length > 0, (a * b).sum(1) / length.clamp_min(1e-30), 1.0)
    return float(cosine.mean())


def test_time_optimisation(subject: DiagnosisContext) -> Check:
    """Check whether the forward itself takes gradients or changes the model."""
    with torch.enable_grad():
        query_model(
            subject.model, subject.x[:4]
        )  # a compiled model takes gradients when it is first called, and never again
    before = _state(subject.model)
    with _count_autograd_calls() as calls, torch.enable_grad():
        query_model(subject.model, subject.x[:4])
    changed = [name for name, value in _state(subject.model).items() if not torch.equal(value, before[name])]
    words = [f"{len(calls)} backward passes inside a forward"] if calls else []
    words += [f"a forward changes {changed[0]}"] if changed else []
    says = "; ".join(words) or "a forward takes no gradient and changes nothing"
    name = "test-time-optimisation"
    return flag_check(name, "C", "test-time optimisation", says, raised=bool(words), hard=False)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@contextmanager
def _count_autograd_calls() -> Iterator[list[str]]:
    """Count the calls of autograd inside the block."""
    calls: list[str] = []
    kept = {name: getattr(torch.autograd, name) for name in ("grad", "backward")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            calls.append(name)
            return kept[name](*given, **options)

        return call

    try:
        for name in kept:
            setattr(torch.autograd, name, counting(name))
        yield calls
    finally:
        for name, function in kept.items():
            setattr(torch.autograd, name, function)
