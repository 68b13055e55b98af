"""How attacks call a model: inputs copied in its own floating type, logits and gradients in float32 or wider."""

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
    "the program was exported for one batch size, and attacks need any size; export it again with "
    "dynamic_shapes=({0: torch.export.Dim.AUTO},)"
)
_ONE_GRADIENT = (
    "the model was compiled, and compiled code gives one gradient for each forward where this attack needs several; "
    "give it the module before torch.compile (model._orig_mod) or freeze(model)"
)


class ProxyModel(ABC):
    """Base class of models that attacks use in place of another model, such as a fast copy; that original verifies.

    Attacks recognise a proxy by this class only, because any model may have an attribute named ``original``.
    """

    @property
    @abstractmethod
    def original(self) -> Model:
        """The model that verifies."""


def original(model: Model) -> Model:
    """Return the model that verifies: the original of a fast copy, or the model itself.

    Args:
        model: a model or a fast copy.

    Returns:
        The original.
    """
    return model.original if isinstance(model, ProxyModel) else model


def input_dtype(model: Model) -> torch.dtype | None:
    """Return the floating type of a module's inputs: that of its first floating-point parameter or buffer.

    Args:
        model: a module, or any function of inputs.

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
    """Return the logits of a model at ``x``, in float32 or wider; attacks call a model here only.

    The model gets a copy of ``x`` in its own floating type, so that it may write into its input. Gradients reach ``x``.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        x: inputs ``(B, ...)`` of any floating type; unchanged.
        dtype: the model's floating type if known, as in a loop; from `input_dtype` if None.

    Returns:
        The model's output, 16-bit logits as float32.

    Raises:
        ModelError: a program of torch.export for another batch size.

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
    """Return 16-bit floats as float32, in which attacks store points and losses; anything else unchanged.

    The spacing of bfloat16 near 1 is 1/128: rounded to it, a ball of 8/255 loses a fifth of its radius.

    Args:
        x: a tensor, or an output that is none.

    Returns:
        The same values, in float32 or wider.
    """
    return x.float() if isinstance(x, Tensor) and x.dtype in _HALF else x


class Bound(nn.Module):
    """A function of 16-bit inputs that accepts float32 points, for a model without weights that determine its type."""

    def __init__(self, model: Model, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self.training = False  # its parts keep their modes

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the function."""
        return self.model(x.to(self.dtype))


def bind_dtype(model: Model, x: Tensor) -> Model:
    """Return the model, bound to the type of ``x`` if that is 16 bits wide and no weight determines the model's type.

    Args:
        model: a module, or any function of inputs.
        x: inputs as the caller passed them.

    Returns:
        A model that accepts float32 points.
    """
    if getattr(x, "dtype", None) not in _HALF or isinstance(model, ProxyModel) or input_dtype(model) is not None:
        return model
    return Bound(model, x.dtype)


def own_leaf(adv: Tensor) -> Tensor:
    """Return the same values detached from every graph; tensors of inference mode are copied.

    Args:
        adv: points ``(B, ...)``.

    Returns:
        A leaf tensor ``(B, ...)``.
    """
    return adv.clone() if adv.is_inference() else adv.detach()


def gradient_at(value: Tensor, point: Tensor, *, retain_graph: bool = False) -> Tensor:
    """Return the gradient of the summed value with respect to the point, with non-finite entries as zero.

    Args:
        value: values ``(B,)``.
        point: leaf tensor ``(B, ...)``.
        retain_graph: whether to keep the graph for another gradient.

    Returns:
        Gradients ``(B, ...)``.

    Raises:
        ModelError: the value does not depend on the point in a way that autograd can follow.
    """
    grad = None
    if value.requires_grad:
        try:
            grad = torch.autograd.grad(value.sum(), point, allow_unused=True, retain_graph=retain_graph)[0]
        except RuntimeError as cause:
            if "donated" not in str(cause):
                raise
            raise ModelError(_ONE_GRADIENT) from cause
    if grad is None:
        raise ModelError(
            "no gradient flows from the logits to the input (a detach, a no_grad, or a step such as argmax in the model); "
            "gradient attacks cannot work: use one that needs scores only, such as square (protocol blackbox)"
        )
    return torch.nan_to_num(grad, 0.0, 0.0, 0.0)
