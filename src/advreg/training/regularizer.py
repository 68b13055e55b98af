"""Adversarial regularization of a model: its loss plus a weighted loss at the worst input nearby."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import craft, pgd
from advreg.attacks.inputs import into_box, read_inputs
from advreg.attacks.model import query_model
from advreg.errors import ConfigError, DataError
from advreg.models.normalize import Normalize, normalized
from advreg.models.preprocessing import statistics_of
from advreg.module_modes import eval_mode
from advreg.threat import Norm, ThreatModel
from advreg.training import recipes
from advreg.training.recipes import Attack, Recipe

_ON_ATTACKED = recipes.madry()


class AdversarialRegularization(nn.Module):
    """A model with an adversarial term in its training loss: ``CE(f(x), y) + multiplier CE(f(x_adv), y)``.

    ``x_adv`` is one gradient step from ``x`` by default. Called with ``(x)`` it returns logits, with ``(x, y)`` the training
    loss; `regularizer` returns the adversarial term alone, to add to a loss of your own. For data-parallel training, wrap
    this module, not the network: the attack inside then evaluates the plain network.

    Args:
        model: network that returns logits ``(B, K)``; it is shared, not copied: train this module, save ``.model``.
        threat: norm, eps and box of the perturbation; or give ``step_size`` and ``norm`` instead.
        multiplier: weight of the adversarial term.
        step_size: length of the gradient step in the norm; by default the threat's eps. Without a threat it is eps too.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``, where no threat is given; ``"linf"`` by default.
        recipe: another loss: ``model(x, y)`` is then the recipe's loss, and the regularizer ``multiplier`` times it.
        attack: search for the worst case; by default one step from the clean input.
        mean, std: one number a channel, with which the inputs were normalised; empty for pixels. Eps counts in pixels.
        preprocessing: the same as another library states it, such as an image processor; see `advreg.normalized`.

    Raises:
        ConfigError: options that exclude each other, a negative multiplier, or one of mean and std without the other.

    Example:
        >>> import torch
        >>> model = AdversarialRegularization(nn.Linear(4, 3), multiplier=0.2, step_size=0.05, norm="l2")
        >>> x, y = torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> model(x, y).backward()
        >>> model(x).shape
        torch.Size([2, 3])

    Reference: Goodfellow, Shlens, Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015 (arXiv:1412.6572);
    multiplier, step size and norm as in Neural Structured Learning.
    """

    def __init__(
        self,
        model: nn.Module,
        threat: ThreatModel | None = None,
        *,
        multiplier: float = 0.2,
        step_size: float | None = None,
        norm: Norm | None = None,
        recipe: Recipe | None = None,
        attack: Attack | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        preprocessing: Any = None,
    ) -> None:
        super().__init__()
        if preprocessing is not None:
            mean, std = _numbers_of(preprocessing, mean)
        self.model = model
        self.threat = _threat(threat, step_size, norm)
        self.multiplier = multiplier
        self.recipe = recipe
        self._training_loss = recipe or recipes.multiplier(multiplier)
        self.attack = _attack(attack, None if threat is None else step_size)
        self.mean, self.std = _channels(mean), _channels(std)
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean has {len(self.mean)} numbers, std {len(self.std)}; give both, a number a channel, or neither"
            )

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return logits ``(B, K)``, or, where labels are given, the training loss, a scalar.

        Args:
            x: inputs ``(B, ...)``.
            y: labels ``(B,)``.

        Raises:
            DataError: inputs outside the threat model's box, with labels.
        """
        if y is None:
            return query_model(self.model, x)
        return self._loss(self._training_loss, x, y)

    def regularizer(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the adversarial term alone, ``multiplier CE(f(x_adv), y)``, a scalar with gradient.

        Args:
            x: inputs ``(B, ...)``.
            y: labels ``(B,)``.

        Raises:
            DataError: inputs outside the threat model's box.

        Example:
            >>> model = AdversarialRegularization(nn.Linear(4, 3), ThreatModel("linf", 8 / 255))
            >>> model.regularizer(torch.full((2, 4), 0.5), torch.tensor([0, 1])).ndim
            0
        """
        return self.multiplier * self._loss(self.recipe or _ON_ATTACKED, x, y)

    def robust_accuracy(self, x: Tensor, y: Tensor, steps: int = 10) -> Tensor:
        """Return the accuracy under PGD, a scalar; in inference mode too.

        Args:
            x: inputs ``(B, ...)``.
            y: labels ``(B,)``.
            steps: gradient steps of PGD.
        """
        network, x = self._in_pixels(x)
        with eval_mode(network):
            return (~pgd(network, x, y, self.threat, steps=steps).broken).float().mean()

    def _loss(self, recipe: Recipe, x: Tensor, y: Tensor) -> Tensor:
        network, x = self._in_pixels(x)
        return recipe(network, x, y, self.attack, self.threat)

    def _in_pixels(self, x: Tensor) -> tuple[nn.Module, Tensor]:
        """Return network and inputs in the units of the box, in which eps counts."""
        x, network = read_inputs(x, self.threat.box), self.model
        if self.mean:
            normalize = Normalize(self.mean, self.std).to(x.device)
            x = x * normalize.std + normalize.mean
            network = normalized(network, self.mean, self.std).to(x.device)
        try:
            return network, into_box(x, self.threat.box)
        except DataError as cause:
            raise DataError(f"{cause}; or give mean= and std=, with which your loop normalises") from cause


def _threat(threat: ThreatModel | None, step_size: float | None, norm: Norm | None) -> ThreatModel:
    if threat is None and step_size is None:
        raise ConfigError("there is neither a threat nor a step_size; give one, such as ThreatModel('linf', 8 / 255)")
    if threat is not None and norm is not None:
        raise ConfigError(f"norm is {norm!r}, and the threat has its own, {threat.norm!r}; give one of the two")
    return threat or ThreatModel(norm or "linf", step_size)  # type: ignore[arg-type]  # not None here


def _attack(attack: Attack | None, step_size: float | None) -> Attack:
    if attack is None:
        return partial(craft, steps=1, start="zero", step_size=step_size)
    if step_size is not None:
        raise ConfigError(
            f"step_size is {step_size:g}, and an attack is given; bind it: partial(attack, step_size=...)"
        )
    return attack


def _numbers_of(preprocessing: Any, mean: Sequence[float]) -> tuple[list[float], list[float]]:
    if len(mean):
        raise ConfigError("mean and preprocessing are both given; give one of the two")
    found = statistics_of(preprocessing)
    return found.mean.flatten().tolist(), found.std.flatten().tolist()


def _channels(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(torch.as_tensor(values).flatten().tolist())
