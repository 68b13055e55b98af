"""Which parts of a model are in train mode, and how to put them back exactly as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put every module in eval mode inside the block, and each one back into its own mode after it.

    A part that was frozen in eval mode, such as BatchNorm when fine-tuning, stays so, also when the block raises.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Dropout())
        >>> with eval_mode(model):
        ...     [module.training for module in model]
        [False, False]
        >>> [module.training for module in model]
        [False, True]
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in before:
            module.training = training
