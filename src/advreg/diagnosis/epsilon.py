"""Choose eps: how visible attacks are, how many examples they break, and at which eps labels become ambiguous."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from advreg import attacks
from advreg.attacks.model import input_dtype, query_model
from advreg.errors import ThreatError
from advreg.evaluation.examples import box_of, first_examples, first_tensors
from advreg.models import check_model
from advreg.report.ssim import ssim
from advreg.runs import RunFolder
from advreg.statistics import clopper_pearson_interval
from advreg.threat import Norm, ThreatModel

if TYPE_CHECKING:
    from advreg.data.adapters import Data

SIMILAR = 0.9
"""Structural similarity above which a perturbation is hard to see."""

AMBIGUOUS = 0.01
"""Share of examples near another class above which eps is too large."""

_GRID: dict[str, tuple[float, ...]] = {
    "linf": (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255, 0.1, 0.2, 0.3, 0.4),
    "l2": (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
    "l1": (1.0, 3.0, 6.0, 12.0, 25.0, 50.0),
}
"""Radii that suit images, as shares of the width of the box."""

_ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
_PICTURES = 8
_NEIGHBOURS = 10_000  # training images in the nearest-neighbour search


@dataclass(frozen=True, repr=False)
class EpsilonRow:
    """The figures at one eps.

    Attributes:
        robust_accuracy, interval: under PGD with 40 steps, and its exact 95% interval.
        linf, l2: mean linf and l2 norm of the perturbations.
        ssim: mean structural similarity to the clean image; 1 is identical; None for inputs that are no images.
        ambiguous: share of the examples with a training example of another class within ``2 eps``: the point half-way
            between the two is within eps of both.
    """

    eps: float
    robust_accuracy: float
    interval: tuple[float, float]
    linf: float
    l2: float
    ssim: float | None
    ambiguous: float

    def __repr__(self) -> str:
        visible = "" if self.ssim is None else f", SSIM {self.ssim:.2f}"
        return (
            f"EpsilonRow(eps {self.eps:g}: robust {self.robust_accuracy:.2%}{visible}, ambiguous {self.ambiguous:.1%})"
        )


@dataclass(frozen=True, repr=False)
class EpsilonChoice:
    """A grid of eps with the figures at each, and the recommended eps; eps, linf and l2 are in the units of the input.

    Attributes:
        norm: norm of the perturbation.
        n: number of examples.
        clean_accuracy: share classified correctly without an attack.
        rows: one row for each eps, in increasing order.
        recommended: the recommended eps.
        why: the reason, in one sentence.
        box: lowest and highest valid value of an input.
    """

    norm: Norm
    n: int
    clean_accuracy: float
    rows: tuple[EpsilonRow, ...]
    recommended: float
    why: str
    box: tuple[float, float] = (0.0, 1.0)

    def __repr__(self) -> str:
        radii = ", ".join(f"{row.eps:.4g}" for row in self.rows)
        return f"EpsilonChoice({self.norm}, n={self.n}: start from {self.recommended:.4g} of {radii})"

    def record(self) -> dict[str, Any]:
        """Return the choice in the form of epsilon.json."""
        return {"schema": "advreg/epsilon@1", **asdict(self)}


def choose_epsilon(
    model: nn.Module,
    data: Data,
    *,
    norm: Norm = "linf",
    eps: Sequence[float] | None = None,
    box: tuple[float, float] | None = None,
    n: int = 200,
    train: Data | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> EpsilonChoice:
    """Recommend an eps for a model and its data, from a grid.

    The recommended eps is the largest at which attacked images resemble the clean ones (SSIM of 0.9 or more) and at most 1%
    of the examples have a training example of another class within ``2 eps``.

    Args:
        model: maps inputs ``(B, ...)`` in the box to logits ``(B, K)``; eval mode.
        data: a data set, a pair ``(x, y)``, a DataLoader or any other form of ``docs/your-data.md``.
        norm: of the perturbation.
        eps: radii, in the units of the input; by default a grid that suits images.
        box: lowest and highest valid value of an input; if None, that of the data set, [0, 1] for images and plain tensors.
        n: examples, from the first.
        train: data in which neighbours of another class are searched (the first 10,000); ``data`` itself by default.
        seed: seed of the random starts.
        out: folder for ``epsilon.json`` and ``epsilon.safetensors`` (images ``(len(eps), 8, C, H, W)``, one row for each eps).
        on_progress: called with radii done and radii in all.

    Returns:
        An `EpsilonChoice`, its rows in increasing eps.

    Raises:
        ThreatError: an empty grid, or a radius that no threat model can have.
        ModelError, DataError: a model or data that cannot be used as given.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
        >>> choice = choose_epsilon(net, (torch.rand(8, 1, 8, 8), torch.arange(8) % 3), eps=[0.01, 0.1])
        >>> [row.eps for row in choice.rows]
        [0.01, 0.1]
    """
    box = box_of(data, box)
    width = ThreatModel(norm, 0.0, box).width
    grid = sorted({float(radius) for radius in ([share * width for share in _GRID[norm]] if eps is None else eps)})
    if not grid or grid[0] <= 0:
        raise ThreatError(f"eps is {list(grid)}; give radii above 0, such as eps=[2/255, 8/255]")
    examples = first_examples(data, n, ThreatModel(norm, grid[-1], box), input_dtype(model))
    device = next((p.device for p in model.parameters()), examples.x.device)
    x, y = examples.x.to(device), examples.y.to(device)
    check_model(model, x[:8])
    others = first_tensors(train, _NEIGHBOURS) if train is not None else (x, y)
    nearest = nearest_other_class(x, y, others[0].to(device), others[1].to(device), norm)
    broken = torch.zeros(len(y), dtype=torch.bool, device=device)
    rows, images = [], []
    for k, radius in enumerate(grid):
        attack = partial(attacks.pgd, steps=40, early_stop=False, seed=seed)
        found = attack(model, x, y, ThreatModel(norm, radius, box))
        broken |= found.broken  # a point in a ball is in every larger one
        rows.append(_measure_row(radius, x, found.x_adv, broken, nearest, box))
        images.append(found.x_adv[:_PICTURES].cpu())
        if on_progress:
            on_progress(k + 1, len(grid))
    with torch.no_grad():
        clean = float((query_model(model, x).argmax(1) == y).double().mean())
    choice = EpsilonChoice(norm, len(y), clean, tuple(rows), *recommend(rows), box)
    if out is not None:
        folder = RunFolder.at(out)
        folder.write(
            "epsilon.safetensors",
            save({"clean": x[:_PICTURES].cpu().contiguous(), "attacked": torch.stack(images).contiguous()}),
        )
        folder.write_json("epsilon.json", choice.record())
    return choice


def nearest_other_class(x: Tensor, y: Tensor, others: Tensor, labels: Tensor, norm: str) -> Tensor:
    """Return the distance of each input to the nearest one of another class, ``(B,)``; infinite where there is none.

    Args:
        x: inputs ``(B, ...)``.
        y: their labels ``(B,)``.
        others: inputs to compare with ``(M, ...)``.
        labels: labels of these ``(M,)``.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns:
        Distances ``(B,)``.

    Example:
        >>> x, y = torch.tensor([[0.0], [0.25], [1.0]]), torch.tensor([0, 0, 1])
        >>> nearest_other_class(x, y, x, y, "l2").tolist()
        [1.0, 0.75, 0.75]
    """
    found = []
    for a, label in zip(torch.split(x.flatten(1), 32), torch.split(y, 32), strict=True):
        distance = torch.cdist(a, others.flatten(1), p=_ORDER[norm])
        found.append(distance.masked_fill(label[:, None] == labels[None], float("inf")).amin(1))
    return torch.cat(found)


def _measure_row(
    eps: float, x: Tensor, x_adv: Tensor, broken: Tensor, nearest: Tensor, box: tuple[float, float]
) -> EpsilonRow:
    change, n = (x_adv - x).flatten(1), len(x)
    survivors = n - int(broken.sum())
    similarity = None
    if x.ndim == 4:
        low, high = box
        clean, attacked = (((a[:64] - low) / (high - low)).numpy(force=True) for a in (x, x_adv))
        pairs = zip(clean, attacked, strict=True)
        similarity = sum(ssim(a, b) for a, b in pairs) / min(n, 64)
    return EpsilonRow(
        eps=eps,
        robust_accuracy=survivors / n,
        interval=clopper_pearson_interval(survivors, n),
        linf=float(change.abs().amax(1).mean()),
        l2=float(change.norm(dim=1).mean()),
        ssim=similarity,
        ambiguous=float((nearest <= 2 * eps).double().mean()),
    )


def recommend(rows: Sequence[EpsilonRow]) -> tuple[float, str]:
    """Return the eps to start from and the reason, from rows in increasing eps."""
    clear = [row for row in rows if row.ambiguous <= AMBIGUOUS]
    if not clear:
        first = rows[0]
        return (
            first.eps,
            f"{first.ambiguous:.1%} of the examples have another class within 2 eps even at the smallest eps: go lower",
        )
    similar = [row for row in clear if row.ssim is None or row.ssim >= SIMILAR]
    if not similar:
        return clear[0].eps, f"attacks are visible (SSIM {clear[0].ssim:.2f}) even at the smallest eps: go lower"
    best = similar[-1]
    seen = "" if best.ssim is None else f"attacks stay hard to see (SSIM {best.ssim:.2f}), and "
    return best.eps, f"the largest at which {seen}{best.ambiguous:.1%} of the examples have another class within 2 eps"
