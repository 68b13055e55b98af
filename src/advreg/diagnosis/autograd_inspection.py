"""Find where gradients vanish: operations without a gradient in autograd's graph, and modules that pass none back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.diagnosis.gradient_checks import describe_or_reraise
from advreg.diagnosis.module_hooks import Call, record_calls

_FLAT = ("round", "floor", "ceil", "trunc", "sign", "sgn", "heaviside", "fix")
_CAP = 100_000  # nodes that are visited at most


def flat_operations(model: nn.Module, x: Tensor) -> list[str]:
    """Return the names of operations without a gradient between the input and the logits, such as ``"round"``.

    Args:
        model: original network.
        x: a few inputs ``(B, ...)``.

    Returns:
        Names without duplicates.
    """
    with torch.enable_grad():
        z = query_model(model, x.detach().requires_grad_(True))
    seen: set[object] = set()
    found: set[str] = set()
    stack = [z.grad_fn]
    while stack and len(seen) < _CAP:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().lower().removesuffix("0").removesuffix("backward")
        found |= {name} & set(_FLAT)
        stack += [parent for parent, _ in node.next_functions]
    return sorted(found)


def dead_modules(model: nn.Module, x: Tensor) -> list[Call]:
    """Return the innermost modules whose output passes no gradient back to their input, in the order of the forward.

    Args:
        model: original network.
        x: a few inputs ``(B, ...)``.

    Returns:
        Calls of these modules.
    """
    dead = [call for call in record_calls(model, x) if call.name and is_dead(call)]
    outer = {name.rsplit(".", k)[0] for name in (c.name for c in dead) for k in range(1, name.count(".") + 1)}
    return [call for call in dead if call.name not in outer]


def is_dead(call: Call) -> bool:
    """Return whether a module alone passes no gradient back: it raises, or its gradient is missing or zero everywhere.

    Args:
        call: a module with its input and output.

    Returns:
        True where no gradient comes back.
    """
    if not call.input.is_floating_point():
        return False
    try:
        with torch.enable_grad():
            leaf = call.input.detach().clone().requires_grad_(True)
            out = call.module(leaf.clone())
            weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype, device=out.device).view_as(out)
            found = torch.autograd.grad((out * weights).sum(), leaf, allow_unused=True)[0]
    except Exception as cause:  # a user's backward may raise anything: no gradient comes back
        return bool(describe_or_reraise(cause))
    return found is None or not bool(found.any())
