"""The files of an ONNX model: the graph, and the files beside it that hold its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advreg.errors import ModelError
from advreg.plugins import first_line, import_extra

_KEY = b"location"
"""Key of a tensor's file in the graph; without these bytes no tensor is outside."""


def onnx_fingerprint(file: Path) -> str:
    """Return the SHA-256 of an ONNX file and of every file that it takes weights from.

    A file that holds its weights itself has the SHA-256 of its bytes.

    Args:
        file: the ONNX file.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelError: it takes weights from a file that is missing or outside its folder.
        MissingExtraError: its weights are in other files, and onnx is not installed.
    """
    content = file.read_bytes()
    digest = hashlib.sha256(content)
    for name in sorted(external_files(content, file)) if _KEY in content else ():
        place = file.parent / name
        if not place.resolve().is_relative_to(file.parent.resolve()):
            raise ModelError(f"{file} takes weights from {name!r}, outside its folder; keep them beside the file")
        if not place.is_file():
            raise ModelError(f"{file} takes weights from {name!r}, which is missing; copy it beside the file")
        digest.update(f"\n{name}\n".encode())
        with place.open("rb") as part:
            digest.update(hashlib.file_digest(part, "sha256").digest())
    return digest.hexdigest()


def external_files(content: bytes, file: Path) -> set[str]:
    """Return the names of the files in which the tensors of an ONNX model are.

    Args:
        content: the bytes of the ONNX file.
        file: its path, for error messages.

    Returns:
        Names relative to the folder of the ONNX file.

    Raises:
        ModelError: the bytes are no ONNX model.
        MissingExtraError: onnx is not installed.
    """
    onnx = import_extra("onnx", "advreg[onnx]")
    try:
        model = onnx.load_model_from_string(content)
    except Exception as cause:  # errors of the protobuf library
        raise ModelError(f"{file} cannot be read as ONNX: {first_line(cause)}") from cause
    return {entry.value for tensor in _tensors(model) for entry in tensor.external_data if entry.key == "location"}


def _tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor of a message, those of nested graphs too."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if not hasattr(value, "ListFields") else (value,):
                yield from _tensors(part)
