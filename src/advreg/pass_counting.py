"""Counts of forwards and backwards through a model: a cost that does not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.hooks import RemovableHandle

Hook = Callable[[nn.Module, object, object], None]


class Passes:
    """Example-forwards and example-backwards counted so far."""

    def __init__(self) -> None:
        self.forwards = self.backwards = 0

    def shares(self, n: int) -> Tensor:
        """Return the passes spread evenly over ``n`` examples: ``(n, 2)`` integers with the exact sums."""
        each = [[total // n + (i < total % n) for total in (self.forwards, self.backwards)] for i in range(n)]
        return torch.tensor(each, dtype=torch.int64)


@contextmanager
def count_passes(*modules: nn.Module) -> Iterator[Passes]:
    """Count the forwards and backwards through these modules inside the block.

    Args:
        modules: modules to count together.

    Returns:
        A context manager that yields the counts.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with count_passes(net) as passes:
        ...     net(torch.rand(3, 2)).sum().backward()
        >>> passes.forwards, passes.backwards
        (3, 3)
    """
    passes = Passes()

    def backward(grad: Tensor) -> None:
        passes.backwards += len(grad)

    def forward(_module: nn.Module, _inputs: object, output: object) -> None:
        output = getattr(output, "logits", output)  # networks of transformers return their logits in a record
        if isinstance(output, Tensor):
            passes.forwards += len(output)
            if output.requires_grad:
                output.register_hook(backward)  # type: ignore[no-untyped-call]

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):
            hooks.callback(_listen(module, forward).remove)
        yield passes


def _listen(module: nn.Module, hook: Hook) -> RemovableHandle:
    """Call the hook after each forward of a module; for TorchScript a global hook filters the calls."""
    if not isinstance(module, torch.jit.ScriptModule):
        return module.register_forward_hook(hook)

    def forward(called: nn.Module, inputs: object, output: object) -> None:
        if called is module:
            hook(called, inputs, output)

    return register_module_forward_hook(forward)
