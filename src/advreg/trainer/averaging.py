"""Averages of the weights over training, which lie in flatter minima and are often more robust than the last weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, update_bn

from advreg._lazy import deprecated
from advreg.config.registry import Registry
from advreg.module_modes import eval_mode
from advreg.trainer.moment import Moment

Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class AveragedWeights:
    """A network with averaged weights of a network in training; its buffers are copies of the last ones.

    Args:
        model: the network in training, or a `torch.nn.ParameterList` of those of its weights that learn; it is copied.
        weigh: ``(number of averages so far) -> share`` of the new weights in the next average.
        start: share of training before which the average is the network itself.
        every: optimizer steps between two averages.
    """

    def __init__(self, model: nn.Module, weigh: Callable[[int], float], start: float = 0.0, every: int = 1) -> None:
        self.weigh, self.start, self.every = weigh, start, every
        self._average = AveragedModel(model)

    @property
    def model(self) -> nn.Module:
        """The averaged network: evaluate and save this one."""
        return self._average.module

    @property
    def has_own_statistics(self) -> bool:
        """Return whether the average differs from the network and has a BatchNorm with running statistics."""
        return int(self._average.n_averaged) > 1 and any(
            isinstance(module, _BatchNorm) and module.running_mean is not None for module in self.model.modules()
        )

    def update(self, model: nn.Module, moment: Moment) -> None:
        """Update the average after an optimizer step.

        Args:
            model: the network in training.
            moment: place of the step in training.
        """
        done = moment.step + 1
        if moment.progress < self.start:
            self._average.n_averaged.zero_()  # before `start` the average is the network itself
            self._average.update_parameters(model)
            self._average.n_averaged.zero_()
        elif done % self.every == 0 or done == moment.steps:
            self._average.multi_avg_fn = partial(_mix, share=self.weigh(int(self._average.n_averaged)))
            self._average.update_parameters(model)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Give a network the averaged weights inside the block, and its own weights back after it.

        Args:
            model: the network in training.

        Example:
            >>> model = nn.Linear(1, 1)
            >>> average = ema(model, decay=0.5, warmup=False)
            >>> for step, value in enumerate((1.0, 3.0)):
            ...     _ = nn.init.constant_(model.weight, value)
            ...     average.update(model, Moment(epoch=1, step=step, steps=2))
            >>> with average.in_place(model):
            ...     model.weight.item()
            2.0
            >>> model.weight.item()
            3.0
        """
        own = [weight.detach().clone() for weight in model.parameters()]
        _copy_weights(self.model.parameters(), model)
        try:
            yield
        finally:
            _copy_weights(own, model)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged weights and the number of averages."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state that `state_dict` returned.

        Args:
            state: the state.
        """
        self._average.load_state_dict(state)


@torch.no_grad()
def _copy_weights(values: Iterable[Tensor], model: nn.Module) -> None:
    for weight, value in zip(model.parameters(), values, strict=True):
        weight.copy_(value)


def _mix(averages: Any, weights: Any, _: Tensor | int, share: float) -> None:
    torch._foreach_lerp_(averages, weights, share)


def ema(model: nn.Module, decay: Decay = 0.999, warmup: bool = True) -> AveragedWeights:
    """Return an exponential moving average, ``a <- d a + (1 - d) w`` at every step; the first average is ``w``.

    Args:
        model: the network in training.
        decay: ``d``; 0.995 to 0.9995 is usual.
        warmup: whether the first averages decay faster, ``d = min(decay, (1 + t) / (10 + t))`` after ``t`` of them.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = ema(model, decay=0.9, warmup=False)
        >>> average.update(model, Moment(epoch=1, step=0, steps=10))
        >>> bool(average.model.weight == model.weight)
        True

    Reference: Gowal et al., "Uncovering the limits of adversarial training against norm-bounded adversarial examples", 2020.
    """
    return AveragedWeights(model, lambda t: 1 - (min(decay, (1 + t) / (10 + t)) if warmup else decay))


def swa(model: nn.Module, start: Share = 0.75, every: Count = 1) -> AveragedWeights:
    """Return the equal average of the weights from ``start`` on, taken every ``every`` steps and at the last step.

    Args:
        model: the network in training.
        start: share of training after which averaging begins.
        every: steps between two averages, such as the steps of an epoch.

    Example:
        >>> swa(nn.Linear(1, 1), start=0.5).start
        0.5

    Reference: Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018.
    """
    return AveragedWeights(model, lambda t: 1 / (t + 1), start, every)


AVERAGES: Registry[AveragedWeights] = Registry("average", {"ema": ema, "swa": swa})


def recompute_batchnorm_stats(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute the running statistics of BatchNorm on these inputs; modes are restored.

    The copied statistics of an average belong to the last weights. This computes those of the averaged weights: mean and
    variance of each batch, averaged over the batches. For a robust model, give attacked inputs.

    Args:
        model: a network. A BatchNorm that no input reaches, such as one on the clean route of `split_batchnorm`, keeps its
            statistics.
        batches: inputs ``(B, ...)``.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2))
        >>> recompute_batchnorm_stats(model, [torch.zeros(4, 2), torch.ones(4, 2)])
        >>> model[0].running_mean.tolist()
        [0.5, 0.5]
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    try:
        with eval_mode(model):  # restores the modes that `update_bn` changes
            update_bn(batches, model)
    finally:
        for norm, (momentum, statistics) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if not norm.num_batches_tracked:  # no input reached it, but `update_bn` has reset it
                norm.load_state_dict(statistics, strict=False)


if not TYPE_CHECKING:
    __getattr__ = deprecated(__name__, {"named": "AVERAGES.build"})
