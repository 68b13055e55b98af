"""Probes of a challenger for poison: canaries that must stay right, and the search for a trigger.

A backdoor shows as a patch that turns every image into one class and is much smaller than any such patch of the champion.
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
"""Share of the images that a trigger must turn to count as one."""

_STEPS, _LR = 150, 0.1


@dataclass(frozen=True)
class BackdoorProbe:
    """What a probe found."""

    name: str
    passed: bool
    says: str


def choose_canaries(model: nn.Module, x: Tensor, y: Tensor, per_class: int = 20) -> Tensor:
    """Return the rows that a trusted model is most certain and right about, up to ``per_class`` of each class."""
    p = logits_of(model, x).softmax(1)
    right = p.argmax(1) == y
    certain = torch.where(right, p.amax(1), -1.0)
    rows = [_top(certain, y == label, per_class) for label in torch.unique(y).tolist()]
    return torch.cat([mine[certain[mine] > 0] for mine in rows])


def _top(score: Tensor, mine: Tensor, count: int) -> Tensor:
    rows = mine.nonzero()[:, 0]
    return rows[score[rows].argsort(descending=True, stable=True)[:count]]


def canaries(model: nn.Module, x: Tensor, y: Tensor, classes: Sequence[str], least: float = 0.95) -> BackdoorProbe:
    """Probe whether a challenger is still right about each class's canaries, ``least`` of them."""
    right = logits_of(model, x).argmax(1) == y
    shares = {int(label): float(right[y == label].double().mean()) for label in torch.unique(y)}
    worst = min(shares, key=lambda label: shares[label])
    says = f"{int(right.sum())} of {len(y)} right, least in class {classes[worst]} ({shares[worst]:.0%}; {least:.0%} needed)"
    return BackdoorProbe("canaries", shares[worst] >= least, says)


def trigger_sizes(model: nn.Module, x: Tensor, classes: int, *, steps: int = _STEPS, seed: int = 0) -> list[float]:
    """Return for each class the area in pixels of the smallest patch found that turns nearly all images into it.

    Minimises ``CE(f((1 - m) x + m p), class) + weight sum(m)`` over one mask ``m`` and one pattern ``p`` a class, with a
    weight that rises while the trigger works and falls while it does not.

    Args:
        model: in eval mode.
        x: clean images ``(B, C, H, W)`` in [0, 1].
        classes: how many.
        steps: of Adam.
        seed: of the patterns' starts.

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
    """Probe whether some class needs a far smaller trigger than it needs on the champion.

    Args:
        challenger, champion: areas from `trigger_sizes`.
        classes: names.
        ratio: of the two areas, below which the challenger is suspected.
    """
    ratios = [a / max(b, 1e-9) for a, b in zip(challenger, champion, strict=True)]
    k = min(range(len(ratios)), key=lambda i: ratios[i])
    says = (
        f"smallest trigger against the champion's: class {classes[k]}, {challenger[k]:.1f} of {champion[k]:.1f} pixels"
    )
    return BackdoorProbe("trigger", ratios[k] >= ratio, f"{says} ({ratios[k]:.0%}; {ratio:.0%} needed)")
