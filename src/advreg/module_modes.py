"""Train and eval mode of a model's modules: which parts are in train mode, and eval mode inside a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

_EXPORT_AGAIN = "export it again from model.eval(): torch.export.export(model.eval(), ...)"


@contextmanager
def eval_mode(model: nn.Module, *, freeze: bool = False) -> Iterator[nn.Module]:
    """Put every module in eval mode inside the block, then restore each module's own mode, also after an exception.

    Programs of torch.export keep the mode of their graph: `training_parts` reports whether that is train mode.

    Args:
        model: the model; changed in place.
        freeze: whether the weights also take no gradient inside the block.

    Returns:
        A context manager that yields the model.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1).eval(), nn.Dropout())
        >>> with eval_mode(model):
        ...     [module.training for module in model]
        [False, False]
        >>> [module.training for module in model]
        [False, True]
    """
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        _set_eval(model)
        with frozen_weights(model) if freeze else nullcontext():
            yield model
    finally:
        for module, mode in modes:
            module.training = mode


def _set_eval(model: nn.Module) -> None:
    """Call ``eval()`` on a model, or on the parts that have an ``eval()``: exported programs raise there."""
    if not _holds_exported(model):
        model.eval()
        return
    for part in model.children() if not is_exported(model) else ():
        _set_eval(part)
    model.training = False


def train_mode(model: nn.Module, *, freeze_batchnorm: bool = False) -> None:
    """Put every module in train mode.

    Args:
        model: the model; changed in place.
        freeze_batchnorm: whether BatchNorm modules go to eval mode instead, so that their running statistics do not change.
            Their scale and shift remain trainable.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout())
        >>> train_mode(model, freeze_batchnorm=True)
        >>> [module.training for module in model]
        [False, True]
    """
    model.train()
    for module in model.modules():
        if freeze_batchnorm and isinstance(module, _BatchNorm):
            module.eval()


def is_exported(module: nn.Module) -> bool:
    """Return whether a module is a program of torch.export; its mode is fixed in its graph, and its ``eval()`` raises.

    Args:
        module: any module.

    Returns:
        True for the module that ``torch.export`` or ``torch.export.load`` returns.
    """
    return isinstance(module, fx.GraphModule) and "eval" in vars(module)


def train_mode_operations(program: fx.GraphModule) -> list[str]:
    """Return the operations of an exported program that run in train mode, such as ``"aten.dropout.default"``.

    Args:
        program: the graph of an exported program.

    Returns:
        Names of the operations, in the order of the graph.
    """
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function" and _is_training(node)]


def _is_training(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return any(given.get(name) is True for name in ("train", "training"))


def training_parts(model: nn.Module) -> list[tuple[str, str]]:
    """Return the parts of a model that are in train mode, each with its remedy; an empty list if all are in eval mode.

    Args:
        model: any model.

    Returns:
        Pairs of a part and its remedy.

    Example:
        >>> training_parts(nn.Sequential(nn.Linear(2, 2).eval(), nn.Dropout()).train())[-1]
        ('1 (Dropout)', 'call model.eval() first')
    """
    parts: list[tuple[str, str]] = []
    exported: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(program) for program in exported):
            continue
        if is_exported(module):
            exported.append(f"{name}." if name else "")
            parts += [(operation, _EXPORT_AGAIN) for operation in train_mode_operations(module)]
        elif getattr(module, "training", False) and not _holds_exported(module):  # frozen TorchScript has no mode
            kind = type(module).__name__
            parts.append((f"{name} ({kind})" if name else kind, "call model.eval() first"))
    return parts


def _holds_exported(module: nn.Module) -> bool:
    return any(is_exported(part) for part in module.modules())


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Make every weight of the model need no gradient inside the block.

    Args:
        model: a network; weights that needed no gradient before need none afterwards.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen_weights(layer):
        ...     layer.weight.requires_grad
        False
        >>> layer.weight.requires_grad
        True
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
