"""`RunFolder`: everything one run leaves behind, in plain files that other verbs read."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.documents import parse_json, read_text
from advreg.errors import RunError, did_you_mean
from advreg.runs.files import Record, append_lines, explain_os_error, lock, read_lines, write_atomic

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class RunFolder:
    """A folder of plain files; it holds no absolute path, so a moved folder still works.

    Attributes:
        path: the folder.

    Example:
        >>> import tempfile
        >>> run = RunFolder.create(Path(tempfile.mkdtemp()) / "a")
        >>> run.append("metrics.jsonl", {"epoch": 1})
        >>> RunFolder.open(run.path).read_log("metrics.jsonl")
        [{'epoch': 1}]
    """

    path: Path

    @classmethod
    def create(cls, path: str | Path, leftovers: Collection[str] = ()) -> RunFolder:
        """Make a new run folder, parents included; an empty folder is taken as it is.

        Args:
            path: the folder; ``~`` is the home folder.
            leftovers: files that alone make no run: what one that was stopped before it began has written.

        Raises:
            RunError: there is something at `path` already, or it cannot be written.
        """
        path = Path(path).expanduser()
        with explain_os_error("create", path):
            path.mkdir(parents=True, exist_ok=True)
            names = (entry.name for entry in path.iterdir())
            taken = next((name for name in names if not name.startswith(".") and name not in leftovers), None)
            if taken is not None:
                raise RunError(f"{path} already holds a run ({taken}); resume it or give another folder")
            (path / ".lock").touch()
        return cls(path)

    @classmethod
    def at(cls, path: str | Path) -> RunFolder:
        """Return the handle of a folder, which is made when it is not there; what it holds is left alone.

        Raises:
            RunError: it cannot be made.
        """
        path = Path(path).expanduser()
        with explain_os_error("create", path):
            path.mkdir(parents=True, exist_ok=True)
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Return the handle of an existing run folder.

        Raises:
            RunError: there is no such folder; the message names a similar one beside it.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            beside = path.parent.iterdir() if path.parent.is_dir() else []
            near = did_you_mean(path.name, [entry.name for entry in beside if entry.is_dir()])
            raise RunError(f"there is no run folder at {path}; give the folder of a run.{near}")
        return cls(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def write(self, name: str, content: bytes | str) -> Path:
        """Write one file atomically, making its subfolder when needed; return its path."""
        path = self.path / name
        with explain_os_error("create", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        return path

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write one JSON object atomically, keys in the order given."""
        return self.write(name, json.dumps(dict(value), indent=2, allow_nan=False) + "\n")

    def read_text(self, name: str) -> str:
        """Return the text of one file.

        Raises:
            RunError: the file is missing or cannot be read.
        """
        path = self.path / name
        try:
            return read_text(path)
        except UnicodeDecodeError as error:
            raise RunError(f"cannot read {path}: it is not text; is {self.path} a run folder?") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise RunError(f"cannot read {path}: {reason}; is {self.path} a run folder?") from error

    def read_json(self, name: str) -> Record:
        """Return the JSON object in one file.

        Raises:
            RunError: the file is missing or is not a JSON object.
        """
        try:
            value = parse_json(self.read_text(name))
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RunError(f"{self.path / name} is not a JSON object: it was edited or damaged; restore it")
        return value

    def append(self, name: str, *records: Mapping[str, Any]) -> None:
        """Append records to a JSON-lines log, in one write."""
        append_lines(self.path / name, records)

    def read_log(self, name: str) -> list[Record]:
        """Return the records of a JSON-lines log (none if there is no log); see `read_lines`."""
        return read_lines(self.path / name)

    def save_model(self, model: nn.Module, name: str = "model.safetensors") -> Path:
        """Write the model's weights and buffers as safetensors; equal weights give equal bytes."""
        from advreg.runs.weights import serialise  # torch is needed for this one method only

        return self.write(name, serialise(model.state_dict()))

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder for one writing process; `RunError` if another one holds it."""
        return lock(self.path / ".lock")
