"""Where published data sets lie on this machine, and how they come there: downloading comes last."""

from __future__ import annotations

import http.client
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from advreg.errors import DataError

Progress = Callable[[int, int], None]  # bytes so far, bytes in all (0 where the server does not send it)
Check = Callable[[Path], object]  # raises DataError where the file is not what it should be

_SYSTEM = Path("/usr/share/datasets")
_BLOCK = 1 << 18


def cache_folder() -> Path:
    """Return the folder that downloads go to: ``$XDG_CACHE_HOME/advreg``, by default ``~/.cache/advreg``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advreg"


def find(name: str, files: Iterable[str]) -> Path | None:
    """Return the first folder ``<root>/name`` that holds all the files, or None.

    The roots are ``$ADVREG_DATA``, the system's ``/usr/share/datasets`` and the cache, in this order.

    Args:
        name: folder of the data set.
        files: names of its files.

    Returns:
        The folder, or None.
    """
    wanted = list(files)
    own = os.environ.get("ADVREG_DATA")
    roots = [*([Path(own)] if own else []), _SYSTEM, cache_folder()]
    folders = (root / name for root in roots)
    return next((folder for folder in folders if all((folder / file).is_file() for file in wanted)), None)


def download(url: str, path: Path, check: Check, progress: Progress | None = None) -> None:
    """Download a file, check it, and only then give it its name: half a file is never mistaken for data.

    Args:
        url: where it is published.
        path: what it will be called.
        check: called with the downloaded file; raises where it is not the published one.
        progress: called after every block with bytes so far and bytes in all.

    Raises:
        DataError: no network, an unwritable folder, or a file that fails the check; nothing stays behind.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "published").write_bytes(b"data")
        >>> download((folder / "published").as_uri(), folder / "copy", check=lambda file: None)
        >>> (folder / "copy").read_bytes()
        b'data'
    """
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as out:
            partial = Path(out.name)
            _stream(url, out, progress)
        check(partial)
        os.replace(partial, path)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as cause:
        reason = getattr(cause, "reason", None) or cause
        raise DataError(f"cannot download {url} to {path.parent} ({reason}); {_remedy(path)}") from cause
    except DataError as cause:
        raise DataError(f"{url} is not the file it should be: {cause}; {_remedy(path)}") from cause
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _stream(url: str, out: IO[bytes], progress: Progress | None) -> None:
    done = 0
    with urllib.request.urlopen(url, timeout=30) as response:  # the timeout is for silence, not for the whole file
        total = int(response.headers.get("Content-Length") or 0)
        while block := response.read(_BLOCK):
            out.write(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    out.flush()
    os.fsync(out.fileno())


def _remedy(path: Path) -> str:
    return f"or put {path.name} into $ADVREG_DATA/{path.parent.name}/ yourself"
