"""Writing a model as a torch.export program or an ONNX file: floats (B, C, H, W) in [0, 1] to logits, any batch size."""

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

TOLERANCE = 1e-4  # of logits, relative to the largest: another program adds in another order
_BATCH = 2  # exporters take 0 and 1 for constants


def torch_file(model: nn.Module, shape: Sequence[int], path: str | Path) -> Path:
    """Write a model as a ``.pt2`` program of torch.export, which ``torch.export.load`` reads without the model's code.

    Args:
        model: eval mode; floats ``(B, *shape)`` in [0, 1] to logits.
        shape: of one input, ``(C, H, W)``.
        path: the file; replaced whole.

    Returns:
        The path.

    Raises:
        ModelError: the model cannot be exported, or the file gives other logits.
    """
    x = _sample(model, shape)

    def write(scratch: Path) -> None:
        torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},)), scratch)

    def answer(scratch: Path) -> Tensor:
        found: Tensor = torch.export.load(scratch).module()(x)
        return found

    return _written(model, x, Path(path), ".pt2", write, answer)


def onnx_file(model: nn.Module, shape: Sequence[int], path: str | Path) -> Path:
    """Write a model as an ONNX file with input ``x`` and output ``logits``; `advreg.load_model` reads it as ``onnx:FILE``.

    Args:
        model: eval mode; floats ``(B, *shape)`` in [0, 1] to logits.
        shape: of one input, ``(C, H, W)``.
        path: the file; replaced whole.

    Returns:
        The path.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ModelError: the model cannot be exported, or the file gives other logits.
    """
    for library in ("onnx", "onnxscript"):
        import_extra(library, "advreg[onnx]")
    runtime = import_extra("onnxruntime", "advreg[onnx]")
    x = _sample(model, shape)

    def write(scratch: Path) -> None:
        options: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
        names: dict[str, Any] = {"input_names": ["x"], "output_names": ["logits"]}
        torch.onnx.export(model, (x,), scratch, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), **names, **options)

    def answer(scratch: Path) -> Tensor:
        session = runtime.InferenceSession(str(scratch), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.cpu().numpy()})[0])

    return _written(model, x, Path(path), ".onnx", write, answer)


def _sample(model: nn.Module, shape: Sequence[int]) -> Tensor:
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(0))
    generator = torch.Generator().manual_seed(0)
    return torch.rand(_BATCH, *shape, generator=generator).to(weight.device, weight.dtype)


def _written(
    model: nn.Module,
    x: Tensor,
    path: Path,
    suffix: str,
    write: Callable[[Path], None],
    answer: Callable[[Path], Tensor],
) -> Path:
    """Write beside the path, compare, and only then put the file in its place."""
    scratch = path.with_name(f".{path.stem}.{os.getpid()}{suffix}")
    try:
        with torch.no_grad():
            write(scratch)
            _compare(query_model(model, x).cpu(), answer(scratch).cpu(), path)
        scratch.replace(path)
    except ModelError:
        raise
    except OSError as cause:
        raise ModelError(f"cannot write {path}: {first_line(cause)}; choose a folder that can be written") from cause
    except Exception as cause:  # exporters fail with errors of many kinds
        raise ModelError(f"the model cannot be exported to {path.name}: {first_line(cause)}") from cause
    finally:
        scratch.unlink(missing_ok=True)
    return path


def _compare(wanted: Tensor, found: Tensor, path: Path) -> None:
    if wanted.shape != found.shape:
        raise ModelError(f"{path.name} gives shape {tuple(found.shape)}, the model {tuple(wanted.shape)}")
    scale = float(wanted.abs().max().clamp_min(1.0))
    error = float((wanted - found).abs().max()) / scale
    if not error <= TOLERANCE:
        raise ModelError(
            f"{path.name} gives other logits than the model, by {error:.2g} of the largest; nothing is kept"
        )
