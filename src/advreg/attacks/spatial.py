"""Spatial attack: the worst of a grid of rotations and translations of the whole image, without gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from advreg.attacks.blackbox.score_based import QueryState, run_score_based
from advreg.attacks.inputs import read_images
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.result import AttackResult
from advreg.attacks.search import QuerySpec, search
from advreg.errors import ThreatError
from advreg.objectives import Objective, margin
from advreg.threat import ThreatModel, whole_box


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
    """Attack with every pose of a grid of rotations and translations; deterministic, without gradients.

    An example that survives costs one forward for each pose, plus 2: ``31 * 5 * 5 + 2 = 777`` by default.

    Args:
        model: maps images ``(B, C, H, W)`` to scores ``(B, K)``; a module must be in eval mode.
        x: clean images ``(B, C, H, W)`` in the box.
        y: labels ``(B,)``; the target classes if ``targeted``.
        degrees: largest rotation in either direction.
        pixels: largest translation in either direction along each axis.
        grid: number of angles, and number of translations along each axis; odd numbers include the clean pose.
        objective: function of scores and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once; otherwise all poses are queried.
        box: lowest and highest valid value of an input.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`. ``broken`` means that the original model misclassifies a pose; ``distance`` is the largest change
        of a value.

    Raises:
        ThreatError: a negative ``degrees`` or ``pixels``, or an empty grid.
        ModelError: train mode, or wrong output.
        DataError: inputs that are not images in the box.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> spatial(model, x, torch.tensor([0, 1]), grid=(3, 3), early_stop=False).cost[:, 0].tolist()
        [29, 29]

    Reference: Engstrom, Tran, Tsipras, Schmidt, Madry, "Exploring the landscape of spatial robustness", ICML 2019,
    arXiv:1712.02779.
    """
    if min(degrees, pixels) < 0 or min(grid) < 1:
        raise ThreatError(f"degrees, pixels, grid are {degrees}, {pixels}, {grid}; give extents >= 0 and counts >= 1")
    model, x = bind_dtype(model, x), read_images(x, box)
    spec, poses = QuerySpec(model, objective, targeted), pose_grid(degrees, pixels, grid)

    def attempt(x: Tensor, y: Tensor, threat: ThreatModel, ids: Tensor, _: int) -> AttackResult:
        def propose(state: QueryState, k: int) -> QueryState:
            return replace(state, adv=rotate_translate(state.x, *poses[k], box=box))

        return run_score_based(spec, x, y, threat, ids, propose, queries=len(poses), early_stop=early_stop)

    return search(spec, x, y, whole_box(box), attempt, early_stop=early_stop, batch_size=batch_size)


def rotate_translate(
    x: Tensor, degrees: float, right: float = 0.0, down: float = 0.0, box: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Return images rotated about their centre, then translated, with bilinear interpolation.

    Pixels that come from outside the image get the lowest value of the box.

    Args:
        x: images ``(B, C, H, W)``.
        degrees: angle of the rotation, counterclockwise.
        right: translation to the right, in pixels.
        down: translation downwards, in pixels.
        box: lowest and highest valid value of an input.

    Returns:
        Images ``(B, C, H, W)`` in the box.

    Example:
        >>> rotate_translate(torch.eye(3)[None, None], 90).round()[0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    height, width = x.shape[2:]
    turn = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    inverse = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])  # rows of an image point down
    origin = -inverse @ torch.tensor([right, down], dtype=torch.float64)
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    theta = torch.cat([inverse * half / half[:, None], (origin / half)[:, None]], 1)
    grid = F.affine_grid(theta.to(x).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return (F.grid_sample(x - box[0], grid, align_corners=False) + box[0]).clamp(*box)


def pose_grid(degrees: float, pixels: float, grid: tuple[int, int]) -> list[tuple[float, float, float]]:
    """Return the poses (degrees, right, down) of a grid, the mildest first.

    Args:
        degrees: largest rotation in either direction.
        pixels: largest translation in either direction along each axis.
        grid: number of angles, and number of translations along each axis.

    Returns:
        Poses of a grid.

    Example:
        >>> pose_grid(30, 3, (3, 1))
        [(0.0, 0.0, 0.0), (-30.0, 0.0, 0.0), (30.0, 0.0, 0.0)]
    """
    angles = _symmetric_range(degrees, grid[0])
    shifts = _symmetric_range(pixels, grid[1])
    poses = itertools.product(angles, shifts, shifts)
    return sorted(poses, key=lambda p: abs(p[0]) / (degrees or 1.0) + (abs(p[1]) + abs(p[2])) / (pixels or 1.0))


def _symmetric_range(extent: float, count: int) -> list[float]:
    """Return ``count`` equidistant values from -extent to extent; only 0 if ``count`` is 1."""
    return [extent * (2 * k / (count - 1) - 1) for k in range(count)] if count > 1 and extent else [0.0]
