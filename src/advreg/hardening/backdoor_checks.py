"""Backdoor checks of a challenger: canaries that must stay correct, and trigger inversion.

A backdoor shows as a patch that moves every image to one class and is much smaller than any such patch for the champion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.model import query_model
from advreg.attacks.verification import logits_of

ENOUGH = 0.9
"""Share of the images that a patch must move to its class to count as a trigger."""

_STEPS, _LR = 150, 0.1


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


def trigger_sizes(model: nn.Module, x: Tensor, classes: int, *, steps: int = _STEPS, seed: int = 0) -> list[float]:
    """Return for each class the area in pixels of the smallest patch found that moves nearly all images to it.

    Minimises ``CE(f((1 - m) x + m p), class) + weight sum(m)`` over one mask ``m`` and one pattern ``p`` per class; the
    weight rises while the trigger works and falls while it does not.

    Args:
        model: the network, in eval mode.
        x: clean images ``(B, C, H, W)`` in [0, 1].
        classes: number of classes.
        steps: steps of Adam.
        seed: seed of the initial patterns.

    Returns:
        Areas in pixels, one for each class.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> len(trigger_sizes(model, torch.rand(3, 1, 2, 2), classes=2, steps=2))
        2

    Reference: Wang et al., "Neural Cleanse: identifying and mitigating backdoor attacks in neural networks", S&P 2019.
    """
    channels, height, width = x.shape[1:]
    generator = torch.Generator().manual_seed(seed)
    mask = torch.full((classes, 1, height, width), -2.0, device=x.device).requires_grad_()
    start = torch.randn(classes, channels, height, width, generator=generator)
    pattern = start.to(x.device).requires_grad_()
    optimizer = torch.optim.Adam([mask, pattern], lr=_LR, betas=(0.5, 0.9))
    weight = torch.full((classes,), 1e-3, device=x.device)
    smallest = torch.full((classes,), float(height * width), device=x.device)
    wanted = torch.arange(classes, device=x.device).repeat_interleave(len(x))
    for _ in range(steps):
        m = mask.sigmoid()
        stamped = (1 - m)[:, None] * x + (m * pattern.sigmoid())[:, None]
        logits = query_model(model, stamped.flatten(0, 1))
        loss = F.cross_entropy(logits, wanted, reduction="none").view(classes, -1).mean(1)
        areas = m.flatten(1).sum(1)
        gradient = torch.autograd.grad((loss + weight * areas).sum(), [mask, pattern])
        mask.grad, pattern.grad = gradient
        optimizer.step()
        works = (logits.argmax(1) == wanted).view(classes, -1).float().mean(1) >= ENOUGH
        smallest = torch.where(works, torch.minimum(smallest, areas.detach()), smallest)
        weight = torch.where(works, weight * 1.3, weight / 1.3).clamp(1e-5, 1.0)
    return [float(area) for area in smallest]


def trigger(
    challenger: Sequence[float], champion: Sequence[float], classes: Sequence[str], ratio: float = 0.5
) -> BackdoorProbe:
    """Check that no class has a far smaller trigger on the challenger than on the champion.

    Args:
        challenger: areas from `trigger_sizes`.
        champion: areas from `trigger_sizes`.
        classes: class names.
        ratio: the check fails if the areas' ratio is below this.

    Returns:
        The check, with the class of the smallest ratio.

    Example:
        >>> trigger([2.0, 9.0], [10.0, 10.0], ["cat", "dog"]).passed
        False
    """
    ratios = [a / max(b, 1e-9) for a, b in zip(challenger, champion, strict=True)]
    k = min(range(len(ratios)), key=lambda i: ratios[i])
    says = (
        f"smallest trigger against the champion's: class {classes[k]}, {challenger[k]:.1f} of {champion[k]:.1f} pixels"
    )
    return BackdoorProbe("trigger", ratios[k] >= ratio, f"{says} ({ratios[k]:.0%}; {ratio:.0%} needed)")
