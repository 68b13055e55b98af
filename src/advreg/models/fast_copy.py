"""The target: a frozen, fast copy of a model. Attacks propose on it; the original decides."""

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
_ROWS = 64  # enough to fill a CPU's caches, few enough to be quick
_SMALLEST = 4  # rows of the smallest batch that is compiled; eight sizes, up to 512, are as many as the compiler keeps
_CASTABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class FastCopy(nn.Module, ProxyModel):
    """A copy of a model in eval mode, without gradients for its weights: fast, and not to be believed.

    Made by `freeze`. Gradients reach the input. Input and logits keep the caller's floating type.

    Attributes:
        original: the caller's own model, on which every success has to be verified.
        choice: how the copy runs, e.g. ``"bfloat16 channels_last folded"``.
    """

    def __init__(self, original: nn.Module, net: nn.Module, choice: str) -> None:
        super().__init__()
        self.net = net
        self.choice = choice
        self._bfloat16 = "bfloat16" in choice
        self._channels_last = "channels_last" in choice
        self._swift = _compiled(net) if "compiled" in choice else None
        self._original = (original,)  # in a tuple it is no submodule: its weights are not those of the copy
        self.training = False  # the network is in eval mode already, and an exported program allows no call of eval()

    @property
    def original(self) -> nn.Module:
        """The caller's own model."""
        return self._original[0]

    @property
    def doors(self) -> tuple[nn.Module, ...]:
        """Modules at which passes are counted, none twice: the copy and the original, if they differ."""
        return (self.original,) if self.net is self.original else (self, self.original)

    def train(self, mode: bool = True) -> FastCopy:
        """Return itself: the copy stays in eval mode."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(B, K)``."""
        rows, kind = len(x), x.dtype
        swift = None if torch.is_grad_enabled() and x.requires_grad else self._swift
        if swift is not None:
            x = padded(x)
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self._bfloat16):
            logits: Tensor = self.net(x) if swift is None else swift(x)
        return logits[:rows].to(kind)

    def extra_repr(self) -> str:
        """Return the choice, for ``repr``."""
        return self.choice


def original_of(model: nn.Module) -> nn.Module:
    """Return the caller's own model behind a `FastCopy`, or the model itself.

    Args:
        model: a network or a fast copy.

    Returns:
        The original network.
    """
    return model.original if isinstance(model, FastCopy) else model


