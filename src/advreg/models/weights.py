"""Weights in and out of files without ever running what a file contains."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from advreg import runtime
from advreg.errors import WeightsError
from advreg.models.checkpoint_layouts import match_names
from advreg.models.fast_copy import original_of
from advreg.models.inference_only import InferenceOnlyModel
from advreg.models.normalize import Normalize, Normalized

State = dict[str, Tensor]

_NESTS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "shadow",
    "state_dict", "model_state_dict", "model", "net", "weights", "params",
)  # fmt: skip
"""Keys around a state dict, averaged weights first: published figures are those of the average where there is one."""
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and by torch.compile
_SPARE = 1000  # parameters that a network may have beyond those of its file before its construction stops
_SAVE = "save it with torch.save(model.state_dict(), path) or as safetensors"


def read_state(path: str | Path) -> State:
    """Read a state dict from safetensors or from a weights-only torch file.

    Args:
        path: the file; a dict around the state dict and prefixes such as ``module.`` are taken off.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: absent, truncated, or holding anything but tensors.

    Example:
        >>> import tempfile
        >>> file = f"{tempfile.mkdtemp()}/weights.pt"
        >>> torch.save({"state_dict": {"module.weight": torch.zeros(2)}}, file)
        >>> read_state(file)
        {'weight': tensor([0., 0.])}
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise WeightsError(f"no weights file {file}; give a .safetensors file or a torch state dict")
    content = _load_safetensors(file) if _is_safetensors(file) else _load_torch(file)
    return _without_prefix(_unnest(file, content))


