"""Numbers: ordered classes, and regression with a tolerance."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from advreg.errors import ConfigError
from advreg.objectives import cross_entropy, kl
from advreg.tasks.task import Task


def ordinal(tolerance: int = 1) -> Task:
    """Return the task of ordered classes: a class at most ``tolerance`` away from the label is right.

    Args:
        tolerance: largest accepted distance of the predicted class from the label; 0 is classification.

    Returns:
        The task: labels ``(B,)``, logits ``(B, K)``; its objective is ``logsumexp(outside) - logsumexp(inside)``.

    Raises:
        ConfigError: a negative tolerance.

    Example:
        >>> ordinal(1).rate(torch.tensor([[0.0, 0.0, 5.0]]), torch.tensor([1])).item()
        True
    """
    if tolerance < 0 or tolerance != int(tolerance):
        raise ConfigError(f"task ordinal: tolerance is {tolerance}; give a whole number of classes, 0 or more")

    def outside(z: Tensor, y: Tensor) -> Tensor:
        far = (torch.arange(z.shape[1], device=z.device) - y[:, None]).abs() > tolerance
        return z.masked_fill(~far, -torch.inf).logsumexp(1) - z.masked_fill(far, -torch.inf).logsumexp(1)

    def fits(z: Tensor, y: Tensor) -> str:
        if z.ndim != 2 or y.ndim != 1 or y.is_floating_point():
            return f"outputs are {tuple(z.shape)}, y is {y.dtype} {tuple(y.shape)}; give logits (B, K) and labels (B,)"
        if int(y.min()) < 0 or int(y.max()) >= z.shape[1]:
            return f"y spans {int(y.min())} to {int(y.max())}; the model has the classes 0 to {z.shape[1] - 1}"
        if int(y.max()) - tolerance <= 0 and int(y.min()) + tolerance >= z.shape[1] - 1:
            return f"every class is within {tolerance} of every label; give a smaller tolerance"
        return ""

    return Task(
        f"ordinal-{tolerance}",
        lambda z, y: (z.argmax(1) - y).abs() <= tolerance,
        {"outside": outside, "ce": cross_entropy},
        loss=cross_entropy,
        divergence=lambda z, clean: kl(z, clean.softmax(1)),
        fits=fits,
    )


def number(tolerance: float | Sequence[float]) -> Task:
    """Return the task of regression: an example is right where all its D outputs are within the tolerance of the target.

    The two objectives are ``max_d (z_d - y_d) / tolerance_d`` and its negative direction: at ``z = y`` the gradient of the
    error itself says nothing.

    Args:
        tolerance: largest accepted error, in the units of the target; one number, or one for each output.

    Returns:
        The task: targets ``(B,)`` or ``(B, D)``, outputs ``(B, D)``.

    Raises:
        ConfigError: a tolerance that is not above 0.

    Example:
        >>> number(0.5).rate(torch.tensor([[1.2], [2.0]]), torch.tensor([1.0, 1.0])).tolist()
        [True, False]
    """
    units = [float(value) for value in (tolerance if isinstance(tolerance, Sequence) else [tolerance])]
    if not units or not all(0 < value < float("inf") for value in units):
        raise ConfigError(
            f"task number: tolerance is {tolerance}; give a number above 0 in the units of y, or one an output"
        )

    def error(z: Tensor, y: Tensor) -> Tensor:
        return (z - y.reshape(z.shape)) / z.new_tensor(units)

    def fits(z: Tensor, y: Tensor) -> str:
        wanted = tuple(y.shape[1:]) or (1,)
        if z.ndim != 2 or tuple(z.shape[1:]) != wanted:
            return (
                f"outputs are {tuple(z.shape)}, y is {tuple(y.shape)}; give (B, D) both, or y (B,) and outputs (B, 1)"
            )
        if len(units) not in (1, z.shape[1]):
            return f"{len(units)} tolerances for {z.shape[1]} outputs; give one for each, or one number"
        return ""

    return Task(
        f"number-{_text(units)}",
        lambda z, y: (error(z, y).abs() <= 1).all(1),
        {"above": lambda z, y: error(z, y).amax(1), "below": lambda z, y: (-error(z, y)).amax(1)},
        near=lambda z, y: error(z, y).abs().amax(1) - 1,
        loss=lambda z, y: error(z, y).square().mean(1),
        divergence=lambda z, clean: error(z, clean).square().mean(1),
        fits=fits,
    )


def _text(units: Sequence[float]) -> str:
    """Return the tolerances for an id: the number, or a hash of several."""
    text = ",".join(f"{value:g}" for value in units)
    plain = text.replace("+", "").replace("-", "m")
    return plain if len(units) == 1 else f"{len(units)}x{hashlib.sha256(text.encode()).hexdigest()[:8]}"
