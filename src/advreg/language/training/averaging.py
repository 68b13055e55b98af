"""An exponential average of the weights that learn, kept in their place when training ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

_ema: Any = get_ema_multi_avg_fn  # torch declares no types here


class AveragedAdapter:
    """``a <- decay a + (1 - decay) w`` at every step; the first average is ``w`` itself.

    Args:
        network: what is trained; only weights that learn are averaged.
        decay: 0 keeps the last weights.

    Example:
        >>> net = nn.Linear(1, 1, bias=False)
        >>> average = AveragedAdapter(net, decay=0.5)
        >>> for value in (1.0, 3.0):
        ...     _ = nn.init.constant_(net.weight, value)
        ...     average.update()
        >>> with average.in_place():
        ...     net.weight.item()
        2.0
        >>> net.weight.item()
        3.0
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._weights = nn.ParameterList(weight for weight in network.parameters() if weight.requires_grad)
        self._average = AveragedModel(self._weights, multi_avg_fn=_ema(decay))

    def update(self) -> None:
        """Take in the weights after a step."""
        self._average.update_parameters(self._weights)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the network the averaged weights inside the block; what trains is back after it."""
        before = [weight.detach().clone() for weight in self._weights]
        self._set([weight.detach() for weight in self._average.module.parameters()])
        try:
            yield
        finally:
            self._set(before)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and how often it was taken."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._average.load_state_dict(state)
