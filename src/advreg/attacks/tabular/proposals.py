"""Proposals of the search by mutation: changes of few features, in units of the threat model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advreg.threat import ThreatModel

_SIGNED = 0.3
"""Share of the proposals with steps of full length."""
_RETURN = 0.2
"""Probability that a feature returns to its clean value, in half of the proposals."""
_HEAD = 4
"""Draws of a proposal that are not of one feature: how many change, the step's length, its form, and what returns."""


@dataclass(frozen=True)
class Proposals:
    """What may change around rows ``x (B, F)``, flattened.

    Attributes:
        x: clean rows ``(B, F)``.
        low, high: lowest and highest value of each feature in reach ``(B, F)``.
        reach: largest change of each feature alone ``(B, F)``.
        whole: features that hold whole numbers, booleans ``(F,)``.
        groups: positions of each one-hot group.
        unit: number of the unit that each feature belongs to, ``(F,)``: a group is one unit, so is any other feature.
        shape: shape of one example.
    """

    x: Tensor
    low: Tensor
    high: Tensor
    reach: Tensor
    whole: Tensor
    groups: tuple[tuple[int, ...], ...]
    unit: Tensor
    shape: tuple[int, ...]

    @classmethod
    def of(cls, threat: ThreatModel, x: Tensor) -> Proposals:
        """Return the proposals for rows ``x (B, ...)`` of a threat model."""
        flat, rules = x.flatten(1), threat.rules
        low, high = _ends(threat, x)
        reach = (high - flat).maximum(flat - low)
        whole = torch.zeros(flat.shape[1], dtype=torch.bool, device=x.device)
        groups = () if rules is None else rules.groups
        if rules is not None and rules.integer:
            whole[list(rules.integer)] = True
        unit = torch.arange(flat.shape[1], device=x.device)
        for group in groups:
            unit[list(group)] = group[0]
        return cls(flat, low, high, reach, whole, groups, unit, tuple(x.shape[1:]))

    @property
    def width(self) -> int:
        """Random numbers of one proposal: whether a feature changes, how, by how much, and whether it returns."""
        return _HEAD + 4 * self.x.shape[1]

    def propose(self, best: Tensor, u: Tensor, spent: float) -> Tensor:
        """Return proposals ``(B, P, ...)`` around the best rows; they are projected and repaired afterwards.

        Args:
            best: best rows so far ``(B, ...)``.
            u: random numbers ``(B, P, width)``.
            spent: share of the queries spent, in [0, 1).

        Returns:
            Proposals ``(B, P, ...)``.
        """
        size = self.x.shape[1]
        head, change, form, length, back = torch.split(u, [_HEAD, size, size, size, size], 2)
        base = best.flatten(1)[:, None].expand(-1, u.shape[1], -1)
        base = self._return(base, head, back)
        chosen = self._choose(change, head[..., :1], spent)
        moved = self._step(base, form, length, head, spent)
        point = torch.where(chosen, moved, base)
        for group in self.groups:
            at = list(group)
            member = torch.nn.functional.one_hot((form[..., at[0]] * len(at)).long(), len(at)).to(point.dtype)
            point[..., at] = torch.where(chosen[..., at[:1]], member, base[..., at])
        return point.view(*point.shape[:2], *self.shape)

    def _choose(self, change: Tensor, u: Tensor, spent: float) -> Tensor:
        """Return which features change: from half of the movable units down to one, at random, and at least one."""
        movable = self.reach > 0
        score = change[..., self.unit].masked_fill(~movable[:, None], 2.0)
        units = (movable & (self.unit == torch.arange(len(self.unit), device=u.device))).sum(1)[:, None, None]
        least = torch.where(u < 0.5, 1, 2) / units.clamp_min(1)  # pairs too, to the end: one gives way to the other
        share = (0.5 * (1 - spent) * u).maximum(least)
        return ((score <= share) | (score == score.amin(2, keepdim=True))) & movable[:, None]

    def _step(self, base: Tensor, form: Tensor, length: Tensor, head: Tensor, spent: float) -> Tensor:
        """Return the features after a step; whole numbers jump to a level in reach, or step."""
        d = 2 * length - 1
        d = torch.where(head[..., 2:3] < _SIGNED, d.sign(), d)
        step = self.reach[:, None] * 10 ** (-2 * spent * head[..., 1:2]) * d
        low, high = self.low[:, None], self.high[:, None]
        level = (low.ceil() + (length * (high.floor() - low.ceil() + 1)).floor()).minimum(high.floor())
        whole = torch.where(form < 0.5, level, base + step.sign() * step.abs().round().clamp_min(1.0))
        return torch.where(self.whole, whole, base + step).maximum(low).minimum(high)

    def _return(self, base: Tensor, head: Tensor, back: Tensor) -> Tensor:
        """Return rows of which some features are clean again, or half clean: this frees budget for others."""
        clean, coin = self.x[:, None], head[..., 3:4]
        returned = torch.where(back[..., self.unit] < _RETURN, clean, base)
        half = torch.where(self.whole | self._in_group(), base, (base + clean) / 2)
        return torch.where(coin < 0.5, returned, torch.where(coin > 0.75, half, base))

    def _in_group(self) -> Tensor:
        members = torch.zeros_like(self.whole)
        members[[at for group in self.groups for at in group]] = True
        return members


def _ends(threat: ThreatModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest value of each feature in reach, were it the only one to change."""
    if threat.limits is None:
        radii = threat.radii(x)
        low, high = (x - radii).clamp_min(threat.box[0]), (x + radii).clamp_max(threat.box[1])
        return low.flatten(1), high.flatten(1)
    low, high = threat.limits.bounds(x)
    scale = threat.limits.units(x, x.dtype)
    reach = threat.radii(x) * torch.where(torch.isfinite(scale), scale, 0.0)
    reach = torch.where(torch.isfinite(scale), reach, torch.inf)
    return low.maximum(x - reach).flatten(1), high.minimum(x + reach).flatten(1)
