"""The arrays behind the pictures of a diagnosis, as numbers for ``diagnosis.json``."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from advreg import attacks, example_rng
from advreg.diagnosis.context import DiagnosisContext, gradients, margins, run_on
from advreg.objectives import cross_entropy, margin

SHOWN = 3  # examples whose loss is drawn
_ALONG = torch.linspace(-1.0, 2.0, 25)
_SIDE = 13  # points along a side of a loss surface
_STEPS = (1, 2, 5, 10, 20, 40)
_RESTARTS = 4
_BINS = 20


def loss_pictures(context: DiagnosisContext) -> dict[str, Any]:
    """Return the arrays of every picture, or none where the input has no gradient.

    Args:
        context: model, examples and figure.

    Returns:
        ``gradient_norms`` (histogram of log10, share of exact zeros), ``cosines`` (of gradients between neighbours),
        ``iterations`` (quartiles of the loss along PGD), ``eps``, ``steps``, ``restarts`` (accuracy against each),
        ``lines`` and ``surfaces`` (the margin around chosen examples).
    """
    if context.no_gradient or not len(context.probes()):
        return {}
    shown = range(min(SHOWN, len(context.probes())))
    return {
        "gradient_norms": gradient_norms(context),
        "cosines": cosines(context),
        "iterations": iterations(context),
        "eps": [{"eps": eps, "accuracy": _share(context, robust)} for eps, robust in context.by_eps.items()],
        "steps": by_steps(context),
        "restarts": by_restarts(context),
        "lines": [line(context, row) for row in shown],
        "surfaces": [surface(context, row) for row in shown],
    }


def _share(context: DiagnosisContext, robust: Tensor) -> float:
    """Return the accuracy that follows if the other correct examples survive as often as these."""
    return round(float(robust.double().mean()) * float(context.right.double().mean()), 6)


def _round(values: Tensor, digits: int = 5) -> Any:
    return [[round(v, digits) for v in row] if isinstance(row, list) else round(row, digits) for row in values.tolist()]


def histogram(values: Tensor, low: float, high: float) -> dict[str, Any]:
    """Return the counts of ``values`` in equal bins from ``low`` to ``high``, and the edges of the bins.

    Args:
        values: numbers of any shape.
        low: lower edge of the first bin.
        high: upper edge of the last bin.

    Returns:
        ``edges`` and ``counts``.

    Example:
        >>> sum(histogram(torch.tensor([0.0, 0.5, 2.0]), 0.0, 1.0)["counts"])
        3
    """
    counts = torch.histc(values.double().clamp(low, high).cpu(), _BINS, low, high)
    return {"edges": _round(torch.linspace(low, high, _BINS + 1)), "counts": [int(c) for c in counts.tolist()]}


def gradient_norms(context: DiagnosisContext) -> dict[str, Any]:
    """Return the histogram of log10 of the gradient norm times the width of the box, and the share of zero gradients.

    Args:
        context: model, examples and figure.

    Returns:
        The histogram, and ``zero``.
    """
    rows = context.right.nonzero()[:, 0][: context.budget.examples]
    norms = gradients(context.model, context.x[rows], context.y[rows], cross_entropy).flatten(1).double().norm(dim=1)
    norms = norms * context.threat.width
    zero = float((norms == 0).double().mean())
    logs = norms[norms > 0].log10()
    low, high = (float(logs.min()) - 0.1, float(logs.max()) + 0.1) if len(logs) else (-1.0, 0.0)
    return {**histogram(logs, low, high), "zero": zero}


def cosines(context: DiagnosisContext) -> dict[str, Any]:
    """Return the histogram of the cosine between the gradients at an input and at a random point within eps / 10.

    Args:
        context: model, examples and figure.

    Returns:
        The histogram.
    """
    rows = context.probes()
    x, y = context.x[rows], context.y[rows]
    ball = context.threat.with_eps(float(context.threat.eps) / 10)
    near = ball.random_start(x, context.ids[rows], context.seed, 7)
    a, b = (gradients(context.model, point, y, margin).flatten(1) for point in (x, near))
    length = a.norm(dim=1) * b.norm(dim=1)
    found = ((a * b).sum(1) / length.clamp_min(1e-30))[length > 0]
    return histogram(found, -1.0, 1.0)


def iterations(context: DiagnosisContext) -> dict[str, Any]:
    """Return the quartiles of the loss at each step of PGD.

    Args:
        context: model, examples and figure.

    Returns:
        ``low``, ``median`` and ``high`` at each iterate.
    """
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=context.x.device)
    low, middle, high = context.trace.loss.double().nan_to_num(0.0, 1e6, 0.0).quantile(levels, dim=1)
    return {"low": _round(low), "median": _round(middle), "high": _round(high)}


def by_steps(context: DiagnosisContext) -> list[dict[str, Any]]:
    """Return accuracy under PGD by number of steps.

    Args:
        context: model, examples and figure.

    Returns:
        Steps and accuracy.
    """
    rows = context.right.nonzero()[:, 0][: context.budget.examples]
    return [
        {"steps": k, "accuracy": _share(context, ~run_on(context, partial(attacks.pgd, steps=k), rows))} for k in _STEPS
    ]


def by_restarts(context: DiagnosisContext) -> list[dict[str, Any]]:
    """Return accuracy under PGD with 20 steps by number of restarts.

    Args:
        context: model, examples and figure.

    Returns:
        Restarts and accuracy.
    """
    rows = context.right.nonzero()[:, 0][: context.budget.examples]
    robust = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    found = []
    for k in range(_RESTARTS):
        attack = partial(attacks.pgd, steps=20, seed=context.seed + k)
        broken = attack(context.model, context.x[rows], context.y[rows], context.threat, ids=context.ids[rows]).broken
        robust &= ~broken
        found.append({"restarts": k + 1, "accuracy": _share(context, robust)})
    return found


def _directions(context: DiagnosisContext, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return an input, its label, the attack's perturbation, and a random perturbation of the same length."""
    at = context.probes()[row : row + 1]
    x = context.x[at]
    change = context.trace.result.x_adv[row : row + 1] - x
    drawn = example_rng.normal(context.ids[at], tuple(x.shape[1:]), context.seed, 9, x.dtype)
    return x, context.y[at], change, drawn * change.norm() / drawn.norm().clamp_min(1e-30)


