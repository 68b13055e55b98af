"""Attacks outside the norm balls: turning and shifting the whole image, and a patch that may hold anything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg import example_rng
from advreg.attacks.blackbox.score_based import QueryState, run_score_based
from advreg.attacks.inputs import as_tensor, read_ids, read_inputs, read_labels
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.pgd import pgd
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import DataError, ThreatError
from advreg.objectives import Objective, cross_entropy, margin
from advreg.region import Interval
from advreg.threat import ThreatModel

_STEP = 0.05  # a patch's step as a share of the box's width
_PLACES = 1 << 41  # the lane of the patches' places


def anything(box: tuple[float, float] = (0.0, 1.0)) -> ThreatModel:
    """Return the threat model that holds the whole box: only the label is left to judge.

    Example:
        >>> anything()
        ThreatModel(norm='linf', eps=1.0, box=(0.0, 1.0))
    """
    return ThreatModel("linf", box[1] - box[0], box)


def moved(
    x: Tensor, degrees: float, right: float = 0.0, down: float = 0.0, box: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Return images turned about their middle, then shifted, bilinear, with the box's lowest value where nothing was.

    Args:
        x: images ``(B, C, H, W)``.
        degrees: how far to turn, counterclockwise.
        right, down: how far to shift, in pixels.
        box: lowest and highest valid value.

    Example:
        >>> moved(torch.eye(3)[None, None], 90).round()[0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    height, width = x.shape[2:]
    turn = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    back = torch.tensor(
        [[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]]
    )  # from where a pixel comes, rows point down
    origin = -back @ torch.tensor([right, down], dtype=torch.float64)
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    theta = torch.cat([back * half / half[:, None], (origin / half)[:, None]], 1)
    grid = F.affine_grid(theta.to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return (F.grid_sample(x - box[0], grid, align_corners=False) + box[0]).clamp(*box)


def poses(degrees: float, pixels: float, grid: tuple[int, int]) -> list[tuple[float, float, float]]:
    """Return the poses (degrees, right, down) of a grid, mildest first.

    Example:
        >>> poses(30, 3, (3, 1))
        [(0.0, 0.0, 0.0), (-30.0, 0.0, 0.0), (30.0, 0.0, 0.0)]
    """
    angles = _spread(degrees, grid[0])
    shifts = _spread(pixels, grid[1])
    every = itertools.product(angles, shifts, shifts)
    return sorted(every, key=lambda p: abs(p[0]) / (degrees or 1.0) + (abs(p[1]) + abs(p[2])) / (pixels or 1.0))


def _spread(extent: float, count: int) -> list[float]:
    """Return ``count`` values from -extent to extent, 0 alone where one is asked for."""
    return [extent * (2 * k / (count - 1) - 1) for k in range(count)] if count > 1 and extent else [0.0]


def spatial(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    degrees: float = 30.0,
    pixels: float = 3.0,
    grid: tuple[int, int] = (31, 5),
    objective: Objective = margin,
    targeted: bool = False,
    early_stop: bool = True,
    box: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 512,
) -> AttackResult:
    """Attack with the worst of a grid of rotations and shifts; no gradient, nothing random.

    An example that stands costs one forward for each pose, and two: ``31 * 5 * 5 + 2 = 777`` by default.

    Args:
        model: any function from ``(B, C, H, W)`` to scores ``(B, K)``; in eval mode if it is a module.
        x: clean images in the box.
        y: labels ``(B,)``; the wanted classes if targeted.
        degrees: largest rotation, either way.
        pixels: largest shift, each way along each axis.
        grid: how many angles, and how many shifts along each axis; odd numbers have the clean pose among them.
        objective: what to maximise, a function of scores and labels.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether a broken example leaves at once, or all poses are tried.
        box: lowest and highest valid value.
        batch_size: examples under attack at a time.

    Returns:
        An `AttackResult`: broken where the original model is wrong about a pose; ``distance`` is the largest change of a value.

    Raises:
        ThreatError: a negative extent or an empty grid.
        DataError: inputs that are not images in the box.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> spatial(model, x, torch.tensor([0, 1]), grid=(3, 3), early_stop=False).cost[:, 0].tolist()
        [29, 29]

    Reference: Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness", ICML 2019.
    """
    if min(degrees, pixels) < 0 or min(grid) < 1:
        raise ThreatError(f"degrees, pixels, grid are {degrees}, {pixels}, {grid}; give extents >= 0 and counts >= 1")
    model, x = bind_dtype(model, x), _images(x, box)
    ask, every = QuerySpec(model, objective, targeted), poses(degrees, pixels, grid)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        def propose(state: QueryState, k: int) -> QueryState:
            return replace(state, adv=moved(state.x, *every[k], box=box))

        return run_score_based(ask, x, y, threat, ids, propose, len(every), early_stop=early_stop)

    return search(ask, x, y, anything(box), attempt, early_stop=early_stop, batch_size=batch_size)


@dataclass(frozen=True, eq=False)
class MaskThreat(ThreatModel):
    """All inputs that differ from the clean one inside a mask only, by anything that stays in the box.

    It is a threat model like the others: any attack on linf takes it.

    Args:
        mask: where the input may change, booleans ``(B, ...)`` shaped like the inputs.

    Example:
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> threat = MaskThreat.of(torch.tensor([[[[True, False], [False, False]]]]))
        >>> threat.project(x + 0.7, x).flatten().tolist()
        [1.0, 0.5, 0.5, 0.5]
    """

    mask: Tensor = field(kw_only=True)

    @classmethod
    def of(cls, mask: Tensor, box: tuple[float, float] = (0.0, 1.0)) -> MaskThreat:
        """Return the threat model of a mask."""
        return cls("linf", box[1] - box[0], box, mask=mask)

    def __str__(self) -> str:
        return "mask"

    def select(self, rows: Tensor) -> MaskThreat:
        """Return the threat model of these rows of the batch."""
        return replace(self, mask=self.mask[rows])

    def region(self, x: Tensor) -> Interval:
        """Return the box inside the mask, and ``x`` alone outside."""
        low, high = self.box
        return Interval(torch.where(self.mask, low, x), torch.where(self.mask, high, x))

    def contains(self, a: Tensor, x: Tensor, tol: float = 0.0) -> Tensor:
        """Return whether each ``a`` is in the box and equals ``x`` outside the mask, both within ``tol`` of the width."""
        outside = torch.where(self.mask, 0.0, (a.double() - x.double()).abs())
        return super().contains(a, x, tol) & (outside <= tol * self.width).flatten(1).all(1)

    def random_start(self, x: Tensor, ids: Tensor, seed: int, stream: example_rng.Stream = 0) -> Tensor:
        """Return ``x`` with values drawn uniformly from the box inside the mask."""
        u = example_rng.uniform(ids, tuple(x.shape[1:]), seed, stream, x.dtype)
        return self.project(self.box[0] + self.width * u, x)


def square_masks(x: Tensor, size: int, corners: Tensor) -> Tensor:
    """Return masks ``(B, C, H, W)`` of squares with these upper left corners ``(B, 2)``: row and column.

    Example:
        >>> square_masks(torch.zeros(1, 1, 2, 3), 1, torch.tensor([[1, 2]])).int().tolist()
        [[[[0, 0, 0], [0, 0, 1]]]]
    """
    down, right = (torch.arange(n, device=x.device) for n in x.shape[2:])
    top, left = corners[:, :1], corners[:, 1:]
    rows, columns = (down >= top) & (down < top + size), (right >= left) & (right < left + size)
    return (rows[:, :, None] & columns[:, None])[:, None].expand_as(x)


def patch(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    size: int,
    steps: int = 100,
    step_size: float | None = None,
    places: int = 1,
    corners: Tensor | None = None,
    objective: Objective = cross_entropy,
    targeted: bool = False,
    early_stop: bool = True,
    box: tuple[float, float] = (0.0, 1.0),
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> AttackResult:
    """Attack with a square patch of any content: PGD on the pixels under it, from random ones.

    An example that stands costs ``places * (steps + 3)`` forwards and ``places * steps`` backwards.

    Args:
        model: maps ``(B, C, H, W)`` to logits ``(B, K)``; eval mode.
        x: clean images in the box.
        y: labels ``(B,)``; the wanted classes if targeted.
        size: side of the patch in pixels.
        steps: gradient steps at each place.
        step_size: length of a step, in the units of the input; None: 0.05 x the box's width.
        places: how many places to try on an example that stands, drawn uniformly.
        corners: upper left corners ``(B, 2)``, row and column, instead of a drawn place.
        objective: what to maximise, a function of logits and labels.
        targeted: whether ``y`` is the class the adversary wants.
        early_stop: whether a broken example leaves at once.
        box: lowest and highest valid value.
        ids: example ids ``(B,)``: an example's places and starts depend on its id and the seed only.
        seed: seed of places and starts.
        batch_size: examples under attack at a time.

    Returns:
        An `AttackResult`: broken where the original model is wrong about an image that differs under the patch only.

    Raises:
        ThreatError: a patch that does not fit the image, or no place.
        ModelError, DataError: a model or inputs that cannot be used as given.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> result = patch(model, x, torch.tensor([0, 1]), size=3, steps=5)
        >>> bool(((result.x_adv != x).flatten(1).sum(1) <= 9).all())
        True

    Reference: Brown et al., "Adversarial patch", 2017; Karmon, Zoran, Goldberg, "LaVAN", ICML 2018.
    """
    model, x = bind_dtype(model, x), _images(x, box)
    y, ids = read_labels(y, x), read_ids(ids, x)
    height, width = x.shape[2:]
    if not 1 <= size <= min(height, width) or places < 1:
        raise ThreatError(
            f"size is {size}, places {places}, images are {height} x {width}; give 1 to {min(height, width)}"
        )
    step_size = _STEP * anything(box).width if step_size is None else step_size
    rows, result = torch.arange(len(x), device=x.device), None
    for place in range(places if corners is None else 1):
        at = _drawn(ids, x, size, seed, place) if corners is None else _checked(corners, x, size)
        found = pgd(
            model, x[rows], y[rows], MaskThreat.of(square_masks(x, size, at)[rows], box), steps=steps,
            step_size=step_size, objective=objective, targeted=targeted, early_stop=early_stop, ids=ids[rows],
            seed=seed + place, batch_size=batch_size,
        )  # fmt: skip
        result = found if result is None else result.improved_by(found, rows)
        rows = (~result.broken).nonzero()[:, 0] if early_stop else rows
        if not len(rows):
            break
    assert result is not None
    return result


def _drawn(ids: Tensor, x: Tensor, size: int, seed: int, place: int) -> Tensor:
    room = torch.tensor(x.shape[2:], device=x.device) - size + 1
    return (example_rng.uniform(ids, (2,), seed, _PLACES + place) * room).long()


def _checked(corners: Tensor, x: Tensor, size: int) -> Tensor:
    corners = as_tensor(corners, "corners").to(x.device)
    room = torch.tensor(x.shape[2:], device=x.device) - size
    if corners.shape != (len(x), 2) or bool(((corners < 0) | (corners > room)).any()):
        raise ThreatError(
            f"corners are {tuple(corners.shape)} from {int(corners.min())} to {int(corners.max())}; "
            f"give {(len(x), 2)}, rows 0 to {int(room[0])} and columns 0 to {int(room[1])}"
        )
    return corners


def _images(x: Tensor, box: tuple[float, float]) -> Tensor:
    x = read_inputs(x, box)
    if x.ndim != 4:
        raise DataError(f"x is {tuple(x.shape)}; this attack needs images (B, C, H, W)")
    return x
