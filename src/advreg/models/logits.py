"""Logits in the output of a network: a tensor, a tuple, a dict, an object with ``logits``."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from advreg.errors import ModelError


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
