"""Adversarial regularisation for the loops of Lightning and of Hugging Face's Trainer: a term added to the loss that is there.

    loss = what your loop minimises + weight * recipe(network, x, y, attack, threat)

By default the term is the cross-entropy one step from the clean point, with a weight of 0.2. What the loop does besides stays
its own: precision, accumulation, several processes, checkpoints.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks import craft, pgd
from advreg.attacks.inputs import read_inputs, reject_outside
from advreg.errors import ConfigError, DataError
from advreg.models.normalize import Normalize, normalized
from advreg.module_modes import eval_mode
from advreg.plugins import import_extra
from advreg.threat import ThreatModel
from advreg.training.recipes import Attack, Recipe, madry

Pair = tuple[Tensor, Tensor]
_FGSM = partial(craft, steps=1, start="zero")
_SLACK = 1e-3  # of the box: what rounding may add to normalised images


@dataclass(frozen=True)
class Term:
    """What is added to a loss.

    Args:
        threat: what the adversary may do, in the units of the box, pixels in [0, 1].
        recipe: the term; `madry`, the cross-entropy on attacked inputs, if None.
        attack: how to look for the worst case; one step from the clean point by default.
        weight: of the term.
        mean, std: with which the loop's images were normalised, a number a channel, tensors too; empty where they are pixels.

    Raises:
        ConfigError: one of mean and std without the other.

    Example:
        >>> import torch
        >>> term = Term(ThreatModel("linf", 8 / 255), weight=0.5)
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> term(net, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])).backward()
    """

    threat: ThreatModel
    recipe: Recipe | None = None
    attack: Attack = _FGSM
    weight: float = 0.2
    mean: Sequence[float] = ()
    std: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(torch.as_tensor(getattr(self, name)).flatten().tolist()))
        if len(self.mean) != len(self.std):
            raise ConfigError(
                f"mean has {len(self.mean)} numbers, std {len(self.std)}; give both, a number a channel, or neither"
            )

    def __call__(self, network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Return the term, a scalar with gradient.

        Raises:
            DataError: the inputs are outside the threat model's box.
        """
        network, x = self.in_pixels(network, x)
        return self.weight * (self.recipe or madry())(network, x, y, self.attack, self.threat)

    def in_pixels(self, network: nn.Module, x: Tensor) -> tuple[nn.Module, Tensor]:
        """Return network and inputs in the units of the box: eps counts in pixels.

        Raises:
            DataError: the inputs are outside the box.
        """
        x = read_inputs(x, self.threat.box)
        if self.mean:
            normalize = Normalize(self.mean, self.std).to(x.device)
            x = x * normalize.std + normalize.mean
            network = normalized(network, self.mean, self.std).to(x.device)
        try:
            reject_outside(x, self.threat.box, _SLACK)
        except DataError as cause:
            raise DataError(f"{cause}; or give the hook the mean= and std= that your loop normalises with") from cause
        return network, x.clamp(*self.threat.box)

    def withstood(self, network: nn.Module, x: Tensor, y: Tensor, steps: int) -> Tensor:
        """Return the share of right answers under PGD, a scalar; also where the loop is in inference mode."""
        network, x = self.in_pixels(network, x)
        with eval_mode(network):
            return (~pgd(network, x, y, self.threat, steps=steps).broken).float().mean()


def first_two(batch: Any) -> Pair:
    """Return inputs and labels of a batch that is a pair, or has them first."""
    if isinstance(batch, Mapping) or len(batch) < 2:
        kind = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else f"{len(batch)} parts"
        raise DataError(f"a batch is ({kind}), not a pair of inputs and labels; give parts=, a function of the batch")
    return batch[0], batch[1]


