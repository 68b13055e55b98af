"""Load a network by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from advreg import published
from advreg.documents import MOST_CLASSES, check_links, parse_json, read_text
from advreg.errors import ModelError, WeightsError, did_you_mean
from advreg.models import inference_only, third_party, zoo
from advreg.models.exported import exported_program
from advreg.models.weights import check_fit, load_weights, state_sha256
from advreg.module_modes import is_exported
from advreg.plugins import check_file_name, is_factory, trusting

_PRETRAINED: dict[str, Callable[..., nn.Module]] = {
    "timm": third_party.timm,
    "torchvision": third_party.torchvision,
}
_INFERENCE_ONLY: dict[str, Callable[..., inference_only.Service]] = {
    "onnx": inference_only.onnx,
    "http": inference_only.endpoint,
    "https": inference_only.endpoint,
}
_RESERVED = ("checkpoint_path", "has_weights", "name", "pretrained_cfg", "pretrained_cfg_overlay")
"""Options that load weights from elsewhere, or that are not the network's."""
_SCALES = ("mean", "std")
_FORMS = (
    *(f"zoo:{name}" for name in zoo.NAMES),
    *(f"{scheme}:" for scheme in (*_PRETRAINED, published.SCHEME, "export", "onnx", "http", "https")),
)


def load(name: str, weights: str | Path | None = None, *, trust_code: bool = False, **options: Any) -> nn.Module:
    """Return a network in eval mode that takes pixels in [0, 1] and gives logits.

    Args:
        name: ``zoo:mnist-cnn``, ``zoo:wide-resnet-28-10``, ``timm:NAME``, ``torchvision:NAME``,
            ``robustbench:NAME`` (with weights), ``export:FILE`` (torch.export), ``onnx:FILE``, ``http://...`` or
            ``https://...`` (models without gradients: see `advreg.models.inference_only`),
            ``pkg.module:factory``, or the path of a run folder.
        weights: safetensors or a torch state dict; never a pickle.
        trust_code: let a run folder's ``model.json`` name code (``pkg.module:factory``), which is imported and called.
        options: for the network, such as ``classes`` (needed by a model that returns labels); a run folder has its own.

    Returns:
        The network; ``advreg_spec`` holds its name and options.

    Raises:
        ModelError: unknown name or option, a factory that fails, or a run folder that names code without ``trust_code``.
        WeightsError: weights that cannot be read safely or do not fit.
        MissingExtraError: the name needs a library that is not installed.

    Example:
        >>> load("zoo:mnist-dnn").advreg_spec
        {'name': 'zoo:mnist-dnn', 'options': {}}
    """
    with trusting(trust_code):
        return load_with(name, weights, options)


def load_with(name: str, weights: str | Path | None, options: Mapping[str, Any]) -> nn.Module:
    """Return a network with options of a configuration, which cannot be arguments of `load` itself.

    Args:
        name: ``zoo:NAME``, ``timm:NAME``, ``torchvision:NAME``, ``onnx:FILE``, an address, ``pkg.module:factory`` or a run
            folder.
        weights: safetensors or a torch state dict; never a pickle.
        options: options of the network; any name is allowed.

    Returns:
        The network in eval mode.

    Raises:
        ModelError: unknown name or option, or a factory that fails.
        WeightsError: weights that cannot be read safely or do not fit.
        MissingExtraError: the name needs a library that is not installed.

    Example:
        >>> import torch
        >>> load_with("zoo:mnist-cnn", None, {"classes": 3})(torch.zeros(1, 1, 28, 28)).shape
        torch.Size([1, 3])
    """
    options = dict(options)
    if Path(name).is_dir():
        return _from_run(Path(name), weights, options)
    model = _build(name, has_weights=weights is not None, options=options)
    if weights is not None:
        load_weights(model, weights)
    return _with_spec(model, name, options)


