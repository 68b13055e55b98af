"""Adversarial weight perturbation: descend at the weights' own worst case, a little uphill from where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advreg import distributed
from advreg.errors import ConfigError
from advreg.threat import ThreatModel
from advreg.training.recipes.base import Attack, InnerResult, disable_early_stop


@contextmanager
def perturb_weights(model: nn.Module, loss: Callable[[], Tensor], gamma: float = 0.005) -> Iterator[nn.Module]:
    """Move the weights uphill inside the block, ``w + gamma ||w|| g / ||g||`` layer by layer, and take it off after it.

    The optimizer's step belongs inside the block: it starts from the perturbed weights with the gradient there, and afterwards
    the perturbation alone is subtracted. Only weights of two dimensions or more change; no bias, no BatchNorm, no buffer.

    Args:
        model: the plain network, not its data-parallel wrapper; all processes of a distributed run apply the same perturbation.
        loss: the loss to increase, evaluated once before the block; its changes of buffers are undone.
        gamma: length of the perturbation relative to the layer; 0.01 for `madry`, 0.005 for `trades`, 0 for none.

    Raises:
        ConfigError: a gamma below zero, or weights that FSDP has cut into shards.

    Example:
        >>> model, x, y = nn.Linear(4, 3), torch.rand(2, 4), torch.tensor([0, 1])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with perturb_weights(model, lambda: nn.functional.cross_entropy(model(x), y), gamma=0.01):
        ...     nn.functional.cross_entropy(model(x), y).backward()
        ...     optimizer.step()

    Reference: Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS 2020.
    """
    if not gamma >= 0:
        raise ConfigError(f"gamma is {gamma}; give the size of the weight perturbation, 0 or more, such as 0.005")
    if gamma:
        _reject_shards(model)
    weights = [w for w in model.parameters() if w.ndim > 1 and w.requires_grad] if gamma else []
    moves = uphill(model, loss, weights, gamma) if weights else []
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
    try:
        yield model
    finally:
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.sub_(move)


def _reject_shards(model: nn.Module) -> None:
    """Raise for weights that are sharded over processes: the perturbation is relative to the norm of a whole layer."""
    for name, weight in model.named_parameters():
        if hasattr(weight, "placements") or getattr(weight, "_is_flat_param", False):
            raise ConfigError(
                f"{name} is cut into shards by FSDP, and adversarial weight perturbation measures whole layers; "
                "spread the model with DistributedDataParallel, or leave awp out"
            )


def uphill(model: nn.Module, loss: Callable[[], Tensor], weights: list[nn.Parameter], gamma: float) -> list[Tensor]:
    """Return ``gamma ||w|| g / ||g||`` for each weight, zero where the gradient vanishes; the model is left as it was.

    Args:
        model: the network.
        loss: computes the loss with a graph.
        weights: weights to perturb.
        gamma: size of the perturbation relative to the norm of each weight.

    Returns:
        Tensors shaped like the weights.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> step = uphill(layer, lambda: layer.weight.sum(), [layer.weight], gamma=0.5)[0]
        >>> bool(torch.isclose(step, 0.5 * layer.weight.abs()).all())
        True

    Reference: Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS 2020, arXiv:2004.05884.
    """
    with buffers_kept(model), torch.enable_grad():
        grads = torch.autograd.grad(loss(), weights, allow_unused=True)
    found = [torch.zeros_like(w) if g is None else g.nan_to_num() for w, g in zip(weights, grads, strict=True)]
    distributed.sum_in_place(*found)  # directions only: a sum points where the mean does
    return [gamma * w.detach().norm() / g.norm().clamp_min(1e-30) * g for w, g in zip(weights, found, strict=True)]


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo the changes that forwards inside the block make to the model's buffers, such as statistics of BatchNorm.

    Args:
        model: the network.
    """
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def once(attack: Attack) -> Attack:
    """Return an attack for one batch that searches for the worst case once and returns the same points when called again.

    The loss that perturbs the weights and the loss that is minimised then use the same points.

    Args:
        attack: any attack.
    """
    found: list[InnerResult] = []
    whole = disable_early_stop(attack)

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: object) -> InnerResult:
        if not found:
            found.append(whole(model, x, y, threat, **options))
        return found[0]

    return attacked
