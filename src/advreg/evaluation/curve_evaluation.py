"""`robustness_curve`: attacks at every eps of a grid, and distances to the boundary; each example takes the smaller.

examples -> distance by a short minimum-norm attack -> at each eps: attacks on those farther away -> smaller distance -> points
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advreg import models
from advreg.attacks.minimum_norm import fab, minimum_distance
from advreg.attacks.model import input_dtype
from advreg.errors import DataError, ThreatError
from advreg.evaluation import model_probe
from advreg.evaluation.attack_units import CLEAN_STAGE, EvaluationContext
from advreg.evaluation.examples import box_of, examples_of
from advreg.evaluation.ledger_checks import free_checks
from advreg.evaluation.ledger_columns import FAR
from advreg.evaluation.protocols import DEFAULT_PROTOCOL, Protocol, resolve
from advreg.evaluation.stage_rows import context_of, stage_rows
from advreg.results.checks import Check, provisional_verdict, worst_outcomes
from advreg.results.curve import Curve, curve_points, score_point
from advreg.results.ledger_rows import CLEAN, UNIT, Row, score_of, worst_rows
from advreg.runs import RunFolder
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import Norm, ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

_SEARCH = partial(fab, steps=20, target_classes=2)
_CLOSER = "smaller eps"  # attack name in rows of examples that are broken at a smaller radius


@torch.inference_mode(False)  # in any mode of the caller: the copy under attack needs gradients
def robustness_curve(
    model: nn.Module,
    data: Data,
    *,
    norm: Norm | ThreatModel,
    eps: Sequence[float],
    n: int | None = None,
    box: tuple[float, float] | None = None,
    protocol: str | Protocol = DEFAULT_PROTOCOL,
    distances: Tensor | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    task: Task | str = CLASSES,
) -> Curve:
    """Measure robust accuracy at every eps of a grid: ``share of examples with min distance found > eps``.

    A short minimum-norm attack gives each example a first distance. At each radius in turn the protocol attacks the examples
    that are farther away, and every point it finds lowers the distance. The curve never rises.

    Args:
        model: maps inputs ``(B, ...)`` in the box to logits ``(B, K)``; eval mode.
        data: a data set, a pair ``(x, y)``, a DataLoader or any other form of ``docs/your-data.md``.
        norm: of the perturbation, or a threat model with units, rules or a ratio to the signal; the grid replaces its eps.
        eps: radii, in the units of the input or of the threat model; any order.
        n: how many examples, from the first; all by default.
        box: lowest and highest valid value of an input; if None, that of the threat model or of the data set, [0, 1] for
            images and plain tensors.
        protocol: name of a protocol, or your own `Protocol`, to attack with at each radius.
        distances: ``(N,)`` distances at which adversarial points are known, such as those of `minimum_norms`, instead of
            the short minimum-norm attack.
        seed: seed of the random draws.
        out: folder to write ``curve.json`` into, such as an evaluation's.
        on_progress: called with radii done and radii in all.
        task: what an output is worth; a point of other tasks than classification is the mean of the lowest scores so far.

    Returns:
        A `Curve`, its points in increasing eps, with checks and a verdict.

    Raises:
        ThreatError: no radius, or a radius that the threat model rejects.
        ModelError, DataError: a model or data that cannot be used as given.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> data = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> [point.eps for point in robustness_curve(net, data, norm="linf", eps=[0.1, 0.0]).points]
        [0.0, 0.1]
    """
    grid = sorted({float(radius) for radius in eps})
    if not grid:
        raise ThreatError("eps is empty; give at least one radius, such as eps=[0, 0.1, 0.2]")
    task, threat = as_task(task), _threat_of(norm, grid[-1], data, box)
    chosen = resolve(protocol, threat.norm, task, limited=threat.limits is not None)
    context = _context_of(model, data, n, threat, seed, task)
    if task is not CLASSES:
        return _score_curve(context, chosen, grid, out, on_progress)
    x, y = (t[:64].to(context.device) for t in (context.examples.x, context.examples.y))
    probed = model_probe.probe_model(model, x, y)
    clean = _clean_rows(context)
    known = _first_distances(context, clean) if distances is None else _validate_distances(distances, clean)
    checks: list[list[Check]] = []
    for k, radius in enumerate(grid):
        rows = clean + _rows_within(known, radius) + _attack_farther(context, chosen, radius, known)
        known = _lower_distances(known, rows)
        robust = float((known > radius).double().mean())
        flags = model_probe.flags_of(probed, rows, len(clean), FAR, target=context.target.choice)
        record = {"protocol": threat.suffix, "flags": flags, "robust_accuracy": robust, "n": len(clean)}
        checks.append(free_checks(record, rows))
        if on_progress:
            on_progress(k + 1, len(grid))
    found = worst_outcomes(checks)
    points = curve_points(known, grid)
    curve = Curve(
        threat.norm,
        _protocol_name(chosen),
        len(known),
        seed,
        points,
        threat.box,
        tuple(found),
        provisional_verdict(found),
        features=threat.suffix.lstrip("-"),
    )
    if out is not None:
        RunFolder.at(out).write_json("curve.json", curve.record())
    return curve


def _threat_of(norm: Norm | ThreatModel, eps: float, data: Data, box: tuple[float, float] | None) -> ThreatModel:
    """Return the threat model of the largest radius.

    Raises:
        ThreatError: a box beside a threat model, which has its own.
    """
    if not isinstance(norm, ThreatModel):
        return ThreatModel(norm, eps, box_of(data, box))
    if box is not None:
        raise ThreatError(f"box is {box} and norm is a threat model with a box of its own; leave box out")
    return norm.with_eps(eps)


def _score_curve(
    context: EvaluationContext,
    protocol: Protocol,
    grid: list[float],
    out: str | Path | None,
    on_progress: Callable[[int, int], None] | None,
) -> Curve:
    """Return the curve of a task: at each radius the lowest score of each example so far, for balls contain smaller ones."""
    rows, points = _clean_rows(context), []
    for k, radius in enumerate(grid):
        worst = worst_rows(rows)
        left = torch.tensor([i for i in sorted(worst) if not worst[i]["broken"]], dtype=torch.int64)
        if radius and len(left):
            at_radius = replace(context, threat=context.threat.with_eps(radius))
            rows += [row for ids in torch.split(left, UNIT) for row in stage_rows(at_radius, protocol.stages, ids)]
        points.append(score_point(radius, [score_of(row) for row in worst_rows(rows).values()]))
        if on_progress:
            on_progress(k + 1, len(grid))
    threat, n = context.threat, len(context.examples)
    curve = Curve(
        threat.norm,
        _protocol_name(protocol),
        n,
        context.seed,
        tuple(points),
        threat.box,
        task=context.task.name,
        features=threat.suffix.lstrip("-"),
    )
    if out is not None:
        RunFolder.at(out).write_json("curve.json", curve.record())
    return curve


def _context_of(
    model: nn.Module, data: Data, n: int | None, threat: ThreatModel, seed: int, task: Task = CLASSES
) -> EvaluationContext:
    """Return the fast copy, the examples and the settings of the attacks."""
    examples = examples_of(data, n, threat, input_dtype(model), task)
    device = next((p.device for p in model.parameters()), examples.x.device)
    models.check_model(model, examples.x[:8].to(device), task=task, y=examples.y.to(device))
    return context_of(model, examples, threat, seed, task)


def _clean_rows(context: EvaluationContext) -> list[Row]:
    return [row for ids in context.examples.chunks() for row in stage_rows(context, (CLEAN_STAGE,), ids)]


def _first_distances(context: EvaluationContext, clean: list[Row]) -> Tensor:
    """Return each example's distance to the point of a short minimum-norm attack, ``(N,)``; inf where features have limits."""
    if context.threat.limits is not None:  # such an attack knows none
        return _lower_distances(torch.full((len(clean),), torch.inf, dtype=torch.float64), clean)

    def distances_of(ids: Tensor) -> Tensor:
        x, y = context.examples.x[ids].to(context.device), context.examples.y[ids].to(context.device)
        threat = context.threat
        found = minimum_distance(_SEARCH, context.target, x, y, threat.norm, box=threat.box, ids=ids, seed=context.seed)
        return found.min_distance.cpu()

    return torch.cat([part for ids in context.examples.chunks() for part in context.batcher.of(ids, distances_of)])


