"""What a reader sees: arrays behind the pictures of a diagnosis, plain numbers for ``diagnosis.json``."""

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


def loss_pictures(subject: DiagnosisContext) -> dict[str, Any]:
    """Return the arrays of every picture; without a gradient, none.

    Args:
        subject: model, examples and figure.

    Returns:
        ``gradient_norms`` (histogram of log10, share of exact zeros), ``cosines`` (of gradients between neighbours),
        ``iterations`` (quartiles of the loss along PGD), ``eps``, ``steps``, ``restarts`` (accuracy against each),
        ``lines`` and ``surfaces`` (the margin around chosen examples).
    """
    if subject.no_gradient or not len(subject.probes()):
        return {}
    return {
        "gradient_norms": gradient_norms(subject),
        "cosines": cosines(subject),
        "iterations": iterations(subject),
        "eps": [{"eps": eps, "accuracy": _share(subject, stands)} for eps, stands in subject.by_eps.items()],
        "steps": by_steps(subject),
        "restarts": by_restarts(subject),
        "lines": [line(subject, row) for row in range(min(SHOWN, len(subject.probes())))],
        "surfaces": [surface(subject, row) for row in range(min(SHOWN, len(subject.probes())))],
    }


def _share(subject: DiagnosisContext, stands: Tensor) -> float:
    """Return a share of correct examples as a share of all: what accuracy would be if the others were like these."""
    return round(float(stands.double().mean()) * float(subject.right.double().mean()), 6)


def _round(values: Tensor, digits: int = 5) -> Any:
    return [[round(v, digits) for v in row] if isinstance(row, list) else round(row, digits) for row in values.tolist()]


def histogram(values: Tensor, low: float, high: float) -> dict[str, Any]:
    """Return counts of ``values`` in equal bins from low to high, with the bins' edges.

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


def gradient_norms(subject: DiagnosisContext) -> dict[str, Any]:
    """Return the histogram of log10 of the gradient's length per width of the box, and the share of examples without any.

    Args:
        subject: model, examples and figure.

    Returns:
        The histogram, and ``zero``.
    """
    rows = subject.right.nonzero()[:, 0][: subject.budget.examples]
    norms = gradients(subject.model, subject.x[rows], subject.y[rows], cross_entropy).flatten(1).double().norm(dim=1)
    norms = norms * subject.threat.width
    zero = float((norms == 0).double().mean())
    logs = norms[norms > 0].log10()
    low, high = (float(logs.min()) - 0.1, float(logs.max()) + 0.1) if len(logs) else (-1.0, 0.0)
    return {**histogram(logs, low, high), "zero": zero}


def cosines(subject: DiagnosisContext) -> dict[str, Any]:
    """Return the histogram of the cosine between the gradient at a point and that at a random neighbour a tenth of eps away.

    Args:
        subject: model, examples and figure.

    Returns:
        The histogram.
    """
    rows = subject.probes()
    x, y, ids = subject.x[rows], subject.y[rows], subject.ids[rows]
    near = subject.threat.with_eps(float(subject.threat.eps) / 10).random_start(x, ids, subject.seed, 7)
    a, b = (gradients(subject.model, point, y, margin).flatten(1) for point in (x, near))
    length = a.norm(dim=1) * b.norm(dim=1)
    found = ((a * b).sum(1) / length.clamp_min(1e-30))[length > 0]
    return histogram(found, -1.0, 1.0)


def iterations(subject: DiagnosisContext) -> dict[str, Any]:
    """Return the quartiles of the loss at each iterate of PGD.

    Args:
        subject: model, examples and figure.

    Returns:
        ``low``, ``median`` and ``high`` at each iterate.
    """
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64, device=subject.x.device)
    low, middle, high = subject.trace.loss.double().nan_to_num(0.0, 1e6, 0.0).quantile(levels, dim=1)
    return {"low": _round(low), "median": _round(middle), "high": _round(high)}


def by_steps(subject: DiagnosisContext) -> list[dict[str, Any]]:
    """Return accuracy under PGD with more and more steps.

    Args:
        subject: model, examples and figure.

    Returns:
        Steps and accuracy.
    """
    rows = subject.right.nonzero()[:, 0][: subject.budget.examples]
    return [
        {"steps": k, "accuracy": _share(subject, ~run_on(subject, partial(attacks.pgd, steps=k), rows))} for k in _STEPS
    ]


def by_restarts(subject: DiagnosisContext) -> list[dict[str, Any]]:
    """Return accuracy under PGD with 20 steps from more and more starts.

    Args:
        subject: model, examples and figure.

    Returns:
        Restarts and accuracy.
    """
    rows = subject.right.nonzero()[:, 0][: subject.budget.examples]
    stands, found = torch.ones(len(rows), dtype=torch.bool, device=rows.device), []
    for k in range(_RESTARTS):
        attack = partial(attacks.pgd, steps=20, seed=subject.seed + k)
        broken = attack(subject.model, subject.x[rows], subject.y[rows], subject.threat, ids=subject.ids[rows]).broken
        stands &= ~broken
        found.append({"restarts": k + 1, "accuracy": _share(subject, stands)})
    return found


def _directions(subject: DiagnosisContext, row: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return an input, its label, the attack's change of it, and a random change of the same length."""
    at = subject.probes()[row]
    x, y, ids = subject.x[at : at + 1], subject.y[at : at + 1], subject.ids[at : at + 1]
    change = subject.trace.result.x_adv[row : row + 1] - x
    drawn = example_rng.normal(ids, tuple(x.shape[1:]), subject.seed, 9, x.dtype)
    return x, y, change, drawn * change.norm() / drawn.norm().clamp_min(1e-30)


def _margins_in_box(subject: DiagnosisContext, points: Tensor, y: Tensor) -> Tensor:
    """Return the margin at points brought into the box: a model may refuse what lies outside it."""
    low, high = subject.threat.box
    return margins(subject.model, points.clamp(low, high), y)


def line(subject: DiagnosisContext, row: int) -> dict[str, Any]:
    """Return the margin along the attack's change and along a random one; 1 is the whole change, above 0 is misclassified.

    Args:
        subject: model, examples and figure.
        row: position of the example.

    Returns:
        Margins and their coordinates.
    """
    x, y, change, drawn = _directions(subject, row)
    t = _ALONG.to(x).view(-1, *[1] * (x.ndim - 1))
    along = {
        name: _margins_in_box(subject, x + t * d, y.expand(len(t)))
        for name, d in (("attack", change), ("random", drawn))
    }
    return {"id": int(subject.probes()[row]), "t": _round(_ALONG), **{k: _round(v) for k, v in along.items()}}


def surface(subject: DiagnosisContext, row: int) -> dict[str, Any]:
    """Return the margin over a square spanned by the attack's change (across) and a random one (up), from -1 to 2 of each.

    Args:
        subject: model, examples and figure.
        row: position of the example.

    Returns:
        Margins and their coordinates.
    """
    x, y, change, drawn = _directions(subject, row)
    t = torch.linspace(-1.0, 2.0, _SIDE).to(x)
    up, across = (a.reshape(-1, *[1] * (x.ndim - 1)) for a in torch.meshgrid(t, t, indexing="ij"))
    z = _margins_in_box(subject, x + across * change + up * drawn, y.expand(_SIDE * _SIDE))
    return {"id": int(subject.probes()[row]), "t": _round(t), "margin": _round(z.view(_SIDE, _SIDE))}
