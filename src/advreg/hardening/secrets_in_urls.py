"""Secrets in URLs: read from the environment or from a file, and masked wherever a URL is shown."""

from __future__ import annotations

import os
import re
from pathlib import Path

from advreg.errors import ConfigError
from advreg.plugins import first_line

_USER = re.compile(
    r"(://[^:/@\s]*|^[^:/@\s]+):(?!//)\S*@"
)  # up to the last @, because a password may hold one that is not encoded
_QUERY = re.compile(r"([?&][^=&\s]*(?:pass|secret|token|key|sig)[^=&\s]*=)[^&\s]+", re.IGNORECASE)


def mask_url(text: str) -> str:
    """Return a text with the passwords of its URLs as ``***``.

    Args:
        text: a URL, or a message that may hold some.

    Example:
        >>> mask_url("postgresql://rae:se@cret@db/x?sslpassword=y")
        'postgresql://rae:***@db/x?sslpassword=***'
    """
    return _QUERY.sub(r"\1***", _USER.sub(r"\1:***@", text))


def read_url(text: str, key: str) -> str:
    """Return a URL of the configuration: itself, or what ``env:NAME`` or ``file:PATH`` refers to.

    Args:
        text: the value in ``harden.toml``.
        key: its key, for the error message.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read.
    """
    kind, _, name = text.partition(":")
    if kind == "env":
        found = os.environ.get(name, "")
        if not found:
            raise ConfigError(f"{key} is in the environment variable {name!r}, which is not set; export it")
        return found
    if kind == "file" and not name.startswith("//"):
        try:
            return Path(name).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{key} is in {name}, which cannot be read: {first_line(error)}") from error
    return text


def require_no_password(changes: list[str]) -> None:
    """Raise if a change given on the command line holds a password: other users see it in the list of processes.

    Args:
        changes: texts ``section.key=value``.

    Raises:
        ConfigError: one does; the message does not repeat it.
    """
    for change in changes:
        key, _, value = change.partition("=")
        if mask_url(value) != value:
            raise ConfigError(
                f"{key} has a password on the command line, where other users see it; "
                f"write {key}=env:NAME or {key}=file:PATH"
            )
