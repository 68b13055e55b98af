"""Recipes on split BatchNorm: AR-AT with its predictor heads, and AdvProp, the same without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import distributed
from advreg.attacks.inputs import read_pair
from advreg.attacks.model import query_model, widen
from advreg.errors import ModelError
from advreg.models.split_batchnorm import Route, splits, use_route
from advreg.objectives import correct
from advreg.threat import ThreatModel
from advreg.training.per_example_state import Saved
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
        balance: ``w``; ``"auto"`` is the accuracy on the clean inputs of the last epoch, ``1 / K`` in the first, as in the
            paper. In a loop that does not call `advreg.training.per_example_state.start_epoch`, it is that on this batch.
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
    return TwoRoutes(invariance, balance, label_smoothing)


class TwoRoutes:
    """The recipe that `ar_at` makes; its state is the number of correct clean predictions in this epoch and the last."""

    def __init__(self, invariance: float, balance: Literal["auto"] | float, label_smoothing: float) -> None:
        self.invariance, self.balance = invariance, balance
        self.label_smoothing = label_smoothing
        self.last: Tensor | None = None
        self.now = torch.zeros(2)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        """Return the loss.

        Args:
            model: a network that `split_batchnorm` made.
            x: inputs ``(B, ...)`` inside the box.
            y: labels ``(B,)`` or probabilities ``(B, K)``.
            attack: the inner attack.
            threat: norm, eps and box.

        Returns:
            A scalar.

        Raises:
            DataError: a batch that does not fit together, or inputs outside the threat's box.
            ModelError: a model that is not split, or that has no predictor where one is needed.
        """
        x, y = read_pair(x, y)
        if self.invariance and not any(norm.predictor for norm in splits(model).values()):
            raise ModelError("ar_at needs predictors: split_batchnorm(model, predictors=[...]), or invariance = 0")
        z, clean, z_adv, attacked = _both_routes(model, x, y, attack, threat)
        share = self._share(correct(z, y), z.shape[1]) if self.balance == "auto" else self.balance
        return (
            share * label_loss(z_adv, y, self.label_smoothing)
            + (1 - share) * label_loss(z, y, self.label_smoothing)
            + (self.invariance * _unlikeness(model, clean, attacked) if self.invariance else 0.0)
        )

    def start_epoch(self, epoch: int) -> None:
        """Weigh this epoch by the accuracy of the one that ends; 1 for the first."""
        self.last, self.now = self.now, torch.zeros_like(self.now)

    def share(self) -> None:
        """Give every rank the mean of the counts."""
        distributed.sum_in_place(self.now)
        self.now = self.now / distributed.current_ranks().world_size

    def state_dict(self) -> Saved:
        """Return the counts of this epoch, and of the last where an epoch has started."""
        return {"now": self.now, **({} if self.last is None else {"last": self.last})}

    def load_state_dict(self, state: Saved) -> None:
        """Restore counts that `state_dict` returned."""
        self.now, self.last = state["now"].clone(), state.get("last")

    def _share(self, hits: Tensor, classes: int) -> Tensor:
        """Return ``w``, and count the clean predictions of this batch."""
        hits = hits.float()
        self.now = self.now.to(hits.device) + torch.stack([hits.sum(), hits.new_tensor(len(hits))])
        if self.last is None:
            return hits.mean()
        right, total = self.last.to(hits.device)
        return torch.where(total > 0, right / total.clamp_min(1), 1 / classes)


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