def _validate_distances(distances: Tensor, clean: list[Row]) -> Tensor:
    """Return the caller's distances, 0 for clean errors.

    Raises:
        DataError: not one distance for each example.
    """
    known = torch.as_tensor(distances, dtype=torch.float64).clone()
    if known.shape != (len(clean),):
        raise DataError(f"distances is {tuple(known.shape)}; give one for each of {len(clean)} examples")
    return _lower_distances(known, clean)


def _attack_farther(context: EvaluationContext, protocol: Protocol, radius: float, known: Tensor) -> list[Row]:
    """Return the rows of the protocol's attacks on the examples whose known distance is larger than the radius."""
    survivors = (known > radius).nonzero()[:, 0]
    if not radius or not len(survivors):
        return []
    at_radius = EvaluationContext(
        context.target, context.examples, context.threat.with_eps(radius), context.seed, context.device, context.batcher
    )
    return [row for ids in torch.split(survivors, UNIT) for row in stage_rows(at_radius, protocol.stages, ids)]


def _rows_within(known: Tensor, radius: float) -> list[Row]:
    """Return a row for each example with a known adversarial point within the radius, except clean errors."""
    rows = ((known > 0) & (known <= radius)).nonzero()[:, 0].tolist()
    fields = {"broken": True, "margin": 0.0, "forwards": 0, "backwards": 0}
    return [{"attack": _CLOSER, "id": i, "distance": float(known[i]), **fields} for i in rows]


def _lower_distances(known: Tensor, rows: list[Row]) -> Tensor:
    """Return the distances with those of broken rows where they are smaller."""
    known = known.clone()
    for row in rows:
        if row["broken"]:
            known[row["id"]] = min(float(known[row["id"]]), 0.0 if row["attack"] == CLEAN else row["distance"])
    return known


def _protocol_name(protocol: Protocol) -> str:
    return f"{protocol.name}@{protocol.version}"
