"""Checks of a challenger for poison: canaries that must stay correct, and the drift from the trusted base.

`advreg.hardening.trigger_inversion` and `advreg.hardening.activation_outliers` search for backdoors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg.attacks.verification import logits_of
from advreg.statistics import noninferiority


@dataclass(frozen=True)
class BackdoorProbe:
    """The result of a check: its name, whether it passed, and one line with the numbers."""

    name: str
    passed: bool
    says: str


def choose_canaries(model: nn.Module, x: Tensor, y: Tensor, per_class: int = 20) -> Tensor:
    """Return the rows that a trusted model classifies correctly with the highest confidence.

    Args:
        model: the trusted base.
        x: images ``(N, C, H, W)`` in [0, 1].
        y: labels ``(N,)``.
        per_class: largest number of rows per class.

    Returns:
        Row numbers, at most ``per_class`` of each class.

    Example:
        >>> model = nn.Flatten()  # the logits are the pixels
        >>> x = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]).view(3, 1, 1, 2)
        >>> choose_canaries(model, x, torch.tensor([0, 0, 1]), per_class=1).tolist()
        [0]
    """
    p = logits_of(model, x).softmax(1)
    right = p.argmax(1) == y
    certain = torch.where(right, p.amax(1), -1.0)
    rows = [_top(certain, y == label, per_class) for label in torch.unique(y).tolist()]
    return torch.cat([mine[certain[mine] > 0] for mine in rows])


def _top(score: Tensor, mine: Tensor, count: int) -> Tensor:
    rows = mine.nonzero()[:, 0]
    return rows[score[rows].argsort(descending=True, stable=True)[:count]]


def canaries(model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[str], least: float = 0.95) -> BackdoorProbe:
    """Check that a challenger classifies enough canaries of each class correctly.

    Args:
        model: the challenger.
        x: the canaries ``(N, C, H, W)`` in [0, 1].
        y: their labels ``(N,)``.
        classes: class names.
        least: share that must be correct in every class.

    Returns:
        The check, with the share of the worst class.

    Example:
        >>> x = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).view(2, 1, 1, 2)
        >>> canaries(nn.Flatten(), x, torch.tensor([0, 1]), ["cat", "dog"]).passed
        True
    """
    right = logits_of(model, x).argmax(1) == y
    shares = {int(label): float(right[y == label].double().mean()) for label in torch.unique(y)}
    worst = min(shares, key=lambda label: shares[label])
    says = f"{int(right.sum())} of {len(y)} right, least in class {classes[worst]} ({shares[worst]:.0%}; {least:.0%} needed)"
    return BackdoorProbe("canaries", shares[worst] >= least, says)


def drift(
    challenger: nn.Module, base: nn.Module, x: Tensor, y: Tensor, *, margin: float = 0.02, alpha: float = 0.05
) -> BackdoorProbe:
    """Check that a challenger is not worse on clean images than the trusted base, over the whole chain of champions.

    The gate compares with the last champion only, so each promotion may lose a little. The exact non-inferiority test against
    the base bounds the sum of the losses by one margin, however long the chain is.

    Args:
        challenger: in eval mode.
        base: the trusted base.
        x: sealed images ``(N, C, H, W)`` in [0, 1].
        y: their labels ``(N,)``.
        margin: accepted loss of clean accuracy over the whole chain.
        alpha: level of the test.

    Returns:
        The check, with the change of clean accuracy.

    Example:
        >>> x, y = torch.rand(400, 1, 1, 2), torch.arange(400) % 2
        >>> drift(nn.Flatten(), nn.Flatten(), x, y, margin=0.05).passed
        True
    """
    after, before = (logits_of(model, x).argmax(1) == y for model in (challenger, base))
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    p = noninferiority(lost, won, len(y), margin)
    says = f"clean accuracy {(won - lost) / len(y):+.2%} since the trusted base, margin {margin:.1%}, p = {p:.2g}"
    return BackdoorProbe("drift", p <= alpha, says)