def _margins_in_box(context: DiagnosisContext, points: Tensor, y: Tensor) -> Tensor:
    """Return the margin at points clipped to the box: a model may raise outside it."""
    low, high = context.threat.box
    return margins(context.model, points.clamp(low, high), y)


def line(context: DiagnosisContext, row: int) -> dict[str, Any]:
    """Return the margin along the attack's perturbation and along a random one; at ``t`` 1 the perturbation is whole.

    Args:
        context: model, examples and figure.
        row: position of the example.

    Returns:
        Margins and their coordinates.
    """
    x, y, change, drawn = _directions(context, row)
    t = _ALONG.to(x).view(-1, *[1] * (x.ndim - 1))
    along = {
        name: _margins_in_box(context, x + t * d, y.expand(len(t)))
        for name, d in (("attack", change), ("random", drawn))
    }
    return {"id": int(context.probes()[row]), "t": _round(_ALONG), **{k: _round(v) for k, v in along.items()}}


def surface(context: DiagnosisContext, row: int) -> dict[str, Any]:
    """Return the margin on the plane of the attack's perturbation (across) and a random one (up), from -1 to 2 of each.

    Args:
        context: model, examples and figure.
        row: position of the example.

    Returns:
        Margins and their coordinates.
    """
    x, y, change, drawn = _directions(context, row)
    t = torch.linspace(-1.0, 2.0, _SIDE).to(x)
    up, across = (a.reshape(-1, *[1] * (x.ndim - 1)) for a in torch.meshgrid(t, t, indexing="ij"))
    z = _margins_in_box(context, x + across * change + up * drawn, y.expand(_SIDE * _SIDE))
    return {"id": int(context.probes()[row]), "t": _round(t), "margin": _round(z.view(_SIDE, _SIDE))}
