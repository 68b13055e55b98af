"""The threat model: which changes of an input the adversary may make. Norms are defined here only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from advreg import example_rng
from advreg.constraints import FeatureRules, repair
from advreg.eps_and_box import ByValue, check_ball, eps_like, read_short_form, scale_of, short_form, short_hash
from advreg.errors import ThreatError
from advreg.feature_limits import FeatureLimits
from advreg.norms import MINIMUM, ORDER, PROJECT, draw_in_ball, held_by_box, inner_radius, steepest_direction
from advreg.norms import NORMS as NORMS
from advreg.norms import Norm as Norm
from advreg.norms import broadcast_per_example as broadcast_per_example
from advreg.region import Ball, ByProject, Interval, Region


@dataclass(frozen=True, eq=False)
class ThreatModel(ByValue):
    """All inputs within ``eps`` of the clean one, in ``norm``, and inside the valid ``box``.

    Two threat models are equal if their norms, all radii and boxes are.

    Args:
        norm: ``"linf"`` (each value may change by eps), ``"l2"`` (Euclidean length) or ``"l1"`` (sum of changes).
        eps: radius in the units of the input: a number, or one radius for each example as a tensor, array or list ``(B,)``
            or ``(B, 1)``. The second form is unambiguous if a batch has as many features as examples.
        box: lowest and highest valid value of an input: two numbers, or two tensors with one value for each feature (`box`
            is then their range, and `bounds` has the tensors).
        scale: unit of each feature, so that changes are measured as ``||(a - x) / scale||``: 0 where a value may not change,
            inf where it may take any value of the box at no cost; it broadcasts to one example. None: 1 everywhere.
        rules: what valid inputs keep beside the ball: whole numbers, one-hot groups, relations, one-sided changes.
        relative: whether eps is a share of the length of each example without its mean; set by ``snr:20``.
        bounds: lowest and highest value of each feature; set by a box of two tensors.
        one_per_example: whether a tensor eps is known to contain one radius for each example; set by the ``(B, 1)`` form
            and by `with_eps`.

    Raises:
        ThreatError: unknown norm, negative or non-finite eps or scale, an eps wider than the box, an empty or infinite box.

    Example:
        >>> threat = ThreatModel("linf", eps=8 / 255)
        >>> x = torch.full((1, 1, 2, 2), 0.5)
        >>> bool(threat.contains(threat.project(x + 1.0, x), x).all())
        True
    """

    norm: Norm
    eps: float | Tensor
    box: tuple[float, float] = (0.0, 1.0)
    scale: Tensor | None = field(default=None, repr=False, kw_only=True)
    rules: FeatureRules | None = field(default=None, repr=False, kw_only=True)
    relative: bool = field(default=False, repr=False, kw_only=True)
    bounds: tuple[Tensor, Tensor] | None = field(default=None, repr=False, kw_only=True)
    one_per_example: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        self._normalise()
        object.__setattr__(self, "scale", scale_of(self.scale))
        check_ball(self.norm, self.eps, self.box, scaled=self.scale is not None or self.relative)

    def __str__(self) -> str:
        return short_form(self.norm, self.eps, self.box, relative=self.relative) + self.suffix.removeprefix("-snr")

    @classmethod
    def per_feature(
        cls, norm: Norm, eps: Tensor | list[float], box: tuple[float, float] | tuple[Tensor, Tensor] = (0.0, 1.0)
    ) -> ThreatModel:
        """Return the threat model with one radius for each feature or channel: eps 1 in units of these radii.

        Args:
            norm: ``"linf"``, ``"l2"`` or ``"l1"``.
            eps: radius of each feature, shaped to broadcast to one example: ``(F,)``, ``(C, 1, 1)``; 0 for immovable.
            box: lowest and highest valid value, two numbers or two tensors.

        Returns:
            The threat model.

        Example:
            >>> threat, x = ThreatModel.per_feature("linf", [0.1, 0.0]), torch.full((1, 2), 0.5)
            >>> [round(v, 4) for v in threat.project(x + 1, x)[0].tolist()]
            [0.6, 0.5]
        """
        return cls(norm, 1.0, box, scale=torch.as_tensor(eps))  # type: ignore[arg-type]  # the box is normalised

    @cached_property
    def suffix(self) -> str:
        """Ending of ids and texts that names a box and a scale of features by 8 hex digits; empty without."""
        parts = {"box": self.bounds, "scale": None if self.scale is None else (self.scale,)}
        hashes = [f"-{name}-{short_hash(*each)}" for name, each in parts.items() if each is not None]
        rules = "" if self.rules is None else f"-rules-{self.rules.fingerprint}"
        return ("-snr" if self.relative else "") + "".join(hashes) + rules

    @cached_property
    def limits(self) -> FeatureLimits | None:
        """Limits of single features; None where all features are alike."""
        if self.scale is None and self.bounds is None and self.rules is None and not self.relative:
            return None
        low, high = self.bounds or (torch.tensor(end, dtype=torch.float64) for end in self.box)
        sides = None if self.rules is None or not self.rules.one_sided else torch.tensor(self.rules.one_sided)
        return FeatureLimits(self.norm, self.scale, low, high, sides, self.relative)

    @classmethod
    def parse(cls, text: str) -> ThreatModel:
        """Read ``norm:eps``, or ``norm:eps@low,high`` for another box than [0, 1]; ``str`` writes the same form.

        ``snr:20`` is l2 with a signal-to-noise ratio of 20 dB: ``eps = ||x - mean|| 10^(-20/20)`` of each example.

        Args:
            text: ``linf:8/255``, ``l2:0.5``, ``linf:8@0,255``, ...

        Returns:
            The threat model.

        Raises:
            ThreatError: text of another form, or an invalid threat model.

        Example:
            >>> ThreatModel.parse("linf:1/4")
            ThreatModel(norm='linf', eps=0.25, box=(0.0, 1.0))
            >>> ThreatModel.parse("linf:8@0,255")
            ThreatModel(norm='linf', eps=8.0, box=(0.0, 255.0))
        """
        norm, radius, box = read_short_form(text)
        if norm == "snr":
            return cls("l2", 10 ** (-radius / 20), box, relative=True)
        return cls(norm, radius, box)  # type: ignore[arg-type]  # __post_init__ checks the norm

    @property
    def width(self) -> float:
        """Width of the box; default lengths of attacks are shares of it."""
        low, high = self.box
        return high - low

    def with_eps(self, eps: float | Tensor) -> ThreatModel:
        """Return the same threat model with another eps, or with one for each example ``(B,)``.

        Args:
            eps: radius, or one radius for each example ``(B,)``.

        Returns:
            A threat model of the same norm and box.
        """
        return replace(self, eps=eps, one_per_example=True)

    def distance(self, a: Tensor, x: Tensor) -> Tensor:
        """Return ``||a - x||``, or ``||(a - x) / scale||``, of each example in float64, ``(B,)``.

        Args:
            a: inputs ``(B, ...)``.
            x: clean inputs ``(B, ...)``.

        Returns:
            Distances ``(B,)``, float64.

        Example:
            >>> ThreatModel("l2", 1.0).distance(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).item()
            5.0
        """
        if self.limits is not None:
            return self.limits.distance(a, x)
        offset = (a.double() - x.double()).flatten(1)
        distance: Tensor = torch.linalg.vector_norm(offset, ord=ORDER[self.norm], dim=1)
        return distance

    def contains(self, a: Tensor, x: Tensor, tol: float = 0.0) -> Tensor:
        """Return whether each ``a`` is within eps of ``x`` and inside the box, measured in float64.

        Args:
            a: inputs to verify ``(B, ...)``.
            x: clean inputs ``(B, ...)``.
            tol: tolerance for points made elsewhere, as a share of eps plus a share of the box's width.

        Returns:
            Booleans ``(B,)``.
        """
        eps = eps_like(self.eps, a, torch.float64)
        if self.limits is not None:
            inside = self.limits.are_inside(a, x, tol)
            inside &= self.limits.distance(a, x) <= eps * (1 + tol) + tol
            return inside if self.rules is None else inside & self.rules.kept(a)
        (low, high), slack = self.box, tol * self.width
        flat = a.double().flatten(1)
        in_box = ((flat >= low - slack) & (flat <= high + slack)).all(1)
        return in_box & (self.distance(a, x) <= eps * (1 + tol) + slack)

    def project(self, a: Tensor, x: Tensor) -> Tensor:
        """Return the point nearest to ``a`` that is within eps of ``x`` and inside the box; exact in every norm.

        The radius is reduced by the rounding error of one addition, so that the distance of the returned point is within
        eps even in float64.

        Args:
            a: points to project ``(B, ...)``.
            x: clean inputs ``(B, ...)``, inside the box.

        Returns:
            Points ``(B, ...)``.
        """
        return self.region(x).project(a)

    def region(self, x: Tensor) -> Region:
        """Return the valid points around ``x (B, ...)``; a loop prepares them once and projects at every step.

        A subclass with other valid points overrides this method, and `project` uses it.

        Args:
            x: clean inputs ``(B, ...)``, inside the box.

        Returns:
            The region, with `project` and `select`.

        Example:
            >>> x = torch.full((1, 2), 0.9)
            >>> ThreatModel("linf", 0.25).region(x).project(x + 1.0).tolist()
            [[1.0, 1.0]]
        """
        if self.limits is not None:
            return self.limits.region(x, eps_like(self.eps, x, torch.float64))
        low, high = self.box
        radius = self._radius(x)
        if self.norm != "linf":
            return Ball(x, radius, self.box, PROJECT[self.norm])
        r = broadcast_per_example(
            radius, x
        )  # bounds of the points, not of offsets: a point inside comes back to the last bit
        return Interval((x - r).clamp(low, high), (x + r).clamp(low, high))

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ends of intervals that contain every valid point around ``x (B, ...)``, rounded outward.

        Example:
            >>> low, high = ThreatModel("linf", 0.25).interval(torch.tensor([[0.125, 0.5]]))
            >>> bool((low <= torch.tensor([[0.0, 0.25]])).all() and (high >= torch.tensor([[0.375, 0.75]])).all())
            True
        """
        if self.limits is not None:
            return self.limits.interval(x, eps_like(self.eps, x, torch.float64))
        eps, far = self.radii(x.double()), x.new_tensor(torch.inf)
        low, high = ((x.double() + side * eps).to(x.dtype).nextafter(side * far) for side in (-1, 1))
        return low.maximum(x.new_tensor(self.box[0])), high.minimum(x.new_tensor(self.box[1]))

    def minimise(self, rows: Tensor, x: Tensor) -> Tensor:
        """Return the least value of linear functions over the valid points around ``x``, a lower bound of it in l2.

        Args:
            rows: coefficients ``(R, ...)``.
            x: clean inputs ``(R, ...)``.

        Returns:
            ``min <rows, a>`` over the valid points ``a``, ``(R,)``.

        Example:
            >>> x, rows = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, -1.0]])
            >>> round(ThreatModel("linf", 0.25).minimise(rows, x).item(), 4)
            -0.75
        """
        if self.limits is not None:
            return self.limits.minimise(rows, x, eps_like(self.eps, x, torch.float64))
        a, flat = rows.flatten(1), x.flatten(1)
        low, high = self.box
        radius = self.radii(flat).nextafter(flat.new_tensor(torch.inf)).expand(len(flat), 1)
        return (a * flat).sum(1) + MINIMUM[self.norm](a, low - flat, high - flat, radius)

    def steepest(self, g: Tensor, a: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Return the direction of unit norm along which a linear function with gradient ``g`` increases fastest.

        It attains the dual norm: ``<g, steepest(g)> = ||g||_*``. In l1 that is a single coordinate, which may be at the box
        already: with the iterate ``a``, it is the largest coordinate that can still move, and larger ones that cannot move
        are pushed against the box, so that the next projection does not reduce them.

        Args:
            g: gradients ``(B, ...)``.
            a: iterates ``(B, ...)`` inside the box, or None.
            x: clean inputs ``(B, ...)``, which limit one-sided features.

        Returns:
            Directions ``(B, ...)``; zero where the gradient is zero.
        """
        if self.limits is not None:
            return self.limits.steepest(g, a, x, self.radii(g))
        held = None if a is None or self.norm != "l1" else self._held(g.flatten(1), a.flatten(1))
        return steepest_direction(self.norm, g, held)

    def displaced(self, x: Tensor, u: Tensor) -> Tensor:
        """Return ``x + width * u``, a point far outside the ball, or ``x + 10 eps * scale * u`` with limits of features."""
        return x + self.width * u if self.limits is None else self.limits.displaced(x, 10 * self.radii(x), u)

    def _held(self, g: Tensor, a: Tensor) -> Tensor:
        """Return which coordinates are at a face of the box, up to rounding, and would move out of it along ``g``."""
        return held_by_box(g, a, self.box)

    def random_start(self, x: Tensor, ids: Tensor, seed: int, stream: example_rng.Stream = 0) -> Tensor:
        """Return a uniform draw from the ball around each ``x``, projected into the box.

        Args:
            x: clean inputs ``(B, ...)``.
            ids: example ids ``(B,)``; the draw of an example depends on its id, the seed and the stream only.
            seed: seed of the draws.
            stream: which of several independent draws, such as the restart; one number, or integers ``(B,)``.

        Returns:
            Points ``(B, ...)`` inside ball and box.

        Example:
            >>> threat, x = ThreatModel("l2", eps=0.5), torch.full((2, 4), 0.5)
            >>> bool(((threat.random_start(x, torch.arange(2), seed=0) - x).norm(dim=1) <= 0.5).all())
            True
        """
        if self.limits is not None:
            return self.project(self.limits.random_start(x, self.radii(x), ids, seed, stream), x)
        direction = draw_in_ball(self.norm, x, ids, seed, stream)
        return self.project(x + self.radii(x) * direction, x)

    def repair(self, a: Tensor, x: Tensor) -> Tensor:
        """Return the points to query for the iterates ``a (B, ...)``: they keep the rules; without rules, the same points.

        Args:
            a: iterates ``(B, ...)`` inside the threat model.
            x: clean inputs ``(B, ...)``.

        Returns:
            Points ``(B, ...)``.
        """
        if self.rules is None or self.limits is None:
            return a
        return repair(self.rules, self.limits, eps_like(self.eps, x, torch.float64), a, x)

    def radii(self, x: Tensor) -> Tensor:
        """Return eps in the dtype of ``x``, shaped ``(B, 1, ...)`` to multiply a batch like it."""
        eps = eps_like(self.eps, x, x.dtype)
        return broadcast_per_example(eps.expand(len(x)), x)

    def _radius(self, x: Tensor) -> Tensor:
        """Return eps minus the largest rounding error of ``x + offset`` in the norm, ``(B, 1)``.

        The error depends on the values that the point may have, not on the width of the box.
        """
        return inner_radius(self.norm, x, eps_like(self.eps, x, torch.float64), self.box)


def whole_box(box: tuple[float, float] = (0.0, 1.0)) -> ThreatModel:
    """Return the threat model that contains every input of the box, so that only the label decides.

    Args:
        box: lowest and highest valid value of an input.

    Returns:
        The threat model.

    Example:
        >>> whole_box()
        ThreatModel(norm='linf', eps=1.0, box=(0.0, 1.0))
    """
    return ThreatModel("linf", box[1] - box[0], box)


def as_threat(threat: ThreatModel | str) -> ThreatModel:
    """Return a threat model, parsed from text such as ``"linf:8/255"`` where text is given.

    Args:
        threat: a threat model, or its text.

    Returns:
        The threat model.

    Raises:
        ThreatError: malformed text, or neither text nor a threat model.

    Example:
        >>> as_threat("l2:0.5")
        ThreatModel(norm='l2', eps=0.5, box=(0.0, 1.0))
    """
    if isinstance(threat, str):
        return ThreatModel.parse(threat)
    if not isinstance(threat, ByValue):
        raise ThreatError(f"threat is {threat!r}; give a ThreatModel, or text such as 'linf:8/255'")
    return threat


def region_of(threat: ThreatModel, x: Tensor) -> Region:
    """Return the valid points around ``x (B, ...)``; they follow the `project` of a subclass that overrides it.

    Args:
        threat: the threat model.
        x: clean inputs ``(B, ...)``.

    Returns:
        The region, with `project` and `select`.
    """
    return threat.region(x) if type(threat).project is ThreatModel.project else ByProject(threat, x)
