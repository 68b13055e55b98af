"""Backward pass differentiable approximation (BPDA): the forward pass of the model, with another backward pass.

Three backward passes are offered: straight through, approximations that the caller gives, and small networks fitted here.
Attacks follow the replaced gradients, and the original model verifies what they find.

Reference: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, arXiv:1802.00420.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from advreg.attacks.model import ProxyModel
from advreg.diagnosis.autograd_inspection import dead_modules
from advreg.diagnosis.module_hooks import Approximation, Call, replace_backward, with_value

_ROUNDING = {
    torch.round, Tensor.round, torch.floor, Tensor.floor, torch.ceil, Tensor.ceil, torch.trunc, Tensor.trunc,
    torch.fix, Tensor.fix,
}  # fmt: skip
_IN_PLACE = {
    torch.round_: torch.round, Tensor.round_: torch.round, torch.floor_: torch.floor, Tensor.floor_: torch.floor,
    torch.ceil_: torch.ceil, Tensor.ceil_: torch.ceil, torch.trunc_: torch.trunc, Tensor.trunc_: torch.trunc,
    torch.fix_: torch.fix, Tensor.fix_: torch.fix, Tensor.sign_: torch.sign, Tensor.sgn_: torch.sgn,
    torch.sigmoid_: torch.sigmoid, Tensor.sigmoid_: torch.sigmoid, torch.tanh_: torch.tanh, Tensor.tanh_: torch.tanh,
}  # fmt: skip
_STEP_FUNCTIONS = {torch.sign, Tensor.sign, torch.sgn, Tensor.sgn}
_DETACHING = {Tensor.detach, torch.detach}
_COMPARISONS = {
    torch.gt: 1.0, Tensor.gt: 1.0, Tensor.__gt__: 1.0, torch.ge: 1.0, Tensor.ge: 1.0, Tensor.__ge__: 1.0,
    torch.lt: -1.0, Tensor.lt: -1.0, Tensor.__lt__: -1.0, torch.le: -1.0, Tensor.le: -1.0, Tensor.__le__: -1.0,
}  # fmt: skip
_SATURATING = {torch.softmax, Tensor.softmax, F.softmax, torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh}
_WIDTH = 0.2  # width of the slope that replaces a jump, as a share of the input's root mean square
_NOISE = 0.3  # noise on the inputs while an approximation is fitted, in their standard deviations
_SATURATED = 1 - 1e-4  # output of a softmax, sigmoid or tanh beyond which its gradient vanishes


class StraightThrough(TorchFunctionMode):
    """Inside this block operations without a gradient keep their values and get one.

    Rounding and detaching pass gradients on unchanged. A jump (sign, comparison) passes gradients near the jump. A saturated
    softmax, sigmoid or tanh passes gradients as the identity does.

    Args:
        leave_out: whether a saturated operation is left out of the forward pass too.
    """

    def __init__(self, *, leave_out: bool = False) -> None:
        super().__init__()
        self.leave_out = leave_out

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Evaluate one operation, with another gradient where it has none."""
        if func in _IN_PLACE:
            value = self.__torch_function__(_IN_PLACE[func], types, (args[0].clone(), *args[1:]), kwargs)
            return args[0].copy_(value)
        out = func(*args, **(kwargs or {}))
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and isinstance(out, Tensor) and x.is_floating_point()):
            return out
        if func in _ROUNDING or func in _DETACHING:
            return with_value(out, x) if x.requires_grad else out
        if func in _STEP_FUNCTIONS:
            return with_value(out, 2 * torch.sigmoid(x / _width(x)))
        if func in _COMPARISONS and len(args) > 1 and x.requires_grad:
            offset = _COMPARISONS[func] * (x - args[1])
            return with_value(out.to(x.dtype), torch.sigmoid(offset / _width(offset)))
        if func in _SATURATING and x.requires_grad and bool((out.abs().flatten(1).amax(1) > _SATURATED).any()):
            return x if self.leave_out else with_value(out, x)
        return out


def _width(offset: Tensor) -> Tensor:
    """Return the length over which a jump at 0 is smoothed: a share of the root mean square, in the input's units."""
    return _WIDTH * offset.detach().pow(2).mean().sqrt().clamp_min(torch.finfo(offset.dtype).tiny)


