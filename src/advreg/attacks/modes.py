"""Which parts of a model are in train mode: modules by their flag, exported programs by the operations of their graph."""

from __future__ import annotations

from torch import fx, nn

from advreg.attacks.model import Model, original
from advreg.errors import ModelError

_EXPORT_AGAIN = "export it again from model.eval(): torch.export.export(model.eval(), ...)"


def is_exported(module: nn.Module) -> bool:
    """Return whether a module is a program of torch.export, whose mode was fixed in its graph: eval() raises."""
    return isinstance(module, fx.GraphModule) and "eval" in vars(module)


def trained_operations(program: fx.GraphModule) -> list[str]:
    """Return the operations of an exported program that run as in training, such as ``"aten.dropout.default"``."""
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function" and _trains(node)]


def _trains(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema is not None else []
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return any(given.get(name) is True for name in ("train", "training"))


def training_parts(model: nn.Module) -> list[tuple[str, str]]:
    """Return the parts of a module that are in train mode, each with its remedy; none where all is in eval mode."""
    found: list[tuple[str, str]] = []
    exported: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(program) for program in exported):
            continue
        if is_exported(module):
            exported.append(f"{name}." if name else "")
            found += [(operation, _EXPORT_AGAIN) for operation in trained_operations(module)]
        elif getattr(module, "training", False) and not _holds_exported(module):  # a frozen script has no mode
            kind = type(module).__name__
            found.append((f"{name} ({kind})" if name else kind, "call model.eval() first"))
    return found


def _holds_exported(module: nn.Module) -> bool:
    return any(is_exported(part) for part in module.modules())


def hold_eval(model: nn.Module) -> None:
    """Put a model in eval mode, except for exported programs in it, which have no other mode than that of their graph."""
    if not _holds_exported(model):
        model.eval()
        return
    for part in model.children() if not is_exported(model) else ():
        hold_eval(part)
    model.training = False


def require_eval_mode(model: Model) -> None:
    """Raise unless every part of the model is in eval mode: BatchNorm and dropout would answer for the batch.

    Raises:
        ModelError: some module is in train mode.
    """
    for part in (model, original(model)):
        for name, remedy in training_parts(part) if isinstance(part, nn.Module) else ():
            raise ModelError(f"the model is in train mode: {name}; attacks need eval mode: {remedy}")
