"""Logits in the output of a network: a tensor, a tuple, a dict, an object with ``logits``."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from advreg.errors import ConfigError, ModelError


def extract_logits(output: object) -> Tensor:
    """Return the logits ``(B, K)`` in the output of a network.

    A tensor is returned unchanged; ``logits`` of an object or a mapping is next, then the one tensor ``(B, K)`` of a mapping,
    or the first one of a tuple such as ``(logits, features)`` or ``(loss, logits)``.

    Args:
        output: return value of a network.

    Returns:
        Logits ``(B, K)``.

    Raises:
        ModelError: nothing in it can be logits, or a mapping has several tensors ``(B, K)`` and none is called ``logits``.

    Example:
        >>> import torch
        >>> z = torch.zeros(2, 3)
        >>> [extract_logits(output) is z for output in (z, (torch.zeros(()), z), {"logits": z}, {"out": z})]
        [True, True, True, True]
    """
    if isinstance(output, Tensor):
        return output
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(named, Tensor):
        return named
    entries = list(
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    )
    found = [entry for entry in entries if isinstance(entry, Tensor) and entry.dim() == 2]
    if not found or (isinstance(output, Mapping) and len(found) > 1):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ModelError(
            f"the model returns {type(output).__name__}{keys}, without one tensor (B, K) of logits in it; "
            "wrap it in a module whose forward returns the logits"
        )
    return found[0]


def wrap_logits(net: nn.Module) -> nn.Module:
    """Make a network return its logits alone, whatever its ``forward`` returns; its weights keep their names.

    `advreg.load_model` does this to every network that a factory makes. Undo it with ``net._forward_hooks.clear()``.

    Args:
        net: floats ``(B, C, H, W)`` to a tensor, a tuple, a dict or an object with ``logits``, as Hugging Face's are.

    Returns:
        The same network.

    Raises:
        ModelError: when the network is called and its output holds no logits.

    Example:
        >>> import torch
        >>> class Two(nn.Linear):
        ...     def forward(self, x):
        ...         return super().forward(x), x
        >>> wrap_logits(Two(4, 3))(torch.zeros(2, 4)).shape
        torch.Size([2, 3])
    """
    net.register_forward_hook(_logits)
    return net


def _logits(_module: nn.Module, _inputs: object, output: object) -> Tensor:
    return extract_logits(output)


class TwoLogits(nn.Module):
    """A network with one logit for the second of two classes, as a classifier with the logits ``(0, z - cut)``."""

    def __init__(self, net: nn.Module, cut: float) -> None:
        super().__init__()
        self.net, self.cut = net, cut
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, 2)``.

        Raises:
            ModelError: the network returns more than one logit for each input.
        """
        z = extract_logits(self.net(x))
        if z.shape not in ((len(x),), (len(x), 1)):
            raise ModelError(f"the model returns {tuple(z.shape)} for {len(x)} inputs; one_logit wraps (B,) or (B, 1)")
        z = z.reshape(-1, 1)
        return torch.cat([torch.zeros_like(z), z - self.cut], 1)


def one_logit(net: nn.Module, threshold: float = 0.5) -> nn.Module:
    """Return a binary classifier with two logits from a network with one: class 1 where ``sigmoid(z) > threshold``.

    With threshold 0.5 its cross-entropy is the binary cross-entropy of ``z``; every attack, recipe and protocol works on it.

    Args:
        net: inputs ``(B, ...)`` to one logit ``(B,)`` or ``(B, 1)``, not to a probability.
        threshold: probability above which class 1 is predicted, in (0, 1).

    Returns:
        A module that returns logits ``(B, 2)``; the network's weights are its own.

    Raises:
        ConfigError: a threshold outside (0, 1).

    Example:
        >>> net = nn.Sequential(nn.Identity())
        >>> one_logit(net, threshold=0.9)(torch.tensor([[3.0], [2.0]])).argmax(1).tolist()
        [1, 0]
    """
    if not 0 < threshold < 1:
        raise ConfigError(f"threshold is {threshold}; give a probability above 0 and below 1")
    return TwoLogits(net, math.log(threshold / (1 - threshold)))