def lightning(
    threat: ThreatModel,
    *,
    network: Callable[[Any], nn.Module] = lambda module: module,
    parts: Callable[[Any], Pair] = first_two,
    validation_steps: int = 0,
    **options: Any,
) -> Any:
    """Return a Lightning callback that adds the term to what ``training_step`` returns.

    Args:
        threat: what the adversary may do.
        network: which part of the LightningModule returns logits; all of it by default.
        parts: inputs and labels of a batch; its first two by default.
        validation_steps: steps of PGD on every validation batch, logged as ``robust_accuracy``; 0 for none.
        options: ``recipe``, ``attack``, ``weight``, ``mean``, ``std`` of `Term`.

    Raises:
        MissingExtraError: Lightning is not installed.
        ConfigError: when training begins, a module that optimises by hand.
    """
    library = import_extra("lightning.pytorch", "advreg[lightning]")
    term = Term(threat, **options)
    kept: list[Tensor] = []

    def begin(trainer: Any, module: Any, stage: str) -> None:
        if stage == "fit":
            if not module.automatic_optimization:
                raise ConfigError(
                    f"{type(module).__name__} optimises by hand, so its training_step hands back no loss to add a term to; "
                    "set automatic_optimization = True, or add hooks.Term(...)(network, x, y) to the loss yourself"
                )
            module.training_step = _stepping(module.training_step, parts, lambda x, y: term(network(module), x, y))

    def end(trainer: Any, module: Any, *_: Any, **__: Any) -> None:
        vars(module).pop("training_step", None)  # the class's own is behind it

    def keep(trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        if validation_steps:
            x, y = parts(batch)
            kept[:] = x.clone(), y  # the validation step may write into its inputs

    def measure(trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if validation_steps:
            x, y = kept
            share = term.withstood(network(module), x, y, validation_steps)
            module.log("robust_accuracy", share, batch_size=len(x), sync_dist=trainer.world_size > 1)

    ends = {"teardown": end, "on_exception": end}
    return library.callbacks.LambdaCallback(
        setup=begin, on_validation_batch_start=keep, on_validation_batch_end=measure, **ends
    )


def _stepping(
    step: Callable[..., Any], parts: Callable[[Any], Pair], extra: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Any]:
    """Return a training step whose loss has the term; one that returns nothing skips its batch, as before.

    The inputs are copied first: a network may write into those of the batch.
    """

    @functools.wraps(step)
    def stepped(batch: Any, *args: Any, **kwargs: Any) -> Any:
        x, y = parts(batch)
        x = x.clone()
        found = step(batch, *args, **kwargs)
        if found is None:
            return None
        if isinstance(found, Mapping):
            return {**found, "loss": found["loss"] + extra(x, y)}
        return found + extra(x, y)

    return stepped


class Logits(nn.Module):
    """A network of Hugging Face's as one that maps images to logits.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> class Net(nn.Module):
        ...     def forward(self, pixel_values):
        ...         return SimpleNamespace(logits=pixel_values.flatten(1))
        >>> Logits(Net(), "pixel_values")(torch.zeros(2, 1, 2, 2)).shape
        torch.Size([2, 4])
    """

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        logits: Tensor = self.network(**{self.name: x}).logits
        return logits


def huggingface(trainer: Any, threat: ThreatModel, *, inputs: str = "pixel_values", **options: Any) -> Any:
    """Add the term to what a ``transformers.Trainer`` minimises, and return the trainer.

    It is added in training only: the loss of an evaluation stays what it was.

    Args:
        trainer: the trainer, before ``train()``.
        threat: what the adversary may do.
        inputs: name of the images among the model's inputs; the labels are ``labels``.
        options: ``recipe``, ``attack``, ``weight``, ``mean``, ``std`` of `Term`: give the image processor's ``image_mean``
            and ``image_std`` where it normalises.
    """
    term, own = Term(threat, **options), trainer.compute_loss

    def compute_loss(model: nn.Module, batch: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        x, y = _named(batch, inputs), _named(batch, "labels")
        x = x.clone() if model.training else x  # a network may write into those of the batch
        found = own(model, batch, return_outputs=return_outputs, **kwargs)
        if not model.training:
            return found
        plain = Logits(trainer.accelerator.unwrap_model(model), inputs)  # outside the reducer of several processes
        extra = term(plain, x, y) / _parts_of_a_step(trainer, kwargs.get("num_items_in_batch"))
        return (found[0] + extra, *found[1:]) if return_outputs else found + extra

    trainer.compute_loss = compute_loss
    return trainer


def _named(batch: Mapping[str, Any], name: str) -> Tensor:
    if name not in batch:
        raise DataError(f"a batch holds {', '.join(batch)}, not {name!r}; give inputs= the name of the images")
    value: Tensor = batch[name]
    return value


def _parts_of_a_step(trainer: Any, items: Any) -> int:
    """Return by what a mean over this batch has to be divided: the trainer divides only losses that are not sums already."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
    return int(trainer.current_gradient_accumulation_steps) if scaled else 1
