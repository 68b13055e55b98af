"""Patch attack: PGD on the pixels inside a square, which may take any value of the box."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from advreg import example_rng
from advreg.attacks.inputs import as_tensor, read_ids, read_images, read_labels
from advreg.attacks.model import Model, bind_dtype
from advreg.attacks.pgd import pgd
from advreg.attacks.result import AttackResult
from advreg.errors import ThreatError
from advreg.objectives import Objective, cross_entropy
from advreg.region import Interval
from advreg.threat import ThreatModel

_STEP_SHARE = 0.05
"""Default step size, as a share of the box's width."""

_PLACE_LANE = 1 << 41
"""First stream of the random places."""


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
    """Attack with a square patch of any content: PGD on the pixels inside it, from random values.

    An example that survives costs ``places * (steps + 3)`` forwards and ``places * steps`` backwards.

    Args:
        model: maps images ``(B, C, H, W)`` to logits ``(B, K)``; must be in eval mode.
        x: clean images ``(B, C, H, W)`` in the box.
        y: labels ``(B,)``; the target classes if ``targeted``.
        size: side of the patch in pixels.
        steps: gradient steps at each place.
        step_size: length of a step in the units of the input; 0.05 of the box's width if None.
        places: number of places, drawn uniformly; each is attacked where the places before failed.
        corners: upper left corners ``(B, 2)`` as row and column; None draws the places at random.
        objective: function of logits and labels to maximise.
        targeted: whether ``y`` holds the classes that the adversary wants.
        early_stop: whether a broken example leaves the batch at once.
        box: lowest and highest valid value of an input.
        ids: example ids ``(B,)``; the places and starts of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the places and starts.
        batch_size: number of examples attacked at a time.

    Returns:
        An `AttackResult`. ``broken`` means that the original model misclassifies an image that differs inside the patch
        only.

    Raises:
        ThreatError: a patch larger than the image, corners outside it, or ``places`` below 1.
        ModelError: train mode, no gradient path, wrong output.
        DataError: inputs that are not images in the box, or labels that do not fit them.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> x = torch.rand(2, 1, 8, 8)
        >>> result = patch(model, x, torch.tensor([0, 1]), size=3, steps=5)
        >>> bool(((result.x_adv != x).flatten(1).sum(1) <= 9).all())
        True

    Reference: Brown et al., "Adversarial patch", 2017, arXiv:1712.09665; Karmon, Zoran, Goldberg, "LaVAN: localized and visible
    adversarial noise", ICML 2018, arXiv:1801.02608.
    """
    model, x = bind_dtype(model, x), read_images(x, box)
    y, ids = read_labels(y, x), read_ids(ids, x)
    _require_fit(size, places, x)
    step_size = _STEP_SHARE * (box[1] - box[0]) if step_size is None else step_size
    rows, result = torch.arange(len(x), device=x.device), None
    for place in range(places if corners is None else 1):
        at = _draw_corners(ids, x, size, seed, place) if corners is None else _read_corners(corners, x, size)
        threat = MaskThreat.of(square_masks(x, size, at)[rows], box)
        new = pgd(
            model,
            x[rows],
            y[rows],
            threat,
            steps=steps,
            step_size=step_size,
            objective=objective,
            targeted=targeted,
            early_stop=early_stop,
            ids=ids[rows],
            seed=seed + place,
            batch_size=batch_size,
        )
        result = new if result is None else result.improved_by(new, rows)
        rows = (~result.broken).nonzero()[:, 0] if early_stop else rows
        if not len(rows):
            break
    assert result is not None
    return result


