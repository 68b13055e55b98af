"""How a model is called: with a copy of the points in its own floating type; its logits and gradients in float32 at least."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from advreg.errors import ModelError

Model = Callable[[Tensor], Tensor]
"""Anything that maps inputs ``(B, ...)`` to logits ``(B, K)``; an ``nn.Module`` nearly always."""

_HALF = (torch.float16, torch.bfloat16)
_FLOATING = (*_HALF, torch.float32, torch.float64)
_FIXED_SHAPE = (
    "the program was exported for one batch size, and attacks need any; export it again with "
    "dynamic_shapes=({0: torch.export.Dim.AUTO},)"
)
_ONE_GRADIENT = (
    "the model was compiled, and compiled code gives one gradient for each forward where this attack needs several; "
    "give it the module before torch.compile (model._orig_mod) or freeze(model)"
)


class ProxyModel(ABC):
    """What attacks work on in another model's place, such as a fast copy of it; that other model, its original, judges.

    A class to derive from, not an attribute to have: anybody's model may keep something of its own under any name.
    """

    @property
    @abstractmethod
    def original(self) -> Model:
        """The model that judges."""


def original(model: Model) -> Model:
    """Return the model that judges: the one a fast target was made from, or the model itself."""
    return model.original if isinstance(model, ProxyModel) else model


def input_dtype(model: Model) -> torch.dtype | None:
    """Return the floating type of a module's inputs: that of its first floating-point parameter, or buffer if it has none.

    Returns:
        The type; None for a function, and for a module without weights.

    Example:
        >>> input_dtype(nn.Linear(2, 2).bfloat16()), input_dtype(nn.Flatten())
        (torch.bfloat16, None)
    """
    module = original(model)
    if not isinstance(module, nn.Module):
        return None
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.dtype in _FLOATING:
            return tensor.dtype
    return None


def query_model(model: Model, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the logits of a model at ``x``, in float32 at least; the only place where a model is called.

    The model gets a copy of ``x`` in its own floating type, so that it may write into its input. Gradients reach ``x``.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        x: inputs ``(B, ...)`` in any floating type; unchanged.
        dtype: the model's floating type where it is known already, as in a loop; `input_dtype` finds it if None.

    Returns:
        What the model returns, 16-bit logits as float32.

    Raises:
        ModelError: a program of torch.export that was made for another batch size.

    Example:
        >>> x = torch.ones(1, 2)
        >>> query_model(lambda x: x.sub_(0.5), x).tolist(), x.tolist()
        ([[0.5, 0.5]], [[1.0, 1.0]])
    """
    dtype = dtype or input_dtype(model) or x.dtype
    own = x.clone() if dtype == x.dtype else x.to(dtype)
    try:
        return widen(model(own))
    except AssertionError as cause:
        if "Guard failed" not in str(cause):
            raise
        raise ModelError(f"{cause}: {_FIXED_SHAPE}") from cause


def widen(x: Tensor) -> Tensor:
    """Return 16-bit floats in float32, in which attacks hold points and losses; anything else as it is.

    The spacing of bfloat16 near 1 is 1/128: rounded to it, a ball of 8/255 loses a fifth of its radius.
    """
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x


class Bound(nn.Module):
    """A function of 16-bit inputs that takes float32 points: it has no weights that tell its input type."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.training = False  # its parts keep their own modes

    def forward(self, x: Tensor) -> Tensor:
        """Return what the function returns."""
        return self.model(x.to(self.dtype))


def bind_dtype(model: Model, x: Tensor) -> Model:
    """Return the model, bound to the type of ``x`` where that is 16 bits wide and no weight tells what the model takes.

    Args:
        model: a module, or any function of inputs.
        x: inputs as the caller has them.
    """
    if getattr(x, "dtype", None) not in _HALF or isinstance(model, ProxyModel) or input_dtype(model) is not None:
        return model
    return Bound(model, x.dtype)


def own_leaf(adv: Tensor) -> Tensor:
    """Return the same values outside every graph: without a copy, but for tensors of inference mode, which take no gradient."""
    return adv.clone() if adv.is_inference() else adv.detach()


def gradient_at(value: Tensor, point: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return the gradient of the summed value to the point, non-finite entries as zero.

    Raises:
        ModelError: the value does not depend on the point in a way autograd can follow.
    """
    found = None
    if value.requires_grad:
        try:
            found = torch.autograd.grad(value.sum(), point, allow_unused=True, retain_graph=retain_graph)[0]
        except RuntimeError as cause:
            if "donated" not in str(cause):
                raise
            raise ModelError(_ONE_GRADIENT) from cause
    if found is None:
        raise ModelError(
            "no gradient flows from the logits to the input (a detach, a no_grad, or a step such as argmax in the model); "
            "gradient attacks cannot see through it: use one that needs scores only, such as square (protocol blackbox)"
        )
    return torch.nan_to_num(found, 0.0, 0.0, 0.0)
