"""Trigger inversion: for each class the smallest change, the same for all images, that moves nearly all of them to it.

A backdoor shows as a class with a far smaller trigger than a trusted model needs. Two kinds of trigger are sought: a
patch that replaces pixels (its area), and a pattern that is added to the whole image (its l2 norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.model import query_model
from advreg.hardening.backdoor_checks import BackdoorProbe

ENOUGH = 0.9
"""Share of the images that a change must move to its class to count as a trigger."""

OUTLIER, SMALLER = 3.5, 0.7
"""A class is an outlier if it lies this many deviations below the median of the classes, and is at most this part of it."""

_STEPS, _LR = 150, 0.1
_LEAST_CLASSES = 5  # fewer have no meaningful median absolute deviation
_LEAST_DEVIATION = 0.05  # of logarithms: equal ratios to within 5% are no outliers


def trigger_sizes(model: nn.Module, x: Tensor, classes: int, *, steps: int = _STEPS, seed: int = 0) -> list[float]:
    """Return for each class the area in pixels of the smallest patch found that moves nearly all images to it.

    Minimises ``CE(f((1 - m) x + m p), class) + weight sum(m)`` over one mask ``m`` and one pattern ``p`` per class; the
    weight rises while the trigger works and falls while it does not.

    Args:
        model: in eval mode.
        x: clean images ``(B, C, H, W)`` in [0, 1].
        classes: number of classes.
        steps: steps of Adam.
        seed: of the initial patterns.

    Returns:
        Areas in pixels, one for each class.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> len(trigger_sizes(model, torch.rand(3, 1, 2, 2), classes=2, steps=2))
        2

    Reference: Wang et al., "Neural Cleanse: identifying and mitigating backdoor attacks in neural networks", S&P 2019.
    """
    mask = torch.full((classes, 1, *x.shape[2:]), -2.0, device=x.device).requires_grad_()
    pattern = _normal((classes, *x.shape[1:]), seed).to(x.device).requires_grad_()

    def stamp() -> Tensor:
        m = mask.sigmoid()
        return (1 - m)[:, None] * x + (m * pattern.sigmoid())[:, None]

    def areas() -> Tensor:
        return mask.sigmoid().flatten(1).sum(1)

    return _smallest(model, (mask, pattern), stamp, areas, whole=float(x[0, 0].numel()), images=len(x), steps=steps)


def pattern_norms(model: nn.Module, x: Tensor, classes: int, *, steps: int = _STEPS, seed: int = 0) -> list[float]:
    """Return for each class the l2 norm of the smallest pattern found that, added to nearly all images, moves them to it.

    Minimises ``CE(f(clip(x + p)), class) + weight |p|_2`` over one pattern ``p`` per class.

    Args:
        model: in eval mode.
        x: clean images ``(B, C, H, W)`` in [0, 1].
        classes: number of classes.
        steps: steps of Adam.
        seed: of the initial patterns.

    Returns:
        Norms, one for each class.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
        >>> len(pattern_norms(model, torch.rand(3, 1, 2, 2), classes=2, steps=2))
        2

    Reference: Moosavi-Dezfooli et al., "Universal adversarial perturbations", CVPR 2017.
    """
    pattern = (0.02 * _normal((classes, *x.shape[1:]), seed)).to(x.device).requires_grad_()

    def stamp() -> Tensor:
        return (x + pattern[:, None]).clamp(0, 1)

    def norms() -> Tensor:
        found: Tensor = torch.linalg.vector_norm(pattern.flatten(1), dim=1)
        return found

    return _smallest(
        model, (pattern,), stamp, norms, whole=math.sqrt(x[0].numel()), images=len(x), steps=steps, lr=_LR / 10
    )


def _normal(shape: Sequence[int], seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _smallest(
    model: nn.Module,
    parameters: Sequence[Tensor],
    stamp: Callable[[], Tensor],
    sizes: Callable[[], Tensor],
    *,
    whole: float,
    images: int,
    steps: int,
    lr: float = _LR,
) -> list[float]:
    """Return the smallest working size of each class; ``whole`` for a class without a working trigger."""
    classes, device = len(parameters[0]), parameters[0].device
    optimizer = torch.optim.Adam(list(parameters), lr=lr, betas=(0.5, 0.9))
    weight = torch.full((classes,), 1e-3, device=device)
    smallest = torch.full((classes,), whole, device=device)
    wanted = torch.arange(classes, device=device).repeat_interleave(images)
    for _ in range(steps):
        logits, size = query_model(model, stamp().flatten(0, 1)), sizes()
        loss = F.cross_entropy(logits, wanted, reduction="none").view(classes, -1).mean(1)
        gradients = torch.autograd.grad((loss + weight * size).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        works = (logits.argmax(1) == wanted).view(classes, -1).float().mean(1) >= ENOUGH
        smallest = torch.where(works, torch.minimum(smallest, size.detach()), smallest)
        weight = torch.where(works, weight * 1.3, weight / 1.3).clamp(1e-5, 1.0)
    return [float(size) for size in smallest]


def trigger(
    challenger: Sequence[float],
    trusted: Mapping[str, Sequence[float]],
    classes: Sequence[str],
    name: str = "trigger",
    ratio: float = 0.5,
) -> BackdoorProbe:
    """Check that no class has a far smaller trigger on the challenger than on each trusted model.

    Against the base, a class also fails as an outlier among the classes (median absolute deviation of the logarithms of the
    ratios): training on attacks makes all triggers larger, and would hide one class that grew less.

    Args:
        challenger: sizes from `trigger_sizes` or `pattern_norms`.
        trusted: name -> sizes of a trusted model: ``base``, ``champion``.
        classes: class names.
        name: name of the check.
        ratio: the check fails if a size is less than this part of the trusted model's.

    Returns:
        The check, with the class of the smallest ratio.

    Example:
        >>> trigger([2.0, 9.0], {"base": [10.0, 10.0]}, ["cat", "dog"]).passed
        False
    """
    worst = min((_worst(challenger, sizes, model) for model, sizes in trusted.items()), key=lambda found: found[0])
    part, k, model = worst
    says = (
        f"smallest trigger against the {model}'s: class {classes[k]}, {challenger[k]:.1f} of {trusted[model][k]:.1f}"
        f" ({part:.0%}; {ratio:.0%} needed)"
    )
    outlier = find_outlier(challenger, trusted["base"]) if "base" in trusted else None
    if outlier is not None:
        says += f"; class {classes[outlier]} lies far below the other classes"
    return BackdoorProbe(name, part >= ratio and outlier is None, says)


def _worst(challenger: Sequence[float], trusted: Sequence[float], model: str) -> tuple[float, int, str]:
    """Return the smallest ratio of sizes, its class and the trusted model's name."""
    ratios = [a / max(b, 1e-9) for a, b in zip(challenger, trusted, strict=True)]
    k = min(range(len(ratios)), key=lambda i: ratios[i])
    return ratios[k], k, model


def find_outlier(challenger: Sequence[float], base: Sequence[float]) -> int | None:
    """Return the class of the trigger that shrank far more than the others, or None.

    Args:
        challenger: a size per class.
        base: the trusted base's.

    Example:
        >>> find_outlier([30.0, 31.0, 9.0, 29.0, 33.0], [10.0] * 5), find_outlier([30.0, 31.0, 28.0, 29.0, 33.0], [10.0] * 5)
        (2, None)
    """
    logs = [math.log(max(a, 1e-9) / max(b, 1e-9)) for a, b in zip(challenger, base, strict=True)]
    k, middle = min(range(len(logs)), key=lambda i: logs[i]), median(logs)
    deviation = max(1.4826 * median(abs(one - middle) for one in logs), _LEAST_DEVIATION)
    far = middle - logs[k] > OUTLIER * deviation and math.exp(logs[k] - middle) < SMALLER
    return k if far and len(logs) >= _LEAST_CLASSES else None