def padded(x: Tensor) -> Tensor:
    """Return a batch padded to 4, 8, 16, ... rows with copies of its last row: each size is compiled separately.

    Args:
        x: inputs ``(B, ...)``, one row or more.

    Returns:
        Inputs with at least as many rows.

    Example:
        >>> len(padded(torch.zeros(5, 2))), len(padded(torch.zeros(3, 2))), len(padded(torch.zeros(64, 2)))
        (8, 4, 64)
    """
    size = max(_SMALLEST, 1 << (len(x) - 1).bit_length())
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def _compiled(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the network compiled for forwards without gradients, with CUDA graphs on a GPU.

    With gradients, compiling costs more than it gains on CPUs, and compiled code allows only one gradient of an output.
    """
    cuda = any(p.is_cuda for p in net.parameters())
    made = torch.compile(net, dynamic=False, mode="reduce-overhead" if cuda else "default")

    def infer(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = made(x)
        return logits.clone()  # a graph overwrites this output at its next run

    return infer


def freeze(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    channels_last: bool = True,
    precision: Precision = "float32",
    compiled: bool = False,
) -> FastCopy:
    """Return a fast frozen copy of a model for attacks to work on; freezing a `FastCopy` freezes its original.

    A model that cannot be copied, such as a TorchScript module or an exported program, is attacked as it is.

    Args:
        model: left as it is; a later change of its weights does not reach the copy.
        example: inputs as they will come, to check the folding and to measure on; needed for ``"auto"``.
        channels_last: whether images run with their channels innermost in memory.
        precision: ``"float32"`` leaves the model's type alone, ``"bfloat16"`` runs layers in 16 bits, and
            ``"auto"`` takes whichever of these, with or without channels_last, is fastest on ``example`` now:
            name the others to have the same choice on every machine.
        compiled: whether forwards without gradients run a compiled network, in batches padded to a few sizes.

    Returns:
        A `FastCopy`: frozen, in eval mode; ``choice`` names its layout and precision.

    Raises:
        ModelError: a model that was made in inference mode, an unknown precision, or ``"auto"`` without an example.

    Example:
        >>> target = freeze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()))
        >>> target.choice, any(p.requires_grad for p in target.parameters())
        ('float32 channels_last folded', False)
    """
    if precision not in ("float32", "bfloat16", "auto"):
        raise ModelError(f"unknown precision {precision!r}; allowed: float32 bfloat16 auto")
    original = original_of(model)
    if isinstance(original, InferenceOnlyModel):  # nothing inside to fold, cast or compile
        return FastCopy(original, original, _AS_IT_IS)
    _reject_inference(original)
    made = _folded(original, example)
    if made is None:
        return FastCopy(original, original, _AS_IT_IS)
    net, folded = made
    words = [word for word, wanted in (("folded", folded), ("compiled", compiled)) if wanted]
    if precision != "auto":
        layout = ["channels_last"] if channels_last and _has_images(net) else []
        return _target(original, net, [precision, *layout, *words])
    if example is None:
        raise ModelError("precision='auto' measures the model; give freeze an example of its inputs")
    layouts: list[list[str]] = [[], ["channels_last"]] if channels_last and _has_images(net) else [[]]
    kinds = [[kind, *layout] for kind in ("float32", "bfloat16") for layout in layouts]
    targets = [_target(original, copy_model(net), [*kind, *words]) for kind in kinds]
    return min(targets, key=lambda target: _seconds(target, example[:_ROWS]))


def _reject_inference(model: nn.Module) -> None:
    """Raise if no gradient can ever pass the weights; they would fail under attack, one layer deep in torch."""
    made = next((name for name, p in model.named_parameters() if p.is_inference()), None)
    if made is not None:
        raise ModelError(
            f"{made!r} was made inside torch.inference_mode(), and no gradient passes it; make or load the model outside"
        )


def _folded(model: nn.Module, example: Tensor | None) -> tuple[nn.Module, bool] | None:
    """Return a folded copy in eval mode without weight gradients, and whether folding changed it; None where none can be made.

    Scripts, exported programs and handles to files or locks allow no copy, or none without gradients.
    """
    try:
        net, count = fold(_uncompiled(model), None if example is None else example[:_ROWS])
        return net.requires_grad_(False), count > 0
    except Exception:  # a module may raise anything when it is copied: attacks then work on the model itself
        return None


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the network that torch.compile wrapped: compiled code gives one gradient a forward, some attacks need several."""
    inner = getattr(model, "_orig_mod", model)
    return inner if isinstance(inner, nn.Module) else model


def _has_images(net: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) for m in net.modules())


def _target(original: nn.Module, net: nn.Module, words: list[str]) -> FastCopy:
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
    """Cast once what autocast would cast at every step; norms, buffers and the last layer stay as they are.

    Attacks that see scores only climb by differences that 16 bits round away: 1/64 of a margin of 3.
    """
    names = [name for name, module in net.named_modules() if type(module) in _CASTABLE]
    for name in names[:-1]:
        net.get_submodule(name).to(torch.bfloat16)
    parent, _, leaf = names[-1].rpartition(".") if names else ("", "", "")
    if leaf:
        setattr(net.get_submodule(parent), leaf, Exact(net.get_submodule(names[-1])))


def _seconds(target: FastCopy, x: Tensor) -> float:
    """Return the median time of a forward and a gradient to the input; infinite if they fail."""
    try:
        _gradient(target, x)
        times = [_timed(target, x) for _ in range(_ROUNDS)]
    except RuntimeError:  # a layer or a device without this precision
        return float("inf")
    return statistics.median(times)


def _timed(target: FastCopy, x: Tensor) -> float:
    begin = time.perf_counter()
    _gradient(target, x).sum().item()  # reading a number waits for the device
    return time.perf_counter() - begin


def _gradient(target: FastCopy, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(query_model(target, leaf).sum(), leaf)
    return gradient
