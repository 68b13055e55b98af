"""The judge: the original model, in its own precision and in eval mode, decides what is broken. Nothing else does."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from advreg.attacks.inputs import read_inputs, read_labels, reject_classes, reject_logits, reject_probabilities
from advreg.errors import DataError, ModelError
from advreg.objectives import answered, are_probabilities, fooled
from advreg.threat import ThreatModel

Model = Callable[[Tensor], Tensor]
"""Anything that maps inputs ``(B, ...)`` to logits ``(B, K)``; an ``nn.Module`` nearly always."""

_PROBABILITIES: ContextVar[bool] = ContextVar("whether attacks accept probabilities", default=False)

_HALF = (torch.float16, torch.bfloat16)
_FLOATING = (*_HALF, torch.float32, torch.float64)

TOLERANCE = 1e-6
"""Slack for points made elsewhere: forty times the rounding of a float32 pixel. Our own attacks need none of it."""


class Deputy(ABC):
    """What attacks work on in another model's place, such as a fast copy of it; that other model, its original, judges.

    A class to derive from, not an attribute to have: anybody's model may keep something of its own under any name.
    """

    @property
    @abstractmethod
    def original(self) -> Model:
        """The model that judges."""


def original(model: Model) -> Model:
    """Return the model that judges: the one a fast target was made from, or the model itself."""
    return model.original if isinstance(model, Deputy) else model


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
    tensors = itertools.chain(module.parameters(), module.buffers())
    return next((tensor.dtype for tensor in tensors if tensor.dtype in _FLOATING), None)


def query_model(model: Model, x: Tensor) -> Tensor:
    """Return the logits of a model at ``x``, in float32 at least; the only place where a model is called.

    The model gets a copy of ``x`` in its own floating type, so that it may write into its input. Gradients reach ``x``.

    Args:
        model: maps ``(B, ...)`` to logits ``(B, K)``.
        x: inputs ``(B, ...)`` in any floating type; unchanged.

    Returns:
        What the model returns, 16-bit logits as float32.

    Example:
        >>> x = torch.ones(1, 2)
        >>> query_model(lambda x: x.sub_(0.5), x).tolist(), x.tolist()
        ([[0.5, 0.5]], [[1.0, 1.0]])
    """
    return as_points(model(x.to(input_dtype(model) or x.dtype, copy=True)))


def as_points(x: Tensor) -> Tensor:
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
    if getattr(x, "dtype", None) not in _HALF or isinstance(model, Deputy) or input_dtype(model) is not None:
        return model
    return Bound(model, x.dtype)


def refuse_training_mode(model: Model) -> None:
    """Raise unless every part of the model is in eval mode: BatchNorm and dropout would answer for the batch.

    Raises:
        ModelError: some module is in train mode.
    """
    for part in (model, original(model)):
        if isinstance(part, nn.Module):
            for name, module in part.named_modules():
                if module.training:
                    raise ModelError(
                        f"the model is in train mode ({name or type(module).__name__}); "
                        "attacks need eval mode: call model.eval() first"
                    )


def logits_of(model: Model, x: Tensor) -> Tensor:
    """Return the logits of a model without gradient and without autocast.

    Raises:
        ModelError: the output is not ``(B, K)``.
    """
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        z = query_model(model, x)
    reject_logits(z, len(x))
    return z


def reject_device(model: Model, x: Tensor) -> None:
    """Raise unless the model's weights are where the inputs are.

    Raises:
        ModelError: they are on another device.
    """
    module = original(model)
    weight = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    if weight is not None and weight.device != x.device:
        raise ModelError(f"the model is on {weight.device}, the inputs are on {x.device}; move one with .to()")


@contextmanager
def accepting_probabilities() -> Iterator[None]:
    """Let attacks run on models that end in a softmax inside the block: a diagnosis measures what that hides.

    Example:
        >>> with accepting_probabilities():
        ...     reject_softmax(nn.Softmax(1), torch.ones(1, 2), torch.ones(1, 2) / 2, (0.0, 1.0))
    """
    token = _PROBABILITIES.set(True)
    try:
        yield
    finally:
        _PROBABILITIES.reset(token)


def reject_softmax(model: Model, x: Tensor, logits: Tensor, box: tuple[float, float]) -> None:
    """Raise if a model outputs probabilities; black boxes with ``score_only`` may.

    Honest logits of few examples may sum to 1 by chance, so suspicious ones are confirmed at other points.

    Args:
        model: maps inputs to logits.
        x: clean inputs ``(B, ...)``.
        logits: what the model returned for them.
        box: lowest and highest valid value.

    Raises:
        ModelError: the outputs are probabilities everywhere.
    """
    if _PROBABILITIES.get() or getattr(original(model), "score_only", False) or not are_probabilities(logits):
        return
    low, high = box
    few = x[:8]
    reject_probabilities(logits_of(model, torch.cat([(few + low) / 2, (few + high) / 2])))


def refuse_nan(logits: Tensor) -> None:
    """Raise unless the model answered every clean input with numbers; a mask may set logits of ruled-out classes to -inf.

    Raises:
        ModelError: some answer is NaN or infinite.
    """
    bad = int((~answered(logits)).sum())
    if bad:
        raise ModelError(f"the model answers NaN or infinity for {bad} of {len(logits)} clean inputs; mend it first")


def judged(
    model: Model, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel, targeted: bool = False
) -> tuple[Tensor, Tensor]:
    """Return whether each point is broken ``(B,)`` and the original model's logits ``(B, K)``: one forward.

    Raises:
        DataError: a label beyond the model's classes.
    """
    z = logits_of(original(model), x_adv)
    reject_classes(y, z.shape[1])
    return fooled(z, y, targeted) & threat.contains(x_adv, x, TOLERANCE), z


def verify(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel, *, targeted: bool = False) -> Tensor:
    """Say for each example whether ``x_adv`` breaks the model inside the threat model.

    Broken = the original model's largest logit is not the label's (is the target's, if targeted) or it answers NaN, every
    value is inside the box, and the distance measured in float64 is within eps (tolerance 1e-6).

    Args:
        model: the model, or a fast target made from it, whose original is then asked.
        x: clean inputs ``(B, ...)``.
        x_adv: inputs to judge ``(B, ...)``.
        y: labels ``(B,)``, or the wanted classes if targeted.
        threat: what the adversary may do.
        targeted: whether ``y`` is the class the adversary wants.

    Returns:
        Booleans ``(B,)``.

    Raises:
        ModelError: the model is in train mode or does not return logits.
        DataError: points or labels that do not fit the inputs.

    Example:
        >>> model = nn.Linear(2, 2, bias=False).eval()
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> x, y = torch.tensor([[0.6, 0.4]]), torch.tensor([0])
        >>> verify(model, x, torch.tensor([[0.45, 0.55]]), y, ThreatModel("linf", 0.2)).tolist()
        [True]
    """
    refuse_training_mode(model)
    x = read_inputs(x, threat.box)
    x_adv, y = read_inputs(x_adv, threat.box), read_labels(y, x)
    if x_adv.shape != x.shape:
        raise DataError(f"x_adv is {tuple(x_adv.shape)}, x is {tuple(x.shape)}; give one point for each input")
    reject_device(model, x_adv)
    return judged(model, x, x_adv, y, threat, targeted)[0]