def _build(name: str, *, has_weights: bool, options: dict[str, Any]) -> nn.Module:
    scheme, _, rest = name.partition(":")
    if scheme == "zoo":
        return zoo.build(rest, **options)
    if scheme in _PRETRAINED:  # nothing is downloaded only to be overwritten
        return _PRETRAINED[scheme](rest, **(options | ({"pretrained": False} if has_weights else {})))
    if scheme == published.SCHEME:
        return _build_published(rest, has_weights=has_weights, options=options)
    if scheme == "export":
        return _own_weights(name, exported_program(rest), has_weights=has_weights, options=options)
    if scheme in _INFERENCE_ONLY:
        return _inference_only(name, scheme, rest, has_weights=has_weights, options=options)
    if is_factory(name):
        return third_party.factory(name, **options)
    near = did_you_mean(name if rest else f"zoo:{name}", _FORMS)
    raise ModelError(f"unknown model {name!r}.{near} Allowed: {' '.join(_FORMS)} pkg.module:factory or a run folder")


def _build_published(name: str, *, has_weights: bool, options: dict[str, Any]) -> nn.Module:
    known = published.find(name)
    if not has_weights:
        raise ModelError(
            f"robustbench:{name} has no weights here, and nothing is downloaded; give the file, --weights FILE"
        )
    return zoo.build(known.network, **{**known.options, **options})


def _own_weights(name: str, model: nn.Module, *, has_weights: bool, options: dict[str, Any]) -> nn.Module:
    if has_weights or options:
        raise ModelError(f"{name} brings its own weights and options; leave weights and {list(options)} out")
    return model


def _inference_only(name: str, scheme: str, rest: str, *, has_weights: bool, options: dict[str, Any]) -> nn.Module:
    if has_weights:
        raise ModelError(f"{name} brings its own weights; leave weights out")
    classes = options.pop("classes", None)
    return inference_only.InferenceOnlyModel(
        _INFERENCE_ONLY[scheme](rest if scheme == "onnx" else name, **options), classes
    )


def _with_spec(model: nn.Module, name: str, options: dict[str, Any]) -> nn.Module:
    # a plain dict beside the modules: enough to build the network again, and to write model.json
    model.advreg_spec = {"name": name, "options": options}  # type: ignore[assignment]
    return model if is_exported(model) else model.eval()


def _from_run(run: Path, weights: str | Path | None, options: dict[str, Any]) -> nn.Module:
    if options:
        raise ModelError(f"{run} is a run folder, which has its own options; remove {' '.join(options)}")
    check_links(run)
    spec = _read_spec(run / "model.json")
    file = Path(weights or run / "model.safetensors")
    _check_size(spec, file)
    model = _build(spec["name"], has_weights=True, options=dict(spec["options"]))
    load_weights(model, file)
    if weights is None and spec.get("sha256") not in (None, found := state_sha256(model)):
        problem = f"{run / 'model.safetensors'}: its weights have SHA-256 {found}, model.json says {spec['sha256']}"
        raise WeightsError(f"{problem}; one of the two was replaced, give the file with weights=")
    return _with_spec(model, spec["name"], spec["options"])


def _check_size(spec: dict[str, Any], weights: Path) -> None:
    """Check that a network of the zoo fits its weights before it takes memory: a file may name any size."""
    if spec["name"].startswith("zoo:"):
        check_fit(weights, lambda: _build(spec["name"], has_weights=True, options=dict(spec["options"])))


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = parse_json(read_text(path))
    except FileNotFoundError as cause:
        raise ModelError(
            f"{path.parent} is no run folder: it has no model.json; give a run folder or a name"
        ) from cause
    except (ValueError, OSError) as cause:
        raise ModelError(f"{path}: cannot be read ({cause}); restore it from the run") from cause
    if not (isinstance(spec, dict) and isinstance(spec.get("name"), str) and isinstance(spec.get("options"), dict)):
        raise ModelError(f"{path}: must hold name and options; restore it from the run")
    check_file_name(spec["name"], f"{path}: name", ModelError)
    check_options(spec["options"], f"{path}: options")
    return spec


def check_options(options: Mapping[str, Any], source: str) -> None:
    """Check the options of a network that a file gives: sizes within reason, and no file of weights.

    Args:
        options: keyword arguments of the network.
        source: the file, for the message.

    Raises:
        ModelError: an option is too large, or names a file.
    """
    for key, value in options.items():
        if key in _SCALES:  # units of the inputs, as large as they are
            continue
        numbers = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int | float)]
        if any(abs(number) > MOST_CLASSES for number in numbers):
            raise ModelError(f"{source}.{key} is {str(value)[:40]}; allowed in a file: up to {MOST_CLASSES}")
        if key in _RESERVED:
            raise ModelError(f"{source} holds {key!r}; weights come from model.safetensors or --weights, remove it")