def _is_safetensors(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(9)
    return file.suffix == ".safetensors" or head[8:] == b"{"  # its first 8 bytes are the length of a JSON header


def _load_safetensors(file: Path) -> State:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as cause:
        raise WeightsError(f"{file}: truncated or damaged safetensors file; copy it again") from cause


def _load_torch(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickles, which the next line rejects
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as cause:  # a damaged file can fail anywhere in torch's reader
        if "GLOBAL " in str(cause) or _is_bare_pickle(file):
            problem = f"{file}: pickled Python objects, which may run code and are never read"
            raise WeightsError(f"{problem}; {_SAVE}") from cause
        raise WeightsError(f"{file}: truncated or damaged, or not a weights file; {_SAVE}") from cause


def _is_bare_pickle(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(4)
    return head[:1] == b"\x80" and head[2:] not in (b"", b"\x8a\n")  # torch's old format goes on with a long integer


def _unnest(file: Path, content: object) -> State:
    if _is_state(content):
        return dict(content)  # type: ignore[call-overload, no-any-return]
    if isinstance(content, Mapping):
        for key in _NESTS:
            inner = content.get(key)
            if isinstance(inner, Mapping) and inner:
                return _unnest(file, inner)
    raise WeightsError(f"{file}: holds {type(content).__name__} without a state dict; {_SAVE}")


def _is_state(content: object) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())


def _without_prefix(state: State) -> State:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _without_prefix({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into a model; a file that does not fit leaves the model as it was.

    Args:
        model: of the architecture that the file was made for; if it normalises its input around an inner
            network, the file may hold the inner network alone.
        path: see `read_state`.

    Raises:
        WeightsError: unreadable, not finite, or with other names or shapes; the first is named.
    """
    part, state = _fit(Path(path), read_state(path), model)
    wanted = part.state_dict()
    _check_shapes(Path(path), state, wanted)
    _check_finite(Path(path), state, wanted)
    counters = {key: wanted[key] for key in wanted.keys() - state.keys()}
    part.load_state_dict({**state, **counters})


def check_fit(path: str | Path, build: Callable[[], nn.Module]) -> None:
    """Check that the weights of a file have the names and shapes of a model, which is built without memory.

    Args:
        path: see `read_state`.
        build: makes a model of the architecture that the file was made for.

    Raises:
        WeightsError: unreadable, or with other names or shapes; the first is named.
    """
    state = read_state(path)
    with torch.device("meta"), _limit_parameters(path, 2 * len(state) + _SPARE):
        model = build()
    part, renamed = _fit(Path(path), state, model)
    _check_shapes(Path(path), renamed, part.state_dict())


@contextmanager
def _limit_parameters(path: str | Path, most: int) -> Iterator[None]:
    """Stop this thread's construction of a network at a number of parameters: a file may name 10^4 layers."""
    left, builder = iter(range(most)), get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if get_ident() == builder and next(left, None) is None:
            raise WeightsError(
                f"{path} does not fit this model: it holds far fewer weights; restore the run's model.json"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _fit(path: Path, state: State, model: nn.Module) -> tuple[nn.Module, State]:
    """Return the module that a state is for, the model or the network inside its normalisation, and the state by its names.

    A state that fits neither is returned as it is, so that the next check names the first difference.
    """
    parts = (model, model.net) if isinstance(model, Normalized) else (model,)
    for part in parts:
        found = match_names(state, part.state_dict().keys())
        if found is not None:
            _check_scales(path, found.scales, model)
            return part, found.state
    return (parts[-1] if not any(key.startswith("net.") for key in state) else model), state


def _check_scales(path: Path, scales: tuple[Tensor, Tensor] | None, model: nn.Module) -> None:
    """Raise where a checkpoint holds a normalisation other than the model's: its figures would be those of another model."""
    own = model.normalize if isinstance(model, Normalized) else Normalize(0.0, 1.0)
    if scales is None or own.mean.is_meta:
        return
    mean, std = (numbers.float().cpu() for numbers in scales)
    if not (_agree(mean, own.mean) and _agree(std, own.std)):
        given = f"mean {[round(v, 4) for v in mean.tolist()]} and std {[round(v, 4) for v in std.tolist()]}"
        raise WeightsError(
            f"{path} holds a normalisation with {given}, which this model lacks; give it as mean and std"
        )


def _agree(numbers: Tensor, own: Tensor) -> bool:
    """Return whether two lists of numbers, one for each channel or one for all, are equal to three decimals."""
    first, second = numbers.flatten(), own.flatten().cpu()
    same_length = len(first) == len(second) or 1 in (len(first), len(second))
    return same_length and bool(((first - second).abs() <= 1e-3).all())


def _check_shapes(path: Path, state: State, wanted: Mapping[str, Tensor]) -> None:
    for key, tensor in wanted.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):  # a counter that old files lack and evaluation ignores
                continue
            raise WeightsError(f"{path} does not fit this model: no {key!r} {tuple(tensor.shape)} in the file")
        if state[key].shape != tensor.shape:
            sizes = f"{tuple(state[key].shape)} in the file, {tuple(tensor.shape)} in the model"
            raise WeightsError(f"{path} does not fit this model: {key!r} is {sizes}")
    unknown = [key for key in state if key not in wanted]
    if unknown:
        shape = tuple(state[unknown[0]].shape)
        raise WeightsError(f"{path} does not fit this model: {unknown[0]!r} {shape} is not in the model")


def _check_finite(path: Path, state: State, wanted: Mapping[str, Tensor]) -> None:
    for key, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()) and not torch.equal(tensor, wanted[key].cpu()):  # a mask of -inf
            raise WeightsError(f"{path}: {key!r} holds NaN or infinity; the training that made it diverged")


def state_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's names, types, shapes and values, whatever its device or memory layout.

    Args:
        model: any module.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> state_sha256(net) == state_sha256(net.requires_grad_(False))
        True
    """
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        _add(digest, key, value)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, key: str, value: object) -> None:
    """Add an entry of a state dict to a digest: a tensor, or what quantised layers keep beside tensors."""
    if isinstance(value, tuple | list):
        for k, entry in enumerate(value):
            _add(digest, f"{key}.{k}", entry)
    elif not isinstance(value, Tensor):
        digest.update(f"{key} {value!r}\n".encode())
    elif value.is_quantized:
        _add(digest, f"{key} {value.qscheme()}", (value.int_repr(), *_scales(value)))
    elif type(value) is not nn.Parameter and hasattr(
        value, "__tensor_flatten__"
    ):  # a subclass that packs other tensors
        names, _ = value.__tensor_flatten__()
        _add(digest, f"{key} {type(value).__name__}", [getattr(value, name) for name in names])
    else:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(runtime.raw_bytes(value))


def _scales(value: Tensor) -> tuple[object, ...]:
    """Return scales and zero points of a quantised tensor."""
    if value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return value.q_scale(), value.q_zero_point()
    return value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis()


def describe(model: nn.Module) -> dict[str, Any]:
    """Return the identity of a model in results: its name, number of parameters and SHA-256 of its weights.

    Args:
        model: a network or a fast copy, which is described by its original.

    Returns:
        ``name``, ``parameters`` and ``sha256``.

    Example:
        >>> describe(nn.Linear(2, 2))["parameters"]
        6
    """
    original = original_of(model)
    spec = getattr(original, "advreg_spec", {})
    return {
        "name": spec.get("name", type(original).__name__),
        "parameters": sum(p.numel() for p in original.parameters()),
        "sha256": original.fingerprint if isinstance(original, InferenceOnlyModel) else state_sha256(original),
    }
