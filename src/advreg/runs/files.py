"""Writing that a crash cannot spoil: files replaced whole, logs that only grow, one writer at a time."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advreg.documents import parse_json
from advreg.errors import RunError

try:
    import fcntl
except ImportError:  # not a POSIX system: a second writer is then not noticed
    fcntl = None  # type: ignore[assignment]

Record = dict[str, Any]

_ENCODER = json.JSONEncoder(allow_nan=False)
_BLOCK = 1 << 20  # bytes of a log that are read at once


@contextmanager
def explain_os_error(action: str, path: Path) -> Iterator[None]:
    """Turn errors of the operating system inside the block into a one-line `RunError`.

    Args:
        action: verb for the message, such as ``"create"``.
        path: the file or folder.

    Raises:
        RunError: the operating system rejected the action.
    """
    try:
        yield
    except RunError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"cannot {action} {path}: {reason}; choose a folder that can be written") from error


def write_atomic(path: Path, content: bytes | str | Iterable[bytes]) -> None:
    """Replace the file at `path` by `content`, so that a crash leaves the old file or the new one, whole.

    Args:
        path: the file; its folder must exist.
        content: bytes, text written as UTF-8, or pieces of a file that need not fit into memory together.

    Raises:
        RunError: the file cannot be written; what was there before is untouched.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_os_error("write", path):
        try:
            with scratch.open("wb") as file:
                content = content.encode() if isinstance(content, str) else content
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)
        _sync_folder(path.parent)


def remove_leftovers(folder: Path, names: Iterable[str]) -> None:
    """Remove the leftovers of a killed writer of these files; call it under their lock only.

    Args:
        folder: folder of the files.
        names: names of the files.
    """
    for name in names:
        for scratch in folder.glob(f".{name}.*.tmp"):
            scratch.unlink(missing_ok=True)


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON records to a log, one a line, in one write; a line that a crash cut short is removed first.

    Args:
        path: the log; made if it does not exist.
        records: JSON objects.

    Raises:
        RunError: the log cannot be written.
    """
    lines = "".join(_ENCODER.encode(dict(record)) + "\n" for record in records)
    with explain_os_error("append to", path):
        _truncate_partial_line(path)
        with path.open("ab") as log:
            log.write(lines.encode())
            log.flush()
            os.fsync(log.fileno())


def read_lines(path: Path) -> list[Record]:
    """Return the records of a log; a last line cut by a crash is left out with a warning, never written over.

    Args:
        path: the log; no records if it does not exist.

    Returns:
        The records, in order.

    Raises:
        RunError: a complete line is not a JSON object, so the file was edited or damaged.
    """
    if not path.exists():
        return []
    with explain_os_error("read", path):
        content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        _warn_of_cut(path)
    return [_parse(path, number, line) for number, line in enumerate(whole.splitlines(), 1)]


def read_first(path: Path) -> Record | None:
    """Return the first record of a log, such as a ledger's header; None where there is none, or a crash cut it (a warning).

    Args:
        path: the log.

    Returns:
        The record, or None.

    Raises:
        RunError: the line is not a JSON object.
    """
    if not path.exists():
        return None
    with explain_os_error("read", path), path.open("rb") as file:
        line = file.readline()
    if line and not line.endswith(b"\n"):
        _warn_of_cut(path)
    return _parse(path, 1, line) if line.endswith(b"\n") else None


def read_blocks(path: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yield a log in blocks of whole lines, so that a log of gigabytes needs a megabyte of memory.

    Args:
        path: the log; no block if it does not exist.

    Yields:
        Offset of the first line in bytes, and the lines with their ends. A last line cut by a crash is left out with a warning.
    """
    if not path.exists():
        return
    offset, rest = 0, b""
    with explain_os_error("read", path), path.open("rb") as file:
        while block := file.read(_BLOCK):
            whole = rest + block
            end = whole.rfind(b"\n") + 1
            yield offset, whole[:end].splitlines(keepends=True)
            offset, rest = offset + end, whole[end:]
    if rest:
        _warn_of_cut(path)


def parse_block(path: Path, lines: list[bytes]) -> list[Record]:
    """Return the records of some lines of a log, much faster than one line at a time.

    Args:
        path: the log, for the message.
        lines: whole lines.

    Returns:
        The records.

    Raises:
        RunError: a line is not a JSON object.
    """
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        records = []
    if len(records) == len(lines) and all(type(record) is dict for record in records):
        return list(records)
    return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold `path` as the sign that one process writes here; the system releases it even after a kill.

    Args:
        path: the lock file; made if it does not exist.

    Raises:
        RunError: another process holds it.
    """
    with explain_os_error("lock", path):
        file = path.open("w")
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"{path.parent} is in use by another process; wait or stop it") from error
        yield


def _warn_of_cut(path: Path) -> None:
    warnings.warn(f"{path}: the last line was cut by a crash and is left out", RuntimeWarning, stacklevel=3)


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise RunError(f"{path} line {number} is not a JSON object: the file was damaged; restore it")
    return record


def _truncate_partial_line(path: Path) -> None:
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as log:
        log.seek(-1, os.SEEK_END)
        if log.read() != b"\n":
            log.seek(0)
            log.truncate(log.read().rfind(b"\n") + 1)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
