"""F. Numerics: what rounding does to losses and gradients, and whether autograd tells the truth about them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from advreg import attacks, example_rng
from advreg.diagnosis.autograd_inspection import flat_operations
from advreg.diagnosis.challenge import challenge_figure
from advreg.diagnosis.context import DiagnosisContext, gradients, margins, needs_certainty, needs_gradient, run_on
from advreg.diagnosis.gradient_checks import describe_or_reraise
from advreg.models.copying import copy_model
from advreg.objectives import Objective, cross_entropy, dlr, margin
from advreg.results.checks import Check, grade_check, skip_check
from advreg.statistics import mcnemar

_NATURAL = 3.0  # a margin at which the cross-entropy has a slope worth following
_DIRECTIONS = 16
_SURE = 0.01


def with_scaled_logits(objective: Objective, factor: float) -> Objective:
    """Return an objective of logits that are multiplied first."""

    def of_scaled(logits: Tensor, y: Tensor) -> Tensor:
        return objective(logits * factor, y)

    return of_scaled


def natural_scale(subject: DiagnosisContext) -> float:
    """Return the factor that brings the median margin of robust examples to 3."""
    rows = subject.probes()
    typical = float(margins(subject.model, subject.x[rows], subject.y[rows]).abs().median())
    return _NATURAL / max(typical, 1e-30)


def loss_scale(subject: DiagnosisContext) -> Check:
    """Check whether the cross-entropy of logits brought to a natural scale breaks more: then it had vanished."""
    if absent := needs_gradient(subject, "loss-scale", "F"):
        return absent
    factor = natural_scale(subject)
    attack = partial(attacks.pgd, steps=40, objective=with_scaled_logits(cross_entropy, factor))
    by = f"PGD-40 on logits times {factor:.2g}"
    found = challenge_figure(subject, attack, "loss-scale", "F", by, cause="saturated")
    return found if found.verdict == "fail" else replace(found, cause="weak attack")  # any other loss breaks a few more


def scale_free(subject: DiagnosisContext) -> Check:
    """Check whether DLR, which no scale of the logits should touch, breaks as much at 1/100 and 100 times the logits."""
    if absent := needs_gradient(subject, "scale-free", "F"):
        return absent
    rows = subject.probes()
    lost = [
        run_on(subject, partial(attacks.pgd, steps=20, objective=with_scaled_logits(dlr, factor)), rows)
        for factor in (1.0, 0.01, 100.0)
    ]
    moved = max(abs(int(a.sum()) - int(lost[0].sum())) / len(rows) for a in lost[1:])
    sure = min(mcnemar(int((a & ~lost[0]).sum()), int((lost[0] & ~a).sum())) for a in lost[1:]) < _SURE
    says = f"accuracy under DLR moves by {moved:.1%} when the logits are multiplied"
    measured = moved if sure else 0.0
    return grade_check("scale-free", "F", "saturated", says, measured=measured, threshold=0.005)


def denormal(subject: DiagnosisContext) -> Check:
    """Measure how many entries of the gradient are too small for full precision."""
    if absent := needs_gradient(subject, "denormal", "F"):
        return absent
    rows = subject.probes()
    g = gradients(subject.model, subject.x[rows], subject.y[rows], cross_entropy)
    tiny = (g != 0) & (g.abs() < torch.finfo(g.dtype).tiny)
    measured, zero = float(tiny.double().mean()), float((g == 0).double().mean())
    says = f"{measured:.1%} of the gradient's entries are denormal, {zero:.1%} exactly zero"
    return grade_check("denormal", "F", "saturated", says, measured=measured, threshold=0.01)


def float64(subject: DiagnosisContext) -> Check:
    """Measure how many signs of the gradient are another in float64, among entries that matter."""
    if absent := needs_gradient(subject, "float64", "F") or needs_certainty(subject, "float64", "F"):
        return absent
    rows = subject.probes()
    double = _in_float64(subject.model, subject.x[rows])
    if isinstance(double, str):
        return skip_check("float64", "F", f"the model does not run in float64: {double}")
    x, y = subject.x[rows], subject.y[rows]
    low, high = (gradients(m, a, y, cross_entropy).flatten(1) for m, a in ((subject.model, x), (double, x.double())))
    size = high.abs()
    matters = size > 1e-3 * size.amax(1, keepdim=True)
    other = matters & (low.sign() != high.sign())
    measured = float(other.sum()) / max(float(matters.sum()), 1.0)
    says = f"{measured:.2%} of the gradient's signs are another in float64"
    return grade_check("float64", "F", "saturated", says, measured=measured, threshold=0.01, limit=0.2)


def _in_float64(model: nn.Module, x: Tensor) -> nn.Module | str:
    try:
        twin = copy_model(model).double()
        with torch.no_grad():
            answered = twin(x[:2].double().clone())
    except Exception as cause:  # constants of another type, a model that cannot be copied
        return describe_or_reraise(cause)
    return twin if answered.dtype == torch.float64 else f"it answers in {answered.dtype}"


def slope(subject: DiagnosisContext) -> Check:
    """Check whether autograd agrees with finite differences near the point; a custom backward may not."""
    if absent := needs_gradient(subject, "slope", "F") or needs_certainty(subject, "slope", "F"):
        return absent
    rows = subject.probes()[:16]
    double = _in_float64(subject.model, subject.x[rows])
    exact = not isinstance(double, str)
    model = double if isinstance(double, nn.Module) else subject.model
    x = subject.x[rows].double() if exact else subject.x[rows]
    told, found = _slopes(model, x, subject.y[rows], subject, (1e-6 if exact else 1e-3) * subject.threat.width)
    if not float(told.norm()):
        return skip_check("slope", "F", "autograd says zero: see zero-gradients")
    measured = float((told - found).norm() / (told.norm() + found.norm()))
    says = f"autograd and finite differences along {_DIRECTIONS} directions differ by {measured:.2%} of their size"
    return grade_check("slope", "F", "wrong gradients", says, measured=measured, threshold=0.05, limit=0.5)


def reach(subject: DiagnosisContext) -> Check:
    """Check whether the gradient predicts the change half of eps away: ``1 - cosine`` of predicted and measured changes."""
    if absent := needs_gradient(subject, "reach", "F") or needs_certainty(subject, "reach", "F"):
        return absent
    rows = subject.probes()
    radius = float(subject.threat.eps) / 2 if subject.threat.norm == "linf" else 4 / 255 * subject.threat.width
    told, found = _slopes(subject.model, subject.x[rows], subject.y[rows], subject, radius)
    cosine = float((told * found).sum() / (told.norm() * found.norm()).clamp_min(1e-30))
    flat = flat_operations(subject.model, subject.x[:2])
    cause = "shattered gradients" if flat else "masked gradients"
    says = f"changes that the gradient foretells and those found {radius:.2g} away have a cosine of {cosine:.2f}"
    nothing = float(found.norm()) == 0.0
    measured = 0.0 if nothing else 1 - cosine
    return grade_check("reach", "F", cause, says, measured=measured, threshold=0.5, limit=0.9)


def _slopes(model: nn.Module, x: Tensor, y: Tensor, subject: DiagnosisContext, h: float) -> tuple[Tensor, Tensor]:
    """Return the margin's slopes along random signs by autograd, and by differences of length ``h``: ``(D, B)``.

    Both are taken between points of the box: outside it a model may clamp, or refuse, and no attack goes there.
    """
    g, (low, high) = gradients(model, x, y, margin), subject.threat.box
    ids = subject.ids[: len(x)]
    told, found = [], []
    for k in range(_DIRECTIONS):
        d = example_rng.signs(ids, tuple(x.shape[1:]), subject.seed, 8000 + k, x.dtype).to(x.device)
        up, down = (x + h * d).clamp(low, high), (x - h * d).clamp(low, high)
        told.append((g * (up - down)).flatten(1).sum(1) / (2 * h))
        found.append((margins(model, up, y) - margins(model, down, y)) / (2 * h))
    return torch.stack(told), torch.stack(found)
