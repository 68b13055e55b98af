"""Split BatchNorm: one set of statistics and weights for clean inputs, another for attacked ones, the rest shared."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from advreg.errors import ModelError, did_you_mean

Route = Literal["clean", "adv"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SplitBatchNorm(nn.Module):
    """Two BatchNorms that start equal; `use_route` selects one of them, and ``adv`` is the default.

    Args:
        norm: the BatchNorm to split.
        predictor: whether to add the head with which `ar_at` predicts clean features from attacked ones.

    Example:
        >>> import torch
        >>> norm, x = SplitBatchNorm(nn.BatchNorm1d(2)), torch.rand(4, 2)
        >>> _ = norm(x)
        >>> int(norm.adv.num_batches_tracked), int(norm.clean.num_batches_tracked)
        (1, 0)
    """

    def __init__(self, norm: nn.Module, *, predictor: bool = False) -> None:
        super().__init__()
        self.clean, self.adv = copy.deepcopy(norm), norm
        self.predictor = _predictor(int(norm.num_features)) if predictor else None  # type: ignore[arg-type]
        self.route: Route = "adv"

    def forward(self, x: Tensor) -> Tensor:
        """Normalise with the BatchNorm of the current route."""
        out: Tensor = (self.clean if self.route == "clean" else self.adv)(x)
        return out


def _predictor(width: int) -> nn.Module:
    narrow = max(1, width // 4)
    return nn.Sequential(
        nn.Linear(width, narrow, bias=False), nn.BatchNorm1d(narrow), nn.ReLU(), nn.Linear(narrow, width)
    )


def split_batchnorm(model: nn.Module, predictors: Collection[str] | int = (), route: Route = "adv") -> nn.Module:
    """Return a copy of a model with every BatchNorm split in two; both halves start as the original.

    Build the optimizer afterwards: the copy is trained.

    Args:
        model: a network with BatchNorms, each used under one name.
        predictors: names of the BatchNorms that get a predictor head, for `ar_at`, or how many of the last ones get it; those
            of the last stage in the paper.
        route: the route outside of `use_route`.

    Returns:
        The copy, in the mode of ``model``.

    Raises:
        ModelError: a model without BatchNorm, split already, or a predictor at a module that is not a BatchNorm.

    Example:
        >>> model = split_batchnorm(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
        >>> type(model[1]).__name__
        'SplitBatchNorm'

    Reference: Xie et al., "Adversarial examples improve image recognition", CVPR 2020, arXiv:1911.09665.
    """
    if any(isinstance(module, SplitBatchNorm) for module in model.modules()):
        raise ModelError("the model's BatchNorms are split already; give the model as it was before")
    names = [name for name, module in model.named_modules() if name and isinstance(module, _NORMS)]
    if not names:
        raise ModelError(f"{type(model).__name__} has no BatchNorm to split; give a model with some, or another recipe")
    chosen = _chosen(predictors, names)
    split = copy.deepcopy(model)
    for name in names:
        norm = split.get_submodule(name)
        pair = SplitBatchNorm(norm, predictor=name in chosen).train(norm.training)
        pair.route = route
        _put(split, name, pair)
    return split


def _chosen(predictors: Collection[str] | int, names: list[str]) -> Collection[str]:
    """Return the names of the BatchNorms that get a predictor head."""
    if isinstance(predictors, int):
        if not 0 <= predictors <= len(names):
            raise ModelError(f"{predictors} BatchNorms cannot have a predictor; there are {len(names)}")
        return names[len(names) - predictors :]
    for name in predictors:
        if name not in names:
            hint = did_you_mean(name, names)
            raise ModelError(f"there is no BatchNorm {name!r} for a predictor; allowed: {', '.join(names)}.{hint}")
    return predictors


def merge_batchnorm(model: nn.Module, route: Route = "adv") -> nn.Module:
    """Return a copy with plain BatchNorms again, those of one route, and no predictors: a model to keep and deploy.

    Args:
        model: a model that `split_batchnorm` made.
        route: ``"adv"`` for the robust model, ``"clean"`` for the accurate one.

    Returns:
        The copy; its state dict has the names of the network before the split.

    Raises:
        ModelError: a model that is not split.

    Example:
        >>> plain = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        >>> merge_batchnorm(split_batchnorm(plain)).state_dict().keys() == plain.state_dict().keys()
        True
    """
    merged = copy.deepcopy(model)
    for name, norm in splits(merged).items():
        _put(merged, name, norm.clean if route == "clean" else norm.adv)
    return merged


@contextmanager
def use_route(model: nn.Module, route: Route) -> Iterator[nn.Module]:
    """Use the BatchNorms of one route inside the block; the previous routes are restored after it.

    Args:
        model: a model that `split_batchnorm` made.
        route: ``"clean"`` or ``"adv"``.

    Yields:
        The same model.

    Raises:
        ModelError: a model that is not split.

    Example:
        >>> model = split_batchnorm(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4)))
        >>> with use_route(model, "clean"):
        ...     model[1].route
        'clean'
        >>> model[1].route
        'adv'
    """
    before = [(norm, norm.route) for norm in splits(model).values()]
    for norm, _ in before:
        norm.route = route
    try:
        yield model
    finally:
        for norm, old in before:
            norm.route = old


def splits(model: nn.Module) -> dict[str, SplitBatchNorm]:
    """Return the split BatchNorms of a model by name.

    Args:
        model: a model that `split_batchnorm` made.

    Returns:
        Modules by name.

    Raises:
        ModelError: there are none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, SplitBatchNorm)}
    if not found:
        raise ModelError(f"{type(model).__name__} has no split BatchNorm; make one with recipes.split_batchnorm(model)")
    return found


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