class StandardizedNetwork(nn.Module):
    """A network with inputs and outputs of mean 0 and deviation 1, scaled to those of the module that it approximates."""

    def __init__(self, net: nn.Module, inputs: Tensor, outputs: Tensor) -> None:
        super().__init__()
        self.net = net
        self.input_scale = float(inputs.mean()), _deviation(inputs)
        self.output_scale = float(outputs.mean()), _deviation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the approximated output of the module."""
        (mean, deviation), (offset, scale) = self.input_scale, self.output_scale
        out: Tensor = self.net((x - mean) / deviation)
        return offset + scale * out


def _deviation(values: Tensor) -> float:
    return float(values.double().std().clamp_min(1e-12))


class AttackProxy(nn.Module, ProxyModel):
    """A model for attacks to query; an original verifies what they find.

    Args:
        model: the network that attacks query.
        original: the network that verifies; ``model`` by default.
    """

    def __init__(self, model: nn.Module, original: nn.Module | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "net", model)  # not a submodule: modes and weights remain the caller's
        self._original = (original or model,)
        self.eval()

    @property
    def original(self) -> nn.Module:
        """The model that verifies adversarial points."""
        return self._original[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of the model itself."""
        logits: Tensor = self.net(x)  # type: ignore[operator]
        return logits


class StraightThroughProxy(AttackProxy):
    """The model with gradients straight through its operations that have none."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        with StraightThrough():
            logits: Tensor = self.net(x)  # type: ignore[operator]
        return logits


class UnsaturatedProxy(AttackProxy):
    """The model without its saturated operations: leaving out a final softmax changes no label."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, K)``, which may differ from the model's: the original verifies."""
        with StraightThrough(leave_out=True):
            logits: Tensor = self.net(x)  # type: ignore[operator]
        return logits


class BpdaProxy(AttackProxy):
    """The model with the backward pass of approximations in some of its modules.

    Args:
        model: the network that attacks query.
        approximations: module name -> differentiable approximation.
        original: the network that verifies; ``model`` by default.
    """

    def __init__(
        self, model: nn.Module, approximations: Mapping[str, Approximation], original: nn.Module | None = None
    ) -> None:
        super().__init__(model, original)
        object.__setattr__(self, "approximations", dict(approximations))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        with replace_backward(self.net, self.approximations), StraightThrough():  # type: ignore[arg-type]
            logits: Tensor = self.net(x)  # type: ignore[operator]
        return logits


def identity(x: Tensor) -> Tensor:
    """Return the input: the approximation of a module that changes its input little.

    Args:
        x: any tensor.

    Returns:
        The same tensor.
    """
    return x


def identity_approximations(model: nn.Module, x: Tensor) -> dict[str, Approximation]:
    """Return the identity for every module that passes no gradient back and keeps the shape of its input.

    Args:
        model: original network.
        x: a few inputs ``(B, ...)``.

    Returns:
        The identity by the name of the module.
    """
    return {call.name: identity for call in dead_modules(model, x) if call.input.shape == call.output.shape}


def fit_bpda(model: nn.Module, x: Tensor, *, steps: int = 150, seed: int = 0) -> dict[str, Approximation]:
    """Return a small network for every module that passes no gradient back, fitted to the module's outputs.

    Args:
        model: original network.
        x: clean inputs ``(B, ...)``.
        steps: number of Adam steps, each on noisy inputs.
        seed: seed of the initial weights.

    Returns:
        The fitted networks by module name; empty if every module passes gradients back.

    Example:
        >>> fit_bpda(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(8, 1, 2, 2), steps=1)
        {}

    Reference: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security: circumventing defenses to
    adversarial examples", ICML 2018, arXiv:1802.00420.
    """
    fitted = {call.name: _fit_network(call, steps, seed) for call in dead_modules(model, x)}
    return {name: net for name, net in fitted.items() if net is not None}


def _fit_network(call: Call, steps: int, seed: int) -> nn.Module | None:
    """Return a network fitted to one module, or None where input and output are not images of the same size."""
    inputs, outputs = call.input, call.output.to(call.input.dtype)
    if inputs.ndim != 4 or outputs.ndim != 4 or inputs.shape[2:] != outputs.shape[2:]:
        return None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        first = nn.Conv2d(inputs.shape[1], 16, 3, padding=1)
        last = nn.Conv2d(16, outputs.shape[1], 3, padding=1)
        net = StandardizedNetwork(nn.Sequential(first, nn.SiLU(), last), inputs, outputs).to(inputs)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        scale = _deviation(outputs)
        for _ in range(steps):
            noisy = inputs + _NOISE * _deviation(inputs) * torch.randn_like(inputs)
            with torch.no_grad():
                target = call.module(noisy.clone()).to(inputs.dtype)
            loss = F.mse_loss(net(noisy) / scale, target / scale)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.requires_grad_(False).eval()
