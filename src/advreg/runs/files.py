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


def write_atomic(path: Path, content: bytes | str) -> None:
    """Replace the file at `path` by `content`, so that a crash leaves the old file or the new one, whole.

    Args:
        path: the file; its folder must exist.
        content: bytes, or text written as UTF-8.

    Raises:
        RunError: the file cannot be written; what was there before is untouched.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explain_os_error("write", path):
        try:
            with scratch.open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
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
    lines = "".join(json.dumps(dict(record), allow_nan=False) + "\n" for record in records)
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
        warnings.warn(f"{path}: the last line was cut by a crash and is left out", RuntimeWarning, stacklevel=2)
    return [_parse(path, number, line) for number, line in enumerate(whole.splitlines(), 1)]


def read_first(path: Path) -> Record | None:
    """Return the first record of a log, such as a ledger's header; None where there is none, or a crash cut it.

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
    return _parse(path, 1, line) if line.endswith(b"\n") else None


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
