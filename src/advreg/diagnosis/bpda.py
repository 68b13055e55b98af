"""Backward passes that go on where the model's stops: straight through, as a user says, or through a fitted network.

The forward is always the model's own. Only what comes back is replaced (BPDA), and the original model judges.

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
from advreg.diagnosis.module_hooks import Call, Smooth, replace_backward, with_value

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
_STEPPING = {torch.sign, Tensor.sign, torch.sgn, Tensor.sgn}
_DETACHING = {Tensor.detach, torch.detach}
_COMPARING = {
    torch.gt: 1.0, Tensor.gt: 1.0, Tensor.__gt__: 1.0, torch.ge: 1.0, Tensor.ge: 1.0, Tensor.__ge__: 1.0,
    torch.lt: -1.0, Tensor.lt: -1.0, Tensor.__lt__: -1.0, torch.le: -1.0, Tensor.le: -1.0, Tensor.__le__: -1.0,
}  # fmt: skip
_SQUASHING = {torch.softmax, Tensor.softmax, F.softmax, torch.sigmoid, Tensor.sigmoid, torch.tanh, Tensor.tanh}
_WIDTH = 0.2  # of the slope that replaces a jump, as a share of the root mean square of what jumps
_NOISE = 0.3  # around the inputs of a stand-in while it is fitted, in their standard deviations
_FULL = 1 - 1e-4  # a softmax or sigmoid beyond it has no slope left


class StraightThrough(TorchFunctionMode):
    """Inside this block operations without a slope keep their values and get one.

    Rounding and detaching pass gradients on as they are; a jump (sign, comparison) passes them where it is near; a softmax,
    sigmoid or tanh that has saturated passes them as if it were not there, or is left out altogether.
    """

    def __init__(self, *, leave_out: bool = False) -> None:
        super().__init__()
        self.leave_out = leave_out

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer one operation."""
        if func in _IN_PLACE:
            made = self.__torch_function__(_IN_PLACE[func], types, (args[0].clone(), *args[1:]), kwargs)
            return args[0].copy_(made)
        out = func(*args, **(kwargs or {}))
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and isinstance(out, Tensor) and x.is_floating_point()):
            return out
        if func in _ROUNDING or func in _DETACHING:
            return with_value(out, x) if x.requires_grad else out
        if func in _STEPPING:
            return with_value(out, 2 * torch.sigmoid(x / _width(x)))
        if func in _COMPARING and len(args) > 1 and x.requires_grad:
            offset = _COMPARING[func] * (x - args[1])
            return with_value(out.to(x.dtype), torch.sigmoid(offset / _width(offset)))
        if func in _SQUASHING and x.requires_grad and bool((out.abs().flatten(1).amax(1) > _FULL).any()):
            return x if self.leave_out else with_value(out, x)
        return out


def _width(offset: Tensor) -> Tensor:
    """Return over which length a jump at 0 is smoothed: a share of what is usual there, whatever its units."""
    return _WIDTH * offset.detach().pow(2).mean().sqrt().clamp_min(torch.finfo(offset.dtype).tiny)


class Standardised(nn.Module):
    """A network that sees and makes numbers of mean 0 and deviation 1 where what it replaces has units."""

    def __init__(self, net: nn.Module, given: Tensor, made: Tensor) -> None:
        super().__init__()
        self.net = net
        self.given, self.made = (float(given.mean()), _deviation(given)), (float(made.mean()), _deviation(made))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stand-in for the output of the module."""
        (mean, deviation), (offset, scale) = self.given, self.made
        out: Tensor = self.net((x - mean) / deviation)
        return offset + scale * out


def _deviation(values: Tensor) -> float:
    return float(values.double().std().clamp_min(1e-12))


class Proposer(nn.Module, ProxyModel):
    """A model with another backward: attacks work on it, the original judges."""

    def __init__(self, model: nn.Module, judge: nn.Module | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "net", model)  # not a submodule: the caller's model stays the caller's
        self._judge = (judge or model,)
        self.eval()

    @property
    def original(self) -> nn.Module:
        """Who judges."""
        return self._judge[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)`` of the model itself."""
        made: Tensor = self.net(x)  # type: ignore[operator]
        return made


class Straight(Proposer):
    """The model, straight through its operations without a slope."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        with StraightThrough():
            made: Tensor = self.net(x)  # type: ignore[operator]
        return made


class Unsquashed(Proposer):
    """The model without what saturates in it: a softmax left out at its end changes no label."""

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, K)`` that need not be the model's own: attacks only propose on them."""
        with StraightThrough(leave_out=True):
            made: Tensor = self.net(x)  # type: ignore[operator]
        return made


class Bridged(Proposer):
    """The model, some of whose modules pass gradients back as their stand-ins would."""

    def __init__(self, model: nn.Module, stand_ins: Mapping[str, Smooth], judge: nn.Module | None = None) -> None:
        super().__init__(model, judge)
        object.__setattr__(self, "stand_ins", dict(stand_ins))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        with replace_backward(self.net, self.stand_ins), StraightThrough():  # type: ignore[arg-type]
            made: Tensor = self.net(x)  # type: ignore[operator]
        return made


def identity(x: Tensor) -> Tensor:
    """Return the input: the stand-in for a module that changes it little.

    Args:
        x: any tensor.

    Returns:
        The same tensor.
    """
    return x


def identities(model: nn.Module, x: Tensor) -> dict[str, Smooth]:
    """Return the identity for every module that passes nothing back and keeps the shape of what it is given.

    Args:
        model: original network.
        x: clean inputs ``(B, ...)``.

    Returns:
        The identity by the name of the module.
    """
    return {call.name: identity for call in dead_modules(model, x) if call.given.shape == call.made.shape}


def fit_bpda(model: nn.Module, x: Tensor, *, steps: int = 150, seed: int = 0) -> dict[str, Smooth]:
    """Return a small network for every module that passes nothing back, fitted to what the module makes of these inputs.

    Args:
        model: original network.
        x: clean inputs ``(B, ...)``.
        steps: steps of Adam, on half of the inputs with noise.
        seed: seed of the initial weights.

    Returns:
        The fitted networks by the name of the module; empty where gradients pass everywhere.

    Example:
        >>> fit_bpda(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(8, 1, 2, 2), steps=1)
        {}

    Reference: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security: circumventing defenses to
    adversarial examples", ICML 2018, arXiv:1802.00420.
    """
    return {call.name: net for call in dead_modules(model, x) if (net := _smooth(call, steps, seed)) is not None}


def _smooth(call: Call, steps: int, seed: int) -> nn.Module | None:
    given, made = call.given, call.made.to(call.given.dtype)
    if given.ndim != 4 or made.ndim != 4 or given.shape[2:] != made.shape[2:]:
        return None
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        layers = nn.Sequential(
            nn.Conv2d(given.shape[1], 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, made.shape[1], 3, padding=1)
        )  # fmt: skip
        net, scale = Standardised(layers, given, made).to(given), _deviation(made)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(steps):
            noisy = given + _NOISE * _deviation(given) * torch.randn_like(given)
            with torch.no_grad():
                wanted = call.module(noisy.clone()).to(given.dtype)
            loss = F.mse_loss(net(noisy) / scale, wanted / scale)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return net.requires_grad_(False).eval()
