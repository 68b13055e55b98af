"""Recipes on split BatchNorm: AR-AT with its predictor heads, and AdvProp, the same without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.model import query_model, widen
from advreg.errors import ModelError
from advreg.models.split_batchnorm import Route, splits, use_route
from advreg.objectives import correct
from advreg.threat import ThreatModel
from advreg.training.recipes.base import (
    Attack,
    Recipe,
    Share,
    Smoothing,
    Weight,
    check_loss,
    label_loss,
    worst_case,
)


@check_loss
def ar_at(
    invariance: Weight = 30.0, balance: Literal["auto"] | Share = "auto", label_smoothing: Smoothing = 0.0
) -> Recipe:
    """Train attacked features to predict clean ones, with separate BatchNorms for clean and attacked inputs.

    ``w CE(f_adv(x_adv), y) + (1 - w) CE(f_clean(x), y) + invariance mean_l (1 - cos(h_l(F_adv_l(x_adv)), F_clean_l(x)))``,
    ``F_l`` the output of a BatchNorm that has a predictor ``h_l``, after ReLU, averaged over positions; clean features get
    no gradient from the last term.

    Args:
        invariance: weight of the last term, which needs `split_batchnorm` with ``predictors``; 0 for none.
        balance: ``w``; ``"auto"`` is the clean accuracy on this batch, where the paper takes that of the last epoch.
        label_smoothing: share of each label that is spread evenly over all classes.

    Returns:
        The recipe, for a model from `split_batchnorm`.

    Raises:
        ModelError: on a model that is not split, or that has no predictor where ``invariance`` is above 0.

    Example:
        >>> import advreg
        >>> from advreg.training.recipes import split_batchnorm
        >>> model = split_batchnorm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), predictors=["1"])
        >>> x, y = torch.rand(6, 4), torch.arange(6) % 3
        >>> ar_at()(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Waseda, Chang, Echizen, "Rethinking invariance regularization in adversarial training to improve
    robustness-accuracy trade-off", ICLR 2025, arXiv:2402.14648.
    """

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        if invariance and not any(norm.predictor for norm in splits(model).values()):
            raise ModelError("ar_at needs predictors: split_batchnorm(model, predictors=[...]), or invariance = 0")
        z, clean, z_adv, attacked = _both_routes(model, x, y, attack, threat)
        share = correct(z, y).float().mean() if balance == "auto" else balance
        return (
            share * label_loss(z_adv, y, label_smoothing)
            + (1 - share) * label_loss(z, y, label_smoothing)
            + (invariance * _unlikeness(model, clean, attacked) if invariance else 0.0)
        )

    return loss


@check_loss
def advprop(label_smoothing: Smoothing = 0.0) -> Recipe:
    """Let attacked inputs teach the shared weights: ``CE(f_clean(x), y) + CE(f_adv(x_adv), y)``.

    It aims at clean accuracy: deploy ``merge_batchnorm(model, "clean")``.

    Args:
        label_smoothing: share of each label that is spread evenly over all classes.

    Returns:
        The recipe, for a model from `split_batchnorm`.

    Raises:
        ModelError: on a model that is not split.

    Example:
        >>> import advreg
        >>> from advreg.training.recipes import split_batchnorm
        >>> model = split_batchnorm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)))
        >>> x, y = torch.rand(6, 4), torch.arange(6) % 3
        >>> advprop()(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1)).backward()

    Reference: Xie et al., "Adversarial examples improve image recognition", CVPR 2020, arXiv:1911.09665.
    """
    half = ar_at(invariance=0.0, balance=0.5, label_smoothing=label_smoothing)

    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        return 2 * half(model, x, y, attack, threat)

    return loss


Features = dict[str, Tensor]


def _both_routes(
    model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel
) -> tuple[Tensor, Features, Tensor, Features]:
    """Return logits and features of clean inputs by the clean route, then of attacked ones by the other."""
    with use_route(model, "adv"):
        x_adv = worst_case(model, x, y, attack, threat)
    return *_answer(model, x, "clean"), *_answer(model, x_adv, "adv")


def _answer(model: nn.Module, x: Tensor, route: Route) -> tuple[Tensor, Features]:
    with use_route(model, route), _features(model) as features:
        return query_model(model, x), features


@contextmanager
def _features(model: nn.Module) -> Iterator[Features]:
    """Collect by name the output of each BatchNorm with a predictor, after ReLU, averaged over positions."""
    features: Features = {}

    def keep(name: str, out: Tensor) -> None:
        features[name] = widen(out).relu().flatten(2).mean(2) if out.ndim > 2 else widen(out).relu()

    with ExitStack() as hooks:
        for name, norm in splits(model).items():
            if norm.predictor is not None:
                hook = norm.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
                hooks.callback(hook.remove)
        yield features


def _unlikeness(model: nn.Module, clean: Features, attacked: Features) -> Tensor:
    """Return ``1 - cos`` of predicted and clean features, the mean over examples and layers."""
    norms = splits(model)
    likeness = [
        F.cosine_similarity(query_model(norms[name].predictor, attacked[name]), clean[name].detach())  # type: ignore[arg-type]
        for name in attacked
    ]
    return 1 - torch.stack(likeness).mean()
