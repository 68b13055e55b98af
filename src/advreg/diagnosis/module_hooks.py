"""Record the calls of a model's modules and replace their backward passes, without changing the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advreg.attacks.model import query_model

Approximation = Callable[[Tensor], Tensor]
"""A differentiable approximation of a module: same input, output of the same shape."""


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
    with torch.no_grad():  # not detach(): StraightThrough would pass a gradient through it
        value = value.to(slope.dtype).clone()
    result: Tensor = _WithValue.apply(value, slope)  # type: ignore[no-untyped-call]
    return result


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a module in a forward pass, with its input and output."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor


def hook_after_forward(module: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> tuple[RemovableHandle, ...]:
    """Call a hook after each forward, with copies of the inputs from before it: a module may write into its inputs.

    Args:
        module: the module.
        hook: function of module, inputs and output.

    Returns:
        Handles that remove the hook.
    """
    before: list[Any] = []

    def copy_inputs(_: nn.Module, inputs: Any) -> None:
        before.append(tuple(part.clone() if isinstance(part, Tensor) else part for part in inputs))

    def call_hook(called: nn.Module, _: Any, output: Any) -> Any:
        return hook(called, before.pop(), output)

    return module.register_forward_pre_hook(copy_inputs), module.register_forward_hook(call_hook)


def _hookable(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules by name, without TorchScript's, which take no hooks."""
    return [(name, part) for name, part in model.named_modules() if not isinstance(part, torch.jit.ScriptModule)]


def record_calls(model: nn.Module, x: Tensor) -> list[Call]:
    """Return every call of a module with one input tensor and one output tensor, in the order in which the calls end.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.

    Returns:
        The calls.
    """
    calls: list[Call] = []

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls.append(Call(name, module, inputs[0].detach(), output.detach().clone()))

        return hook

    handles = [handle for name, module in _hookable(model) for handle in hook_after_forward(module, recorder(name))]
    try:
        with torch.no_grad():
            query_model(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextmanager
def replace_backward(model: nn.Module, approximations: Mapping[str, Approximation]) -> Iterator[None]:
    """Give the named modules the backward passes of their approximations; forward passes remain as they are.

    Args:
        model: the network.
        approximations: differentiable approximation by module name.
    """

    def hook_of(approximation: Approximation) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return with_value(output, approximation(inputs[0]))

        return hook

    modules = dict(model.named_modules())
    handles = [h for name, each in approximations.items() for h in hook_after_forward(modules[name], hook_of(each))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
