"""Adversarial regularization in the loops of Lightning and of Hugging Face's Trainer, added to the loss that they minimise.

    loss = loss of the loop + multiplier * recipe(network, x, y, attack, threat)

By default the term is 0.2 times the cross-entropy one gradient step from the clean input. Precision, accumulation, several
processes and checkpoints stay the loop's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from advreg.data.adapters import pair_of_batch
from advreg.errors import ConfigError, DataError
from advreg.plugins import import_extra
from advreg.threat import ThreatModel
from advreg.training.regularizer import AdversarialRegularization

Pair = tuple[Tensor, Tensor]


def first_two(batch: Any) -> Pair:
    """Return inputs and labels: the first two parts of a batch, or those of a mapping under their usual names.

    Args:
        batch: a tuple or list, or a mapping such as ``{"pixel_values": ..., "labels": ...}``.

    Returns:
        Inputs and labels.

    Raises:
        DataError: fewer than two parts, or a mapping with other names.

    Example:
        >>> first_two(("inputs", "labels", "weights"))
        ('inputs', 'labels')
    """
    if not isinstance(batch, Mapping) and len(batch) < 2:
        raise DataError(f"a batch has {len(batch)} parts; give parts=, a function of the batch to inputs and labels")
    try:
        return pair_of_batch(batch if isinstance(batch, Mapping) else tuple(batch[:2]))
    except DataError:
        raise DataError(
            f"a batch is ({', '.join(map(str, batch))}), not a pair of inputs and labels; give parts=, a function of the batch"
        ) from None


def lightning(
    threat: ThreatModel,
    *,
    network: Callable[[Any], nn.Module] = lambda module: module,
    parts: Callable[[Any], Pair] = first_two,
    validation_steps: int = 0,
    **options: Any,
) -> Any:
    """Return a Lightning callback that adds the adversarial term to the loss of ``training_step``.

    Args:
        threat: norm, eps and box of the perturbation.
        network: returns the part of the LightningModule that computes logits; all of it by default.
        parts: returns inputs and labels of a batch; its first two parts by default.
        validation_steps: steps of PGD on every validation batch, logged as ``robust_accuracy``; 0 for none.
        options: ``multiplier``, ``step_size``, ``recipe``, ``attack``, ``mean``, ``std``, ``preprocessing`` of
            `AdversarialRegularization`.

    Returns:
        A ``lightning.pytorch.Callback``.

    Raises:
        MissingExtraError: Lightning is not installed.
        ConfigError: when training begins, a module that optimises by hand.
    """
    library = import_extra("lightning.pytorch", "advreg[lightning]")
    regularized = _regularized(threat, options)
    inputs: list[Tensor] = []

    def begin(trainer: Any, module: Any, stage: str) -> None:
        if stage == "fit":
            if not module.automatic_optimization:
                raise ConfigError(
                    f"{type(module).__name__} optimises by hand, so its training_step returns no loss to add a term to; set "
                    "automatic_optimization = True, or add AdversarialRegularization(...).regularizer(x, y) to the loss"
                )
            term = lambda x, y: regularized(network(module)).regularizer(x, y)  # noqa: E731
            module.training_step = _stepping(module.training_step, parts, term)

    def end(trainer: Any, module: Any, *_: Any, **__: Any) -> None:
        vars(module).pop("training_step", None)  # uncovers the method of the class

    def copy_inputs(trainer: Any, module: Any, batch: Any, *_: Any) -> None:
        if validation_steps:
            x, y = parts(batch)
            inputs[:] = x.clone(), y  # the validation step may write into its inputs

    def measure(trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if validation_steps:
            x, y = inputs
            share = regularized(network(module)).robust_accuracy(x, y, validation_steps)
            module.log("robust_accuracy", share, batch_size=len(x), sync_dist=trainer.world_size > 1)

    ends = {"teardown": end, "on_exception": end}
    return library.callbacks.LambdaCallback(
        setup=begin, on_validation_batch_start=copy_inputs, on_validation_batch_end=measure, **ends
    )


def _regularized(threat: ThreatModel, options: Mapping[str, Any]) -> Callable[[nn.Module], AdversarialRegularization]:
    """Return what wraps a network with these options, once they are checked."""
    AdversarialRegularization(nn.Identity(), threat, **options)
    return lambda network: AdversarialRegularization(network, threat, **options)


def _stepping(
    step: Callable[..., Any], parts: Callable[[Any], Pair], extra: Callable[[Tensor, Tensor], Tensor]
) -> Callable[..., Any]:
    """Return a training step with the term in its loss; a step that returns nothing skips its batch, as before.

    The inputs are copied first: a network may write into those of the batch.
    """

    @functools.wraps(step)
    def stepped(batch: Any, *args: Any, **kwargs: Any) -> Any:
        x, y = parts(batch)
        x = x.clone()
        output = step(batch, *args, **kwargs)
        if output is None:
            return None
        if isinstance(output, Mapping):
            return {**output, "loss": output["loss"] + extra(x, y)}
        return output + extra(x, y)

    return stepped


class Logits(nn.Module):
    """A Hugging Face network as a module that maps images to logits.

    Args:
        network: returns an output with ``logits``.
        name: name of the images among its arguments.

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
        self.network = network
        self.name = name
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of images ``(B, C, H, W)``."""
        logits: Tensor = self.network(**{self.name: x}).logits
        return logits


def huggingface(trainer: Any, threat: ThreatModel, *, inputs: str = "pixel_values", **options: Any) -> Any:
    """Add the adversarial term to the loss of a ``transformers.Trainer``, and return the trainer.

    The term is added in training only: the loss of an evaluation does not change.

    Args:
        trainer: the trainer, before ``train()``.
        threat: norm, eps and box of the perturbation.
        inputs: name of the images among the model's inputs; the labels are ``labels``.
        options: ``multiplier``, ``step_size``, ``recipe``, ``attack``, ``mean``, ``std``, ``preprocessing`` of
            `AdversarialRegularization`: give ``preprocessing=`` the image processor where it normalises.
    """
    regularized, own = _regularized(threat, options), trainer.compute_loss

    def compute_loss(model: nn.Module, batch: Mapping[str, Any], return_outputs: bool = False, **kwargs: Any) -> Any:
        x, y = _select(batch, inputs), _select(batch, "labels")
        x = x.clone() if model.training else x  # a network may write into those of the batch
        output = own(model, batch, return_outputs=return_outputs, **kwargs)
        if not model.training:
            return output
        plain = Logits(trainer.accelerator.unwrap_model(model), inputs)  # outside the reducer of several processes
        extra = regularized(plain).regularizer(x, y) / _loss_divisor(trainer, kwargs.get("num_items_in_batch"))
        return (output[0] + extra, *output[1:]) if return_outputs else output + extra

    trainer.compute_loss = compute_loss
    return trainer


def _select(batch: Mapping[str, Any], name: str) -> Tensor:
    if name not in batch:
        raise DataError(f"a batch holds {', '.join(batch)}, not {name!r}; give inputs= the name of the images")
    value: Tensor = batch[name]
    return value


def _loss_divisor(trainer: Any, items: Any) -> int:
    """Return the number to divide a mean over this batch by: the trainer divides only losses that are not sums already."""
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
    return int(trainer.current_gradient_accumulation_steps) if scaled else 1
