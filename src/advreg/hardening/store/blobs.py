"""Content-addressed storage: bytes by their SHA-256, in a local folder or at any fsspec URL."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from advreg.errors import StoreError
from advreg.hardening.secrets_in_urls import mask_url
from advreg.plugins import first_line, import_extra


@dataclass(frozen=True)
class Blobs:
    """Bytes named by their SHA-256, so that no input of a client becomes part of a path.

    Example:
        >>> import tempfile
        >>> blobs = Blobs.at(tempfile.mkdtemp())
        >>> name = blobs.put(b"seen in production")
        >>> blobs.get(name)
        b'seen in production'
    """

    files: Any
    root: str
    local: bool

    @classmethod
    def at(cls, url: str | Path) -> Blobs:
        """Return the blobs at a folder or URL; a missing local folder is created.

        Args:
            url: a folder, or an fsspec URL such as ``s3://bucket/attacks``.

        Raises:
            StoreError: the URL cannot be used.
        """
        fsspec = import_extra("fsspec", "advreg[harden]")
        try:
            files, root = fsspec.url_to_fs(str(url))
            local = "file" in _names(files.protocol)
            if local:
                Path(root).mkdir(mode=0o700, parents=True, exist_ok=True)
            else:
                files.makedirs(root, exist_ok=True)
        except (OSError, ValueError, ImportError) as error:
            why = mask_url(f"{url}: {first_line(error)}")
            raise StoreError(f"cannot keep bytes at {why}; give a folder or an fsspec URL") from error
        return cls(files, root.rstrip("/"), local)

    def put(self, content: bytes) -> str:
        """Write the bytes atomically, once, and return their SHA-256.

        Args:
            content: the bytes.

        Raises:
            StoreError: the bytes cannot be written.
        """
        name = hashlib.sha256(content).hexdigest()
        path = self._path(name)
        try:
            if not self.files.exists(path):
                self._write(path, content)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.root}: {first_line(error)}; free space or choose a folder"
            ) from error
        return name

    def check_write(self) -> None:
        """Write and delete some bytes.

        Raises:
            StoreError: the bytes cannot be written.
        """
        path = f"{self.root}/{secrets.token_hex(8)}.tmp"
        try:
            self.files.pipe_file(path, b"advreg")
            self.files.rm_file(path)
        except OSError as error:
            raise StoreError(
                f"cannot write to {self.root}: {first_line(error)}; free space or choose a folder"
            ) from error

    def get(self, name: str) -> bytes:
        """Return the bytes of a SHA-256.

        Args:
            name: 64 hexadecimal digits.

        Raises:
            StoreError: the bytes are missing, or they were changed.
        """
        try:
            content: bytes = self.files.cat_file(self._path(name))
        except OSError as error:
            raise StoreError(f"no bytes {name[:12]} at {self.root}: {first_line(error)}; restore them") from error
        if hashlib.sha256(content).hexdigest() != name:
            raise StoreError(f"the bytes {name[:12]} at {self.root} were changed; restore them")
        return content

    def files_with_age(self) -> Iterator[tuple[str, int, float]]:
        """Yield path, size in bytes and age in seconds of every file, temporary ones included.

        Raises:
            StoreError: the files cannot be listed.
        """
        try:
            for path, facts in self.files.find(self.root, detail=True).items():
                changed = facts.get("mtime") or facts.get("LastModified") or facts.get("created") or time.time()
                seconds = changed.timestamp() if isinstance(changed, datetime) else float(changed)
                yield path, int(facts.get("size") or 0), time.time() - seconds
        except OSError as error:
            raise StoreError(f"cannot list {self.root}: {first_line(error)}; check the folder") from error

    def delete(self, path: str) -> None:
        """Delete a file that `files_with_age` listed.

        Args:
            path: its path.

        Raises:
            StoreError: the file cannot be deleted.
        """
        try:
            self.files.rm_file(path)
        except OSError as error:
            raise StoreError(f"cannot delete {path}: {first_line(error)}; check the folder") from error

    def _path(self, name: str) -> str:
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            raise StoreError(f"{name[:80]!r} is not a SHA-256; give 64 hexadecimal digits")
        return f"{self.root}/{name[:2]}/{name}"

    def _write(self, path: str, content: bytes) -> None:
        """Write atomically; an object store does so by itself."""
        folder = path.rpartition("/")[0]
        if not self.local:
            self.files.makedirs(folder, exist_ok=True)
            self.files.pipe_file(path, content)
            return
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        scratch = Path(f"{path}.{secrets.token_hex(8)}.tmp")
        try:
            with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


def _names(protocol: str | tuple[str, ...]) -> tuple[str, ...]:
    return (protocol,) if isinstance(protocol, str) else protocol
