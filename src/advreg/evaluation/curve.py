"""The robustness curve: robust accuracy over a grid of eps, by attacks at each radius or from distances to the boundary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advreg import attacks, models
from advreg.attacks.judge import verify
from advreg.errors import ThreatError
from advreg.evaluation.examples import CHUNK, examples_of
from advreg.runs import RunFolder
from advreg.statistics import interval
from advreg.threat import Norm, ThreatModel

if TYPE_CHECKING:
    from advreg.data import Dataset


@dataclass(frozen=True)
class Point:
    """Robust accuracy at one eps, with its exact 95% interval."""

    eps: float
    robust_accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """Robust accuracy over eps; it never rises, for a point inside a ball is inside every larger one."""

    norm: Norm
    attack: str
    n: int
    seed: int
    points: tuple[Point, ...]

    def record(self) -> dict[str, Any]:
        """Return the curve as it stands in curve.json."""
        return {"schema": "advreg/curve@1", **asdict(self)}


def point_at(eps: float, standing: int, n: int) -> Point:
    """Return the point of a curve at which so many of ``n`` examples stand."""
    return Point(eps, standing / n, interval(standing, n))


@torch.inference_mode(False)  # whatever the caller is in: the copy under attack needs gradients
def robustness_curve(
    model: nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    *,
    norm: Norm,
    eps: Sequence[float],
    n: int | None = None,
    steps: int = 40,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Measure robust accuracy at every eps of a grid with PGD; `minimum_norms` measures the whole curve in one run.

    An example broken at one eps is broken at every larger one, so each radius is tried on the survivors only.

    Args:
        model: maps inputs ``(B, ...)`` in [0, 1] to logits ``(B, K)``; eval mode.
        data: a data set, or a pair ``(x, y)``.
        norm: of the perturbation.
        eps: radii, in the units of the input; any order.
        n: how many examples, from the first; all by default.
        steps: PGD's steps at each eps.
        seed: seed of the random starts.
        out: folder to write ``curve.json`` into, such as an evaluation's.
        on_progress: called with radii done and radii in all.

    Returns:
        A `Curve`, its points in increasing eps.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> data = torch.rand(8, 1, 2, 2), torch.tensor([0, 1] * 4)
        >>> [point.eps for point in robustness_curve(net, data, norm="linf", eps=[0.1, 0.0]).points]
        [0.0, 0.1]
    """
    grid = sorted({float(radius) for radius in eps})
    if not grid:
        raise ThreatError("eps is empty; give at least one radius, such as eps=[0, 0.1, 0.2]")
    examples = examples_of(data, n, ThreatModel(norm, grid[0]))
    device = next((p.device for p in model.parameters()), examples.x.device)
    models.check_model(model, examples.x[:8].to(device))
    target = models.freeze(model, examples.x[:64].to(device))
    standing = torch.arange(len(examples))
    points = []
    for k, radius in enumerate(grid):
        threat = ThreatModel(norm, radius)
        lost = [
            _broken(target, examples.x, examples.y, threat, ids, steps, seed) for ids in torch.split(standing, CHUNK)
        ]
        standing = standing[~torch.cat(lost)] if lost else standing
        points.append(point_at(radius, len(standing), len(examples)))
        if on_progress:
            on_progress(k + 1, len(grid))
    curve = Curve(norm, f"pgd-{steps}", len(examples), seed, tuple(points))
    if out is not None:
        RunFolder.at(out).write_json("curve.json", curve.record())
    return curve


def _broken(
    target: models.Target, x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, steps: int, seed: int
) -> Tensor:
    device = next((p.device for p in target.parameters()), x.device)
    x, y = x[ids].to(device), y[ids].to(device)
    found = attacks.pgd(target, x, y, threat, steps=steps, seed=seed, ids=ids)
    return verify(target, x, found.x_adv, y, threat).cpu()
