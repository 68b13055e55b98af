"""Which parts of a model are in train mode, and how to put them back exactly as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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


def train_mode(model: nn.Module, *, freeze_batchnorm: bool = False) -> None:
    """Put every module in train mode, but BatchNorms in eval mode where they are frozen: their statistics then stay.

    Their scale and shift are weights like others, and are trained.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
        >>> train_mode(model, freeze_batchnorm=True)
        >>> [module.training for module in model]
        [False, True]
    """
    model.train()
    for module in model.modules():
        if freeze_batchnorm and isinstance(module, _BatchNorm):
            module.eval()
