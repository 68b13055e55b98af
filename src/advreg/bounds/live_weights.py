"""Bounds of a network in training: differentiable in its weights, with the BatchNorm statistics of the current batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from advreg.bounds.graph import Graph, Program, export
from advreg.errors import ModelError
from advreg.module_modes import eval_mode

_PROGRAMS: WeakKeyDictionary[nn.Module, Program] = WeakKeyDictionary()


def bind_weights(model: nn.Module, x: Tensor, statistics: dict[str, Tensor]) -> Graph:
    """Return the operations of a network with its present weights, through which gradients of bounds reach them.

    Args:
        model: the network; it is exported at its first use and must keep its structure afterwards.
        x: some inputs ``(B, ...)``.
        statistics: buffers in place of the model's own, by name, as `batch_statistics` collects them.

    Returns:
        The graph.

    Raises:
        ModelError: an operation without a bound, or control flow that depends on values.

    Example:
        >>> net, x = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), torch.rand(4, 2)
        >>> with batch_statistics(net) as statistics:
        ...     z = net(x)
        >>> torch.allclose(bind_weights(net, x, statistics)(x), z, atol=1e-5)
        True
    """
    if model not in _PROGRAMS:
        with eval_mode(_WithoutHooks(model)) as network, torch.no_grad():
            _PROGRAMS[model] = export(network, x[:1].detach())
    state = {**dict(model.named_parameters()), **dict(model.named_buffers()), **statistics}
    return _PROGRAMS[model].bind({f"model.{name}": value for name, value in state.items()})


class _WithoutHooks(nn.Module):
    """A network without the hooks on itself, which count passes or collect logits, and see none of the export."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.forward(x)
        return logits


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collect mean and variance that the BatchNorms in train mode compute in a forward, by the names of their buffers.

    Args:
        model: the network.

    Yields:
        Buffers by name, with gradients; filled by the forward inside the block.

    Raises:
        ModelError: a BatchNorm is called twice in the block.
    """
    found: dict[str, Tensor] = {}

    def collect(name: str, layer: nn.Module, h: Tensor) -> None:
        if not layer.training:
            return
        if f"{name}.running_mean" in found:
            raise ModelError(
                f"BatchNorm {name!r} is called twice in a forward; bounds in training need one call of each"
            )
        variance, mean = torch.var_mean(h, [0, *range(2, h.ndim)], correction=0)
        found.update({f"{name}.running_mean": mean, f"{name}.running_var": variance})

    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: collect(name, layer, args[0]))
        for name, layer in layers
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
