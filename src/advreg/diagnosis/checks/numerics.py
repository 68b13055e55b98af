"""F. Numerics: rounding of losses and gradients, and agreement of autograd with finite differences."""

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

_NATURAL = 3.0  # margin at which the cross-entropy has a useful gradient
_DIRECTIONS = 16
_SURE = 0.01


def with_scaled_logits(objective: Objective, factor: float) -> Objective:
    """Return an objective of the logits times a factor."""

    def of_scaled(logits: Tensor, y: Tensor) -> Tensor:
        return objective(logits * factor, y)

    return of_scaled


def natural_scale(context: DiagnosisContext) -> float:
    """Return the factor that brings the median margin of robust examples to 3."""
    rows = context.probes()
    typical = float(margins(context.model, context.x[rows], context.y[rows]).abs().median())
    return _NATURAL / max(typical, 1e-30)


def loss_scale(context: DiagnosisContext) -> Check:
    """Check whether PGD on rescaled logits breaks more: then the gradient of the cross-entropy vanished."""
    if absent := needs_gradient(context, "loss-scale", "F"):
        return absent
    factor = natural_scale(context)
    attack = partial(attacks.pgd, steps=40, objective=with_scaled_logits(cross_entropy, factor))
    by = f"PGD-40 on logits times {factor:.2g}"
    found = challenge_figure(context, attack, "loss-scale", "F", by, cause="saturated")
    return (
        found if found.verdict == "fail" else replace(found, cause="weak attack")
    )  # a few more examples break under any other loss


def scale_free(context: DiagnosisContext) -> Check:
    """Check whether PGD on DLR, which is scale-free, breaks as many examples at 1/100 and 100 times the logits."""
    if absent := needs_gradient(context, "scale-free", "F"):
        return absent
    rows = context.probes()
    broken = [
        run_on(context, partial(attacks.pgd, steps=20, objective=with_scaled_logits(dlr, factor)), rows)
        for factor in (1.0, 0.01, 100.0)
    ]
    moved = max(abs(int(a.sum()) - int(broken[0].sum())) / len(rows) for a in broken[1:])
    sure = min(mcnemar(int((a & ~broken[0]).sum()), int((broken[0] & ~a).sum())) for a in broken[1:]) < _SURE
    says = f"accuracy under DLR changes by {moved:.1%} if the logits are multiplied"
    measured = moved if sure else 0.0
    return grade_check("scale-free", "F", "saturated", says, measured=measured, threshold=0.005)


def denormal(context: DiagnosisContext) -> Check:
    """Measure the share of the gradient's entries that are denormal, so too small for full precision."""
    if absent := needs_gradient(context, "denormal", "F"):
        return absent
    rows = context.probes()
    g = gradients(context.model, context.x[rows], context.y[rows], cross_entropy)
    tiny = (g != 0) & (g.abs() < torch.finfo(g.dtype).tiny)
    measured, zero = float(tiny.double().mean()), float((g == 0).double().mean())
    says = f"{measured:.1%} of the gradient's entries are denormal, {zero:.1%} exactly zero"
    return grade_check("denormal", "F", "saturated", says, measured=measured, threshold=0.01)


def float64(context: DiagnosisContext) -> Check:
    """Measure the share of the gradient's signs that differ in float64, among entries above 1/1000 of the largest."""
    if absent := needs_gradient(context, "float64", "F") or needs_certainty(context, "float64", "F"):
        return absent
    rows = context.probes()
    double = _in_float64(context.model, context.x[rows])
    if isinstance(double, str):
        return skip_check("float64", "F", f"the model does not run in float64: {double}")
    x, y = context.x[rows], context.y[rows]
    low, high = (gradients(m, a, y, cross_entropy).flatten(1) for m, a in ((context.model, x), (double, x.double())))
    size = high.abs()
    matters = size > 1e-3 * size.amax(1, keepdim=True)
    other = matters & (low.sign() != high.sign())
    measured = float(other.sum()) / max(float(matters.sum()), 1.0)
    says = f"{measured:.2%} of the gradient's signs differ in float64"
    return grade_check("float64", "F", "saturated", says, measured=measured, threshold=0.01, limit=0.2)


def _in_float64(model: nn.Module, x: Tensor) -> nn.Module | str:
    try:
        twin = copy_model(model).double()
        with torch.no_grad():
            logits = twin(x[:2].double().clone())
    except Exception as cause:  # constants of another type, a model that cannot be copied
        return describe_or_reraise(cause)
    return twin if logits.dtype == torch.float64 else f"its outputs are {logits.dtype}"


def slope(context: DiagnosisContext) -> Check:
    """Check whether autograd agrees with finite differences near the point; a custom backward may be wrong."""
    if absent := needs_gradient(context, "slope", "F") or needs_certainty(context, "slope", "F"):
        return absent
    rows = context.probes()[:16]
    double = _in_float64(context.model, context.x[rows])
    exact = not isinstance(double, str)
    model = double if isinstance(double, nn.Module) else context.model
    x = context.x[rows].double() if exact else context.x[rows]
    predicted, actual = _slopes(model, x, context.y[rows], context, (1e-6 if exact else 1e-3) * context.threat.width)
    if not float(predicted.norm()):
        return skip_check("slope", "F", "the gradient is zero: see zero-gradients")
    measured = float((predicted - actual).norm() / (predicted.norm() + actual.norm()))
    says = f"autograd and finite differences along {_DIRECTIONS} directions differ by {measured:.2%} of their size"
    return grade_check("slope", "F", "wrong gradients", says, measured=measured, threshold=0.05, limit=0.5)


def reach(context: DiagnosisContext) -> Check:
    """Check whether the gradient predicts the change of the margin at eps / 2: ``1 - cosine`` of predicted and actual."""
    if absent := needs_gradient(context, "reach", "F") or needs_certainty(context, "reach", "F"):
        return absent
    rows = context.probes()
    radius = float(context.threat.eps) / 2 if context.threat.norm == "linf" else 4 / 255 * context.threat.width
    predicted, actual = _slopes(context.model, context.x[rows], context.y[rows], context, radius)
    cosine = float((predicted * actual).sum() / (predicted.norm() * actual.norm()).clamp_min(1e-30))
    flat = flat_operations(context.model, context.x[:2])
    cause = "shattered gradients" if flat else "masked gradients"
    says = f"predicted and actual changes of the margin {radius:.2g} away have a cosine of {cosine:.2f}"
    measured = 1 - cosine if float(actual.norm()) else 0.0
    return grade_check("reach", "F", cause, says, measured=measured, threshold=0.5, limit=0.9)


def _slopes(model: nn.Module, x: Tensor, y: Tensor, context: DiagnosisContext, h: float) -> tuple[Tensor, Tensor]:
    """Return the margin's slopes along random signs by autograd, and by differences of length ``h``: ``(D, B)``.

    Both are taken between points of the box: outside it a model may clamp or raise, and no attack goes there.
    """
    g, (low, high) = gradients(model, x, y, margin), context.threat.box
    ids = context.ids[: len(x)]
    predicted, actual = [], []
    for k in range(_DIRECTIONS):
        d = example_rng.signs(ids, tuple(x.shape[1:]), context.seed, 8000 + k, x.dtype).to(x.device)
        up, down = (x + h * d).clamp(low, high), (x - h * d).clamp(low, high)
        predicted.append((g * (up - down)).flatten(1).sum(1) / (2 * h))
        actual.append((margins(model, up, y) - margins(model, down, y)) / (2 * h))
    return torch.stack(predicted), torch.stack(actual)
