"""Programs of torch.export as models with gradients: the graph of a ``.pt2`` file, without the code of its model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from advreg.errors import ModelError
from advreg.plugins import first_line

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_QUANTIZED = "torch.ao.quantization.fx._decomposed"
"""Registers the operations of int8 programs; newer torch has them in torchao."""


def exported_program(path: str | Path) -> nn.Module:
    """Return the model of a torch.export file; nothing in it is unpickled.

    Args:
        path: a ``.pt2`` file that maps one batch ``(B, ...)`` to logits ``(B, K)``.

    Returns:
        The model; an int8 program computes in int8, mostly with gradients of zero.

    Raises:
        ModelError: no such file, or one that cannot be read.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"{file} is no file; give the path of a torch.export program (.pt2)")
    with suppress(ImportError):
        import_module(_QUANTIZED)
    try:
        with _weights_only():
            return torch.export.load(file).module()
    except Exception as cause:  # the reader raises many kinds of errors
        raise ModelError(f"{file} cannot be read as a torch.export program: {first_line(cause)}") from cause


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let torch load tensors alone inside the block: torch.export falls back to pickle where that fails."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        os.environ.pop(_FORCE)
        if before is not None:
            os.environ[_FORCE] = before
