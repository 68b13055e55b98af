"""One corruption by name, and the accuracy of a model under all of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from advreg.attacks.corruptions.corruptions import KINDS
from advreg.attacks.corruptions.primitives import Draws
from advreg.attacks.inputs import read_ids, read_images, read_labels, reject_outside
from advreg.attacks.model import Model
from advreg.attacks.verification import logits_of, require_eval_mode
from advreg.errors import DataError, did_you_mean
from advreg.objectives import correct

CORRUPTIONS: tuple[str, ...] = tuple(KINDS)
SEVERITIES = (1, 2, 3, 4, 5)

_LANE = 64
"""Number of random streams reserved for one corruption."""


def corrupt(x: Tensor, name: str, severity: int = 3, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
    """Return images with a common corruption of ImageNet-C.

    Strengths are the published ones; lengths are shares of the image's side. Frost, glass and elastic differ from the
    originals, which need photographs or run pixel by pixel.

    Args:
        x: images ``(B, C, H, W)`` in [0, 1].
        name: one of `CORRUPTIONS`, such as ``"gaussian_noise"``.
        severity: 1 to 5.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the draws, which are the same at every severity.

    Returns:
        Images in [0, 1], with the shape and dtype of ``x``.

    Raises:
        DataError: an unknown name or severity, or inputs that are not images in [0, 1].

    Example:
        >>> x = torch.full((2, 3, 8, 8), 0.2)
        >>> corrupt(x, "brightness", 1)[0, 0, 0, 0].item()
        0.30000001192092896

    Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations",
    ICLR 2019, arXiv:1903.12261.
    """
    if name not in KINDS:
        raise DataError(f"corruption {name!r} is unknown.{did_you_mean(name, KINDS)} Allowed: {', '.join(KINDS)}")
    if severity not in SEVERITIES:
        raise DataError(f"severity is {severity}; allowed: 1 to 5")
    x = _read_images(x)
    ids = read_ids(ids, x)
    draws = Draws(ids, seed, CORRUPTIONS.index(name) * _LANE)
    return KINDS[name](x, severity - 1, draws).clamp(0, 1)


def corruption_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    severities: Iterable[int] = SEVERITIES,
    names: Iterable[str] = CORRUPTIONS,
    *,
    ids: Tensor | None = None,
    seed: int = 0,
    batch_size: int = 512,
) -> dict[str, dict[int, float]]:
    """Return the accuracy of a model under each corruption at each severity.

    Args:
        model: any function from images ``(B, C, H, W)`` to scores ``(B, K)``; a module must be in eval mode.
        x: images ``(B, C, H, W)`` in [0, 1].
        y: labels ``(B,)``.
        severities: severities from 1 to 5.
        names: names of corruptions.
        ids: example ids ``(B,)``; the random draws of an example depend on its id and the seed only; 0 to B-1 if None.
        seed: seed of the random draws.
        batch_size: images in one forward.

    Returns:
        ``{name: {severity: accuracy}}``.

    Raises:
        ModelError: train mode, or wrong output.
        DataError: an unknown name or severity, or inputs that are not images in [0, 1].

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
        >>> x = torch.rand(6, 1, 8, 8)
        >>> corruption_accuracy(model, x, model(x).argmax(1), [1], ["contrast"]).keys()
        dict_keys(['contrast'])
    """
    require_eval_mode(model)
    x = _read_images(x)
    y, ids = read_labels(y, x), read_ids(ids, x)
    severities = tuple(severities)

    def accuracy(name: str, severity: int) -> float:
        right = 0
        for rows in torch.split(torch.arange(len(x)), batch_size):
            images = corrupt(x[rows], name, severity, ids=ids[rows], seed=seed)
            right += int(correct(logits_of(model, images), y[rows]).sum())
        return right / len(x)

    return {name: {severity: accuracy(name, severity) for severity in severities} for name in names}


def _read_images(x: Tensor) -> Tensor:
    """Return images as floats ``(B, C, H, W)`` in [0, 1]."""
    x = read_images(x)
    reject_outside(x, (0.0, 1.0))
    return x
