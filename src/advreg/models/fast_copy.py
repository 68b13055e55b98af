"""A fast frozen copy of a model: attacks query the copy, and the original verifies their points."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from advreg.attacks.model import ProxyModel, query_model
from advreg.errors import ModelError
from advreg.models.batchnorm_folding import fold
from advreg.models.copying import copy_model
from advreg.models.inference_only import InferenceOnlyModel

Precision = Literal["float32", "bfloat16", "auto"]

_AS_IT_IS = "as it is"
_ROUNDS = 3
_ROWS = 64  # rows that are timed: enough to fill the caches of a CPU
_SMALLEST = 4  # rows of the smallest compiled batch; the compiler keeps eight sizes, so up to 512 rows
_CASTABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class FastCopy(nn.Module, ProxyModel):
    """A copy of a model in eval mode without gradients of its weights, made by `freeze`.

    Gradients reach the input, and logits keep its floating type. The copy may round differently from the original, so successes
    must be verified on the original.

    Attributes:
        original: the caller's model, which verifies every success.
        choice: how the copy runs, e.g. ``"bfloat16 channels_last folded"``.
    """

    def __init__(self, original: nn.Module, net: nn.Module, choice: str) -> None:
        super().__init__()
        self.net = net
        self.choice = choice
        self._bfloat16 = "bfloat16" in choice
        self._channels_last = "channels_last" in choice
        self._compiled = _compile(net) if "compiled" in choice else None
        self._original = (original,)  # in a tuple, so that it is no submodule
        self.training = False  # without eval(), which an exported program does not allow

    @property
    def original(self) -> nn.Module:
        """The caller's model."""
        return self._original[0]

    @property
    def counted_modules(self) -> tuple[nn.Module, ...]:
        """Modules at which passes are counted: the copy, and the original if it is another module."""
        return (self.original,) if self.net is self.original else (self, self.original)

    def train(self, mode: bool = True) -> FastCopy:
        """Return the copy, which remains in eval mode."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        rows, dtype = len(x), x.dtype
        compiled = None if torch.is_grad_enabled() and x.requires_grad else self._compiled
        if compiled is not None:
            x = pad_batch(x)
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits: Tensor = self.net(x) if compiled is None else compiled(x)
        return logits[:rows].to(dtype)

    def extra_repr(self) -> str:
        """Return the choice, for ``repr``."""
        return self.choice


def original_of(model: nn.Module) -> nn.Module:
    """Return the original of a `FastCopy`, or the model itself.

    Args:
        model: a network or a fast copy.

    Returns:
        The original network.
    """
    return model.original if isinstance(model, FastCopy) else model


def pad_batch(x: Tensor) -> Tensor:
    """Return a batch padded to 4, 8, 16, ... rows with copies of its last row: each size is compiled separately.

    Args:
        x: inputs ``(B, ...)``, one row or more.

    Returns:
        Inputs with at least as many rows.

    Example:
        >>> [len(pad_batch(torch.zeros(rows, 2))) for rows in (5, 3, 64)]
        [8, 4, 64]
    """
    size = max(_SMALLEST, 1 << (len(x) - 1).bit_length())
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def _compile(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network compiled for forwards without gradients, with CUDA graphs on a GPU.

    With gradients, compiling costs more than it gains on CPUs, and compiled code allows only one gradient of an output.
    """
    cuda = any(p.is_cuda for p in net.parameters())
    compiled = torch.compile(net, dynamic=False, mode="reduce-overhead" if cuda else "default")

    def infer(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = compiled(x)
        return logits.clone()  # the next run of a graph overwrites its output

    return infer


def freeze(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    channels_last: bool = True,
    precision: Precision = "float32",
    compiled: bool = False,
) -> FastCopy:
    """Return a fast frozen copy of a model for attacks; freezing a `FastCopy` freezes its original.

    A model that cannot be copied, such as a TorchScript module or an exported program, is used as it is.

    Args:
        model: network to copy; not changed, and later changes of its weights do not reach the copy.
        example: typical inputs, to verify the folding and to time ``"auto"``, which needs them.
        channels_last: whether images are stored with their channels innermost.
        precision: ``"float32"`` keeps the model's type, ``"bfloat16"`` runs layers in 16 bits, ``"auto"`` chooses the fastest
            of these on ``example``, with or without channels_last, so the choice depends on the machine.
        compiled: whether forwards without gradients run a compiled network, in batches padded to a few sizes.

    Returns:
        A `FastCopy`: frozen, in eval mode; ``choice`` names its layout and precision.

    Raises:
        ModelError: a model made in inference mode, an unknown precision, or ``"auto"`` without an example.

    Example:
        >>> target = freeze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))
        >>> target.choice, any(p.requires_grad for p in target.parameters())
        ('float32 channels_last folded', False)
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise ModelError(f"unknown precision {precision!r}; allowed: float32 bfloat16 auto")
    original = original_of(model)
    if isinstance(original, InferenceOnlyModel):  # there are no layers to fold, cast or compile
        return FastCopy(original, original, _AS_IT_IS)
    _reject_inference(original)
    copied = _fold_copy(original, example)
    if copied is None:
        return FastCopy(original, original, _AS_IT_IS)
    net, folded = copied
    words = [word for word, wanted in (("folded", folded), ("compiled", compiled)) if wanted]
    if precision != "auto":
        layout = ["channels_last"] if channels_last and _has_images(net) else []
        return _prepare(original, net, [precision, *layout, *words])
    if example is None:
        raise ModelError("precision='auto' measures the model; give freeze an example of its inputs")
    layouts: list[list[str]] = [[], ["channels_last"]] if channels_last and _has_images(net) else [[]]
    kinds = [[dtype, *layout] for dtype in ("float32", "bfloat16") for layout in layouts]
    copies = [_prepare(original, copy_model(net), [*kind, *words]) for kind in kinds]
    return min(copies, key=lambda each: _seconds(each, example[:_ROWS]))


def _reject_inference(model: nn.Module) -> None:
    """Raise if weights were made in inference mode: autograd would raise during an attack."""
    weight = next((name for name, p in model.named_parameters() if p.is_inference()), None)
    if weight is not None:
        raise ModelError(
            f"{weight!r} was made inside torch.inference_mode(), and no gradient passes it; make or load the model outside"
        )


def _fold_copy(model: nn.Module, example: Tensor | None) -> tuple[nn.Module, bool] | None:
    """Return a folded copy in eval mode without weight gradients, and whether folding changed it; None if it cannot be copied.

    TorchScript modules, exported programs and handles to files or locks cannot be copied, or not without gradients.
    """
    try:
        net, count = fold(_unwrap_compiled(model), None if example is None else example[:_ROWS])
        return net.requires_grad_(False), count > 0
    except Exception:  # a module may raise anything when it is copied: attacks then query the model itself
        return None


def _unwrap_compiled(model: nn.Module) -> nn.Module:
    """Return the network inside torch.compile: compiled code allows one gradient a forward, and some attacks take several."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _has_images(net: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) for m in net.modules())


def _prepare(original: nn.Module, net: nn.Module, words: list[str]) -> FastCopy:
    if "channels_last" in words:
        net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if "bfloat16" in words:
        _cast_layers(net)
    return FastCopy(original, net.eval(), " ".join(words))


class Exact(nn.Module):
    """A layer outside autocast: its output has the resolution of float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.float()

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output in float32."""
        with torch.autocast(x.device.type, enabled=False):
            output: Tensor = self.layer(x.float())
        return output


def _cast_layers(net: nn.Module) -> None:
    """Cast once the layers that autocast would cast at every step, except norms, buffers and the last layer.

    Score-based attacks climb by differences that 16 bits would round away: 1/64 of a margin of 3.
    """
    names = [name for name, module in net.named_modules() if type(module) in _CASTABLE]
    for name in names[:-1]:
        net.get_submodule(name).to(torch.bfloat16)
    parent, _, leaf = names[-1].rpartition(".") if names else ("", "", "")
    if leaf:
        setattr(net.get_submodule(parent), leaf, Exact(net.get_submodule(names[-1])))


def _seconds(target: FastCopy, x: Tensor) -> float:
    """Return the median time of a forward and a gradient at the input; infinite if they raise."""
    try:
        _gradient(target, x)
        times = [_time_gradient(target, x) for _ in range(_ROUNDS)]
    except RuntimeError:  # the layer or device lacks this precision
        return float("inf")
    return statistics.median(times)


def _time_gradient(target: FastCopy, x: Tensor) -> float:
    start = time.perf_counter()
    _gradient(target, x).sum().item()  # item() waits for the device
    return time.perf_counter() - start


def _gradient(target: FastCopy, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(query_model(target, leaf).sum(), leaf)
    return gradient