@dataclass(frozen=True, eq=False)
class MaskThreat(ThreatModel):
    """All inputs that differ from the clean one inside a mask only, by any amount that stays in the box.

    Any attack for linf accepts it as its threat model.

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
        """Return the threat model of a mask ``(B, ...)`` and a box."""
        return cls("linf", box[1] - box[0], box, mask=mask)

    def __str__(self) -> str:
        return "mask"

    def select(self, rows: Tensor) -> MaskThreat:
        """Return the threat model of these rows of the batch."""
        return replace(self, mask=self.mask[rows])

    def region(self, x: Tensor) -> Interval:
        """Return the valid points around ``x (B, ...)``: the box inside the mask, ``x`` itself outside."""
        low, high = self.box
        return Interval(torch.where(self.mask, low, x), torch.where(self.mask, high, x))

    def contains(self, a: Tensor, x: Tensor, tol: float = 0.0) -> Tensor:
        """Return whether each ``a`` is in the box and equals ``x`` outside the mask, ``(B,)``.

        Args:
            a: inputs to verify ``(B, ...)``.
            x: clean inputs ``(B, ...)``.
            tol: tolerance of both conditions, as a share of the box's width.
        """
        outside = torch.where(self.mask, 0.0, (a.double() - x.double()).abs())
        return super().contains(a, x, tol) & (outside <= tol * self.width).flatten(1).all(1)

    def random_start(self, x: Tensor, ids: Tensor, seed: int, stream: example_rng.Stream = 0) -> Tensor:
        """Return ``x`` with uniform draws from the box inside the mask.

        Args:
            x: clean inputs ``(B, ...)``.
            ids: example ids ``(B,)``; the draws of an example depend on its id, the seed and the stream only.
            seed: seed of the draws.
            stream: which of several independent draws; one number, or integers ``(B,)``.

        Returns:
            Points ``(B, ...)``.

        Example:
            >>> x = torch.full((1, 1, 2, 2), 0.5)
            >>> threat = MaskThreat.of(torch.tensor([[[[True, False], [False, False]]]]))
            >>> (threat.random_start(x, torch.tensor([0]), seed=0) != x).flatten().tolist()
            [True, False, False, False]
        """
        u = example_rng.uniform(ids, tuple(x.shape[1:]), seed, stream, x.dtype)
        return self.project(self.box[0] + self.width * u, x)


def square_masks(x: Tensor, size: int, corners: Tensor) -> Tensor:
    """Return masks ``(B, C, H, W)`` of squares with side ``size`` and these upper left corners ``(B, 2)``: row, column.

    Args:
        x: images ``(B, C, H, W)``, for the shape.
        size: side of the square in pixels.
        corners: upper left corner of each square ``(B, 2)``: row, column.

    Returns:
        Booleans ``(B, C, H, W)``, True inside the square.

    Example:
        >>> square_masks(torch.zeros(1, 1, 2, 3), 1, torch.tensor([[1, 2]])).int().tolist()
        [[[[0, 0, 0], [0, 0, 1]]]]
    """
    down, right = (torch.arange(n, device=x.device) for n in x.shape[2:])
    top, left = corners[:, :1], corners[:, 1:]
    rows = (down >= top) & (down < top + size)
    columns = (right >= left) & (right < left + size)
    return (rows[:, :, None] & columns[:, None])[:, None].expand_as(x)


def _require_fit(size: int, places: int, x: Tensor) -> None:
    height, width = x.shape[2:]
    if not 1 <= size <= min(height, width):
        raise ThreatError(f"size is {size}, images are {height} x {width}; give 1 to {min(height, width)}")
    if places < 1:
        raise ThreatError(f"places is {places}; give 1 or more")


def _draw_corners(ids: Tensor, x: Tensor, size: int, seed: int, place: int) -> Tensor:
    room = torch.tensor(x.shape[2:], device=x.device) - size + 1
    return (example_rng.uniform(ids, (2,), seed, _PLACE_LANE + place) * room).long()


def _read_corners(corners: Tensor, x: Tensor, size: int) -> Tensor:
    corners = as_tensor(corners, "corners").to(x.device)
    room = torch.tensor(x.shape[2:], device=x.device) - size
    if corners.shape != (len(x), 2) or bool(((corners < 0) | (corners > room)).any()):
        raise ThreatError(
            f"corners are {tuple(corners.shape)} from {int(corners.min())} to {int(corners.max())}; "
            f"give {(len(x), 2)}, rows 0 to {int(room[0])} and columns 0 to {int(room[1])}"
        )
    return corners
