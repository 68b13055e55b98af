"""Write a model as a torch.export program or an ONNX file that maps floats (B, C, H, W) in [0, 1] to logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advreg.attacks.model import query_model
from advreg.errors import ModelError
from advreg.plugins import first_line, import_extra

TOLERANCE = 1e-4
"""Largest error of the logits, relative to the largest logit; another program may sum in another order."""
_BATCH = 2  # exporters treat batch sizes 0 and 1 as constants


def torch_file(model: nn.Module, shape: Sequence[int], path: str | Path) -> Path:
    """Write a model as a program of torch.export; `torch.export.load` reads it without the code of the model.

    Args:
        model: maps floats ``(B, *shape)`` in [0, 1] to logits ``(B, K)``, for any B; eval mode.
        shape: of one input, ``(C, H, W)``.
        path: the file; an existing one is replaced atomically.

    Returns:
        The path.

    Raises:
        ModelError: the model cannot be exported, the path cannot be written, or the file gives other logits.

    Example:
        >>> import tempfile
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
        >>> torch_file(model, (1, 2, 2), f"{tempfile.mkdtemp()}/model.pt2").name
        'model.pt2'
    """
    x = _sample(model, shape)

    def write(scratch: Path) -> None:
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)), scratch)

    def read(scratch: Path) -> Tensor:
        logits: Tensor = torch.export.load(scratch).module()(x)
        return logits

    return _write_checked(model, x, Path(path), ".pt2", write, read)


def onnx_file(model: nn.Module, shape: Sequence[int], path: str | Path) -> Path:
    """Write a model as an ONNX file with input ``x`` and output ``logits``; `advreg.load_model` reads it as ``onnx:FILE``.

    Args:
        model: maps floats ``(B, *shape)`` in [0, 1] to logits ``(B, K)``, for any B; eval mode.
        shape: of one input, ``(C, H, W)``.
        path: the file; an existing one is replaced atomically.

    Returns:
        The path.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ModelError: the model cannot be exported, the path cannot be written, or the file gives other logits.
    """
    for library in ("onnx", "onnxscript"):
        import_extra(library, "advreg[onnx]")
    runtime = import_extra("onnxruntime", "advreg[onnx]")
    x = _sample(model, shape)

    def write(scratch: Path) -> None:
        options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
        names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"]}
        torch.onnx.export(model, (x,), scratch, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), **names, **options)

    def read(scratch: Path) -> Tensor:
        session = runtime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.cpu().numpy()})[0])

    return _write_checked(model, x, Path(path), ".onnx", write, read)


def _sample(model: nn.Module, shape: Sequence[int]) -> Tensor:
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(_BATCH, *shape, generator=generator).to(weight.device, weight.dtype)


def _write_checked(
    model: nn.Module,
    x: Tensor,
    path: Path,
    suffix: str,
    write: Callable[[Path], None],
    read: Callable[[Path], Tensor],
) -> Path:
    """Write a file beside the path, compare its logits with those of the model, and only then move it to the path."""
    scratch = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
    try:
        with torch.no_grad():
            write(scratch)
            _compare(query_model(model, x).cpu(), read(scratch).cpu(), path)
        scratch.replace(path)
    except ModelError:
        raise
    except OSError as cause:
        raise ModelError(f"cannot write {path}: {first_line(cause)}; choose a writable folder") from cause
    except Exception as cause:  # exporters raise many kinds of errors
        raise ModelError(f"the model cannot be exported to {path.name}: {first_line(cause)}") from cause
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _compare(expected: Tensor, found: Tensor, path: Path) -> None:
    if expected.shape != found.shape:
        raise ModelError(f"{path.name} gives shape {tuple(found.shape)}, the model {tuple(expected.shape)}")
    scale = float(expected.abs().max().clamp_min(1.0))
    error = float((expected - found).abs().max()) / scale
    if not error <= TOLERANCE:
        raise ModelError(
            f"{path.name} gives other logits than the model, by {error:.2g} of the largest; the file is not kept"
        )
