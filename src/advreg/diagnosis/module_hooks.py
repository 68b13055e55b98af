"""Listening to a model's modules, and answering for some of them, without changing the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advreg.attacks.model import query_model

Smooth = Callable[[Tensor], Tensor]
"""A differentiable stand-in for a module: same input, output of the same shape."""


class _WithValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Any:
        return None, grad[0]


def with_value(value: Tensor, slope: Tensor) -> Tensor:
    """Return ``value`` with the gradient of ``slope``, a tensor of the same shape.

    Args:
        value: values of the result.
        slope: tensor that receives the gradient.

    Returns:
        A tensor of the same shape.

    Example:
        >>> x = torch.tensor([0.4], requires_grad=True)
        >>> with_value(x.round(), 3 * x).backward()
        >>> x.grad
        tensor([3.])
    """
    with torch.no_grad():  # and no detach, which StraightThrough answers: nothing may come back through the value
        value = value.to(slope.dtype).clone()
    made: Tensor = _WithValue.apply(value, slope)  # type: ignore[no-untyped-call]
    return made


@dataclass(frozen=True, eq=False)
class Call:
    """One module as it was called in a forward: what it was given and what it made of it."""

    name: str
    module: nn.Module
    given: Tensor
    made: Tensor


def hook_after_forward(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> tuple[RemovableHandle, ...]:
    """Call a hook after each forward with the inputs as they were before it: a module may write into them.

    Args:
        module: the module.
        hook: function of module, inputs and output.

    Returns:
        Handles that remove the hook.
    """
    before: list[Any] = []

    def keep(_: nn.Module, given: Any) -> None:
        before.append(tuple(part.clone() if isinstance(part, Tensor) else part for part in given))

    def after(called: nn.Module, _: Any, made: Any) -> Any:
        return hook(called, before.pop(), made)

    return module.register_forward_pre_hook(keep), module.register_forward_hook(after)


def _hookable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules by name, without TorchScript's, which take no hooks."""
    return [(name, part) for name, part in model.named_modules() if not isinstance(part, torch.jit.ScriptModule)]


def record_calls(model: nn.Module, x: Tensor) -> list[Call]:
    """Return every call of a module with one tensor in and one tensor out, in the order in which they end.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.

    Returns:
        The calls.
    """
    found: list[Call] = []

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, made: Any) -> None:
            if len(given) == 1 and isinstance(given[0], Tensor) and isinstance(made, Tensor):
                found.append(Call(name, module, given[0].detach(), made.detach().clone()))

        return hook

    handles = [handle for name, module in _hookable(model) for handle in hook_after_forward(module, listen(name))]
    try:
        with torch.no_grad():
            query_model(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def replace_backward(model: nn.Module, stand_ins: Mapping[str, Smooth]) -> Iterator[None]:
    """Let the named modules answer as they do, and pass gradients back as their stand-ins would.

    Args:
        model: the network.
        stand_ins: differentiable function by the name of the module.
    """

    def hook_of(smooth: Smooth) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_: nn.Module, given: Any, made: Tensor) -> Tensor:
            return with_value(made, smooth(given[0]))

        return hook

    modules = dict(model.named_modules())
    handles = [h for name, smooth in stand_ins.items() for h in hook_after_forward(modules[name], hook_of(smooth))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
