"""BatchNorm folded into the layer before it, where the graph proves that nothing else reads that layer."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from advreg.attacks.model import query_model
from advreg.models.copying import copy_model

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TOLERANCE = 1e-4
_SIDES = (32, 28, 224)


def fold(model: nn.Module, example: Tensor | None = None) -> tuple[nn.Module, int]:
    """Return a copy in eval mode with BatchNorms folded into the layers before them, or a plain copy.

    A BatchNorm is folded if a trace of the model shows that its input is a convolution or a linear layer,
    used once and read by no other module. The copy must give the model's logits to 1e-4, or nothing is folded.

    Args:
        model: in any mode; left as it is.
        example: inputs to compare logits on; made up where not given.

    Returns:
        The copy, and how many BatchNorms were folded in it.
    """
    plain = copy_model(model).eval()
    pairs = _pairs(plain)
    probe = _probe(plain) if example is None else example
    if not pairs or probe is None:
        return plain, 0
    folded = copy_model(plain)
    for layer, norm in pairs:
        _fold_pair(folded, layer, norm)
    return (folded, len(pairs)) if _agree(plain, folded, probe) else (plain, 0)


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names of (layer, BatchNorm) where the second can be folded into the first."""
    try:
        graph = fx.symbolic_trace(model).graph
    except Exception:  # control flow that depends on values cannot be traced: then nothing is proven
        return []
    modules = dict(model.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = Counter(id(modules[str(node.target)]) for node in calls)
    return [
        (str(node.args[0].target), str(node.target))
        for node in calls
        if node.args
        and isinstance(node.args[0], fx.Node)
        and node.args[0].op == "call_module"
        and len(node.args[0].users) == 1
        and _foldable(modules[str(node.args[0].target)], modules[str(node.target)], uses)
    ]


def _foldable(layer: nn.Module, norm: nn.Module, uses: Counter[int]) -> bool:
    # exact types: a subclass or a parametrised layer may do more than its parent
    return (
        type(layer) in (*_CONVOLUTIONS, nn.Linear)
        and type(norm) in _NORMS
        and norm.running_mean is not None
        and uses[id(layer)] == uses[id(norm)] == 1
        and not (layer._forward_hooks or layer._forward_pre_hooks or norm._forward_hooks or norm._forward_pre_hooks)
    )


def _fold_pair(model: nn.Module, layer_name: str, norm_name: str) -> None:
    layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
    fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    model.set_submodule(layer_name, fuse(layer, norm))  # type: ignore[arg-type, type-var]
    model.set_submodule(norm_name, nn.Identity())


def _probe(model: nn.Module) -> Tensor | None:
    """Make up images that the model takes, or None."""
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None:
        return None
    generator = torch.Generator().manual_seed(0)
    for side in _SIDES:
        x = torch.rand(4, first.in_channels, side, side, generator=generator).to(first.weight)
        try:
            with torch.no_grad():
                query_model(model, x)
        except Exception:  # not this size
            continue
        return x
    return None


@torch.no_grad()
def _agree(plain: nn.Module, folded: nn.Module, x: Tensor) -> bool:
    z, w = query_model(plain, x), query_model(folded, x)
    return isinstance(z, Tensor) and bool((z - w).abs().max() <= _TOLERANCE * z.abs().max())
