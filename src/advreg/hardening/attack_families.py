"""Families of attacks by name, each with a cheap form for training and a strong form for the gate.

linf:8/255 l2:1 l1:5      a norm ball
spatial:30:3              rotations up to 30 degrees with shifts up to 3 pixels
patch:5                   a square of 5 x 5 pixels that may hold anything, anywhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advreg import attacks, example_rng
from advreg.attacks.model import query_model
from advreg.attacks.patch import MaskThreat, patch, square_masks
from advreg.attacks.spatial import rotate_translate, spatial
from advreg.errors import ConfigError, ThreatError
from advreg.evaluation import Protocol, ProtocolStage
from advreg.objectives import Objective, cross_entropy
from advreg.threat import ThreatModel, whole_box

Fresh = Callable[[nn.Module, Tensor, Tensor, Tensor, int], Tensor]
"""``(model, x, y, ids, seed) -> x_adv``: a training point for each example, in a few passes."""

THREAT = whole_box()
"""Threat of a mixed protocol: each family enforces its own limits, verification checks the box and the label."""

_POSES = 5  # random poses per example in training; the worst one is used
_STEPS = 5  # of training's gradient attacks


@dataclass(frozen=True)
class Family:
    """One family of attacks.

    Attributes:
        name: as in protocol ids.
        stage: the gate's attack.
        fresh: training's attack.
        ball: the threat model, if the family is a norm ball.
    """

    name: str
    stage: ProtocolStage
    fresh: Fresh
    ball: ThreatModel | None = None


@dataclass(frozen=True)
class Points:
    """The result of an attack in training."""

    x_adv: Tensor


def family(text: str) -> Family:
    """Return the family of a name.

    Args:
        text: such as ``linf:8/255``, ``spatial:30:3`` or ``patch:5``.

    Raises:
        ConfigError: the family is unknown, or its numbers are not allowed.

    Example:
        >>> family("patch:5").name
        'patch-5'
    """
    kind, *numbers = text.split(":")
    try:
        if kind == "spatial" and len(numbers) == 2:
            return _spatial(float(numbers[0]), float(numbers[1]))
        if kind == "patch" and len(numbers) == 1:
            return _patch(int(numbers[0]))
        if kind in ("linf", "l2", "l1"):
            return _ball(ThreatModel.parse(text))
    except (ValueError, ThreatError) as error:
        raise ConfigError(f"attacks holds {text!r}: {error}") from error
    raise ConfigError(f"attacks holds {text!r}; allowed: linf:EPS, l2:EPS, l1:EPS, spatial:DEGREES:PIXELS, patch:SIZE")


def protocol(families: Sequence[Family], first: int, last: int) -> Protocol:
    """Return the gate's protocol: each family attacks the survivors of the families before it.

    Args:
        families: the attacks, in order.
        first: first sealed example.
        last: the one after the last sealed example.

    Example:
        >>> protocol([family("spatial:30:3"), family("patch:5")], 0, 1000).id(THREAT)
        'linf-1-harden-0-1000-spatial-30-3+patch-5@1'
    """
    names = "+".join(one.name for one in families)
    return Protocol(f"harden-{first}-{last}-{names}", 1, tuple(one.stage for one in families))


def mixture(families: Sequence[Family]) -> Callable[..., Points]:
    """Return an attack for training that divides each batch among the families.

    Args:
        families: one or more.
    """

    def attack(
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        *,
        seed: int = 0,
        objective: Objective = cross_entropy,
    ) -> Points:
        ids = torch.arange(len(x), device=x.device)
        part = ids % len(families)
        points = x.clone()
        for k, one in enumerate(families):
            mine = part == k
            if bool(mine.any()):
                points[mine] = one.fresh(model, x[mine], y[mine], ids[mine], seed)
        return Points(points)

    return attack


def _ball(threat: ThreatModel) -> Family:
    def strong(model: nn.Module, x: Tensor, y: Tensor, _: ThreatModel, **options: Any) -> Any:
        return attacks.pgd(model, x, y, threat, steps=40, restarts=2, **options)

    def fresh(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, seed: int) -> Tensor:
        return attacks.craft(model, x, y, threat, steps=_STEPS, ids=ids, seed=seed).x_adv

    name = f"{threat.norm}-{float(threat.eps):.6g}"
    return Family(name, ProtocolStage(name, strong), fresh, threat)


def _spatial(degrees: float, pixels: float) -> Family:
    def strong(model: nn.Module, x: Tensor, y: Tensor, _: ThreatModel) -> Any:
        return spatial(model, x, y, degrees=degrees, pixels=pixels, grid=(15, 3))

    def fresh(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, seed: int) -> Tensor:
        draws = 2 * example_rng.uniform(torch.arange(_POSES), (3,), seed) - 1
        worst, highest = x, torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        for turn, right, down in (draws * torch.tensor([degrees, pixels, pixels])).tolist():
            points = rotate_translate(x, turn, right, down)
            with torch.no_grad():
                loss = cross_entropy(query_model(model, points), y)
            better = loss > highest
            worst = torch.where(better[:, None, None, None], points, worst)
            highest = torch.where(better, loss, highest)
        return worst

    name = f"spatial-{degrees:g}-{pixels:g}"
    return Family(name, ProtocolStage(name, strong), fresh)


def _patch(size: int) -> Family:
    def fresh(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, seed: int) -> Tensor:
        room = torch.tensor(x.shape[2:], device=x.device) - size + 1
        corners = (example_rng.uniform(ids, (2,), seed) * room).long()
        inside = MaskThreat.of(square_masks(x, size, corners))
        return attacks.craft(model, x, y, inside, steps=_STEPS, step_size=0.3, ids=ids, seed=seed).x_adv

    def strong(model: nn.Module, x: Tensor, y: Tensor, _: ThreatModel, **options: Any) -> Any:
        return patch(model, x, y, size=size, steps=20, step_size=0.15, places=4, **options)

    if size < 1:
        raise ConfigError(f"attacks holds 'patch:{size}'; give a side of 1 pixel or more, such as patch:5")
    return Family(f"patch-{size}", ProtocolStage(f"patch-{size}", strong), fresh)


def families(texts: Sequence[str]) -> list[Family]:
    """Return the families of these names.

    Args:
        texts: as for `family`.

    Raises:
        ConfigError: a family is unknown, or its numbers are not allowed.
    """
    return [family(text) for text in texts]
