"""`certified_curve`: proved and attacked accuracy at each eps of a grid, each verdict computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from advreg.certification.certify import CertifySettings, certify_known
from advreg.certification.known_verdicts import add_settled, carry_over
from advreg.errors import ThreatError
from advreg.evaluation.examples import Examples, box_of
from advreg.results.certificate import Certification
from advreg.results.curve import Curve, CurvePoint
from advreg.results.ledger_rows import Row
from advreg.statistics import clopper_pearson_interval
from advreg.threat import Norm, ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data


def certified_curve(
    model: nn.Module,
    data: Data,
    *,
    norm: Norm,
    eps: Sequence[float],
    n: int | None = None,
    box: tuple[float, float] | None = None,
    settings: CertifySettings | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Measure the proved and the unbroken share at every eps of a grid.

    A proof at an eps holds at every smaller one, and a counterexample at every larger one. The middle of the grid is therefore
    certified first, then the middles of its halves: each example is decided at about ``log2`` of the radii. Neither end rises.

    Args:
        model: maps inputs ``(B, ...)`` in the box to logits ``(B, K)``; see `certify`.
        data: a data set, a pair ``(x, y)``, a DataLoader or any other form of ``docs/your-data.md``.
        norm: of the perturbation.
        eps: radii, in the units of the input; any order.
        n: how many examples, from the first; all by default.
        box: lowest and highest valid value of an input; that of the data if None.
        settings: methods, budget and seed; those of `certify` if None.
        out: run folder; it gets one ``evaluation/<protocol id>/`` for each radius, and verdicts there are taken over.
        on_progress: called with radii done and radii in all.

    Returns:
        A `Curve` with both ends at each point.

    Raises:
        ThreatError: no radius, or a radius that the threat model rejects.
        ModelError, DataError, RunError: see `certify`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> data = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> curve = certified_curve(net, data, norm="linf", eps=[0.1, 0.0])
        >>> all(point.certified_accuracy <= point.robust_accuracy for point in curve.points)
        True
    """
    grid = sorted({float(radius) for radius in eps})
    if not grid:
        raise ThreatError("eps is empty; give at least one radius, such as eps=[0, 0.1, 0.2]")
    chosen, box = settings or CertifySettings(), box_of(data, box)
    found: dict[float, Certification] = {}
    for done, radius in enumerate(_middles_first(grid), 1):
        threat = ThreatModel(norm, radius, box)
        found[radius] = certify_known(
            model, data, threat, chosen, settled=partial(_verdicts_at, found, radius), n=n, out=out
        )
        if on_progress:
            on_progress(done, len(grid))
    results = [found[radius] for radius in grid]
    return Curve(norm, f"certified ({chosen.method})", results[0].n, chosen.seed, _points(grid, results), box)


def _middles_first(grid: Sequence[float]) -> Iterator[float]:
    """Yield the middle of a grid, then those of its halves."""
    halves = [list(grid)]
    while halves:
        part = halves.pop(0)
        middle = len(part) // 2
        yield part[middle]
        halves += [half for half in (part[:middle], part[middle + 1 :]) if half]


def _verdicts_at(found: Mapping[float, Certification], radius: float, _: Examples) -> dict[int, tuple[str, str]]:
    """Return the verdicts at other radii that hold at this one, by example id."""
    verdicts: dict[int, tuple[str, str]] = {}
    for eps, result in found.items():
        add_settled(verdicts, carry_over(_rows(result), eps, radius))
    return verdicts


def _rows(result: Certification) -> Iterator[Row]:
    for i, (proved, broken) in enumerate(zip(result.proved.tolist(), result.broken.tolist(), strict=True)):
        yield {"id": i, "verdict": "proved" if proved else "", "broken": broken}


def _points(grid: Sequence[float], results: Sequence[Certification]) -> tuple[CurvePoint, ...]:
    """Return the points; an example that is open at one eps and decided at another counts as decided where that holds."""
    points = []
    for k, (radius, result) in enumerate(zip(grid, results, strict=True)):
        n = result.n
        proved, broken = result.proved.clone(), result.broken.clone()
        for later in results[k:]:
            proved |= later.proved
        for earlier in results[:k]:
            broken |= earlier.broken
        certified, left = int(proved.sum()), n - int(broken.sum())
        intervals = (clopper_pearson_interval(count, n) for count in (left, certified))
        points.append(CurvePoint(radius, left / n, next(intervals), certified / n, next(intervals)))
    return tuple(points)
