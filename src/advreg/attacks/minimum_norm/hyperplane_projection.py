"""Exact projection onto a hyperplane inside a box in linf, l2 and l1, on rows; the steps of FAB and DeepFool.

Only movement along ``-value w`` helps. With ``room`` the distance to the box, the nearest offset moves each coordinate by
``min(t, room)`` (linf), ``min(t |w|, room)`` (l2), or the coordinates of largest ``|w|`` first (l1), until ``sum |w| moved
= |value|``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advreg.attacks.minimum_norm.l0 import dual
from advreg.attacks.minimum_norm.state import MinimumNormState
from advreg.threat import Norm, ThreatModel


def onto_plane(norm: Norm, w: Tensor, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the offset d of least norm with ``value + <w, d> = 0`` and ``low <= d <= high``.

    If the box contains no such point, the offset goes as near to the plane as the box allows.

    Args:
        norm: the norm to minimise.
        w: normals of the planes ``(B, n)``.
        value: value of the linear function at offset zero, ``(B,)``.
        low: offsets at which each coordinate meets the lower end of the box ``(B, n)``, at most 0.
        high: offsets at which each coordinate meets the upper end of the box ``(B, n)``, at least 0.

    Returns:
        Offsets ``(B, n)``.

    Example:
        >>> w, wide = torch.tensor([[3.0, 4.0]]), torch.full((1, 2), 9.0)
        >>> onto_plane("l2", w, torch.tensor([-5.0]), -wide, wide).tolist()
        [[0.6000000238418579, 0.800000011920929]]

    Reference: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    arXiv:1907.02044.
    """
    toward = -w.sign() * value.sign()[:, None]
    room = torch.where(toward > 0, high, -low)
    size, target = w.abs(), value.abs()[:, None]
    if norm == "l1":
        return toward * _fill(size, size, target, room)
    return toward * _solve_level(size, size if norm == "l2" else size.sign(), target, room)


def step_onto(state: MinimumNormState, point: Tensor) -> Tensor:
    """Return the step from a point onto the zero of the last linearisation, inside the box, ``(B, ...)``.

    Args:
        state: iterates with the last value and gradient.
        point: points from which the step is taken ``(B, ...)``.

    Returns:
        Steps ``(B, ...)``.
    """
    low, high = state.ball.box
    flat, grad = point.flatten(1), state.grad.flatten(1)
    value = state.value + (grad * (flat - state.adv.flatten(1))).sum(1)
    norm: Norm = state.ball.norm  # type: ignore[assignment]  # fab rejects l0
    return onto_plane(norm, grad, value, low - flat, high - flat).view_as(point)


def step_toward(state: MinimumNormState, point: Tensor) -> Tensor:
    """Return the step toward the zero of the last linearisation without a box: ``|value| / ||grad||_dual`` long.

    The caller cuts the step at the box, so near the box the plane is only approached. A step onto the plane inside the box
    would be exact for a linear function only: with many values at the box, it is much longer than the gradient is valid
    for. In l1 the values that can move share the step, the largest ``|grad|`` first.

    Args:
        state: iterates with the last value and gradient.
        point: points from which the step is taken ``(B, ...)``.

    Returns:
        Steps ``(B, ...)``, before the box.
    """
    low, high = state.ball.box
    flat, grad = point.flatten(1), state.grad.flatten(1)
    value = state.value + (grad * (flat - state.adv.flatten(1))).sum(1)
    uphill = -grad * value.sign()[:, None]
    if state.ball.norm == "l1":
        room = torch.where(uphill > 0, high - flat, flat - low)
        size = torch.where(room > 0, grad.abs(), 0.0)
        budget = value.abs() / size.amax(1).clamp_min(torch.finfo(size.dtype).tiny)
        moved = uphill.sign() * _fill(size, size.sign(), budget[:, None], room)
    else:
        ball = ThreatModel(state.ball.norm, 0.0, state.ball.box)  # type: ignore[arg-type]  # deepfool rejects l0
        moved = ball.steepest(uphill) * (value.abs() / dual(ball, grad).clamp_min(1e-30))[:, None]
    return moved.view_as(point)


def _solve_level(size: Tensor, speed: Tensor, target: Tensor, room: Tensor) -> Tensor:
    """Return ``min(t speed, room)`` with the least ``t`` at which ``sum size min(t speed, room) = target``.

    The sum is concave and piecewise linear in ``t``: Newton's steps from 0 rise to the solution, one piece or more at a
    time. A solved row no longer changes, so its result does not depend on how many passes other rows need.
    """
    level = torch.zeros_like(target)
    for _ in range(size.shape[1] + 1):
        free = level * speed < room
        gained = torch.where(free, 0.0, size * room).sum(1, keepdim=True)
        slope = torch.where(free, size * speed, 0.0).sum(1, keepdim=True)
        solved = torch.where(slope > 0, (target - gained) / slope, torch.finfo(size.dtype).max)
        if bool((solved <= level).all()):
            break
        level = solved.maximum(level)
    return (level * speed).minimum(room)


def _fill(size: Tensor, gain: Tensor, target: Tensor, room: Tensor) -> Tensor:
    """Return moves that use the room of the largest ``size`` first, until ``sum gain moved = target``."""
    ordered, order = size.sort(1, descending=True)
    rooms, gains = room.gather(1, order), gain.gather(1, order)
    before = (gains * rooms).cumsum(1) - gains * rooms
    moved = ((target - before).clamp_min(0.0) / gains.clamp_min(torch.finfo(size.dtype).tiny)).minimum(rooms)
    moved = torch.where(ordered > 0, moved, 0.0)
    return torch.zeros_like(size).scatter(1, order, moved)
