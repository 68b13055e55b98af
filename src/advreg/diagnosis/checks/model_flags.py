"""C. Flags: properties of the model that are measured without an attack.

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
from advreg.diagnosis.gradient_checks import relative_spread
from advreg.evaluation.ledger_checks import averages_outputs
from advreg.objectives import are_probabilities, margin, scale_free
from advreg.results.checks import DISAGREEMENT, DISAGREEMENT_LIMIT, Check, flag_check, grade_check, skip_check
from advreg.statistics import clopper_pearson_interval

_REPEATS = 8
_SAME = 1e-4


def eval_mode(in_train_mode: Sequence[str]) -> Check:
    """Report whether the model was given in train mode, where logits depend on the batch (BatchNorm) or on chance (dropout)."""
    says = (
        f"in train mode: {', '.join(in_train_mode[:3])}; all other checks hold it in eval mode" if in_train_mode else ""
    )
    return flag_check("eval-mode", "B", "train mode", says or "every part is in eval mode", raised=bool(in_train_mode))


def logits(context: DiagnosisContext) -> Check:
    """Check whether the outputs are probabilities."""
    z = logits_of(context.model, context.x[:64])
    raised = are_probabilities(z)
    says = "outputs are non-negative and sum to 1: probabilities" if raised else "outputs are not probabilities"
    return flag_check("logits", "C", "probabilities", says, raised=raised)


def few_classes(context: DiagnosisContext) -> Check:
    """Report whether there are too few classes for DLR; the margin then replaces it, which is no fault."""
    count = logits_of(context.model, context.x[:1]).shape[1]
    word = "enough for" if scale_free(count) else "fewer than 4: the margin replaces"
    return flag_check("few-classes", "C", "weak attack", f"{count} classes, {word} DLR", raised=False)


def randomness(context: DiagnosisContext) -> Check:
    """Check whether repeated outputs on the same input differ."""
    measured = relative_spread(torch.stack([logits_of(context.model, context.x[:64]) for _ in range(_REPEATS)]))
    says = f"repeated outputs on the same input differ by {measured:.2g} of the largest logit"
    return grade_check("randomness", "C", "random", says, measured=measured, threshold=_SAME)


def gradient_randomness(context: DiagnosisContext) -> Check:
    """Measure how far repeated gradients at the same input differ: the mean of ``1 - cosine``."""
    if absent := needs_gradient(context, "gradient-randomness", "C"):
        return absent
    measured = max(0.0, 1 - gradient_agreement(context))
    says = f"two gradients at the same input have a cosine of {1 - measured:.3g}"
    return grade_check("gradient-randomness", "C", "random", says, measured=measured, threshold=1e-3)


def verdict_randomness(context: DiagnosisContext) -> Check:
    """Measure on how many examples repeated predictions at one attacked point are sometimes right and sometimes wrong.

    Attacked points lie near the boundary, where the prediction of a random model changes; without a gradient, clean points
    are used.
    """
    name, rows = "verdict-randomness", context.probes()
    if not context.is_random:
        return skip_check(name, "C", "repeated outputs are equal")
    if averages_outputs(context.claim):
        return skip_check(name, "C", "the protocol averages over outputs, so no single one decides the figure")
    if not len(rows):
        return skip_check(name, "C", "no example is classified correctly")
    points = context.x[rows] if context.no_gradient else context.trace.result.x_adv
    changing, n = count_unsettled(context.model, points, context.y[rows]), len(rows)
    says = f"on {changing} of {n} examples {_REPEATS} predictions at the same point are neither all right nor all wrong"
    return grade_check(
        name,
        "C",
        "random",
        says,
        measured=changing / n,
        threshold=DISAGREEMENT,
        limit=DISAGREEMENT_LIMIT,
        ends=clopper_pearson_interval(changing, n),
    )


def count_unsettled(model: nn.Module, x: Tensor, y: Tensor) -> int:
    """Return on how many inputs repeated predictions are neither all right nor all wrong.

    Args:
        model: the original, which may be random.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``.
    """
    verdicts = torch.stack([correct_rows(model, x, y) for _ in range(_REPEATS)])
    return int((verdicts.any(0) & ~verdicts.all(0)).sum())


def gradient_agreement(context: DiagnosisContext) -> float:
    """Return the mean cosine of two gradients of the margin at the same inputs; 1 where both vanish."""
    rows = context.probes()
    pair = (gradients(context.model, context.x[rows], context.y[rows], margin).flatten(1) for _ in range(2))
    a, b = pair
    length = a.norm(dim=1) * b.norm(dim=1)
    cosine = torch.where(length > 0, (a * b).sum(1) / length.clamp_min(1e-30), 1.0)
    return float(cosine.mean())


def test_time_optimisation(context: DiagnosisContext) -> Check:
    """Check whether the forward pass takes gradients or changes the model."""
    with torch.enable_grad():
        query_model(context.model, context.x[:4])  # a compiled model takes gradients in its first call only
    before = _state(context.model)
    with _count_autograd_calls() as calls, torch.enable_grad():
        query_model(context.model, context.x[:4])
    changed = [name for name, value in _state(context.model).items() if not torch.equal(value, before[name])]
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
    originals = {name: getattr(torch.autograd, name) for name in ("grad", "backward")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            calls.append(name)
            return originals[name](*given, **options)

        return call

    try:
        for name in originals:
            setattr(torch.autograd, name, counting(name))
        yield calls
    finally:
        for name, function in originals.items():
            setattr(torch.autograd, name, function)
