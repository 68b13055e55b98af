"""Options that the verbs of ``advreg harden`` share, and the workspace that they open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from advreg.hardening.store import Store
    from advreg.hardening.workspace import Workspace

HomeOption = Annotated[Path, typer.Option("--home", help="Folder of the loop.")]
HOME = Path("harden")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def open_workspace(path: Path) -> Workspace:
    """Open the workspace in a folder."""
    from advreg.hardening.workspace import Workspace

    os.umask(0o077)  # what a verb writes into a workspace is for its owner alone
    return Workspace.open(path)


def open_store(path: Path) -> Store:
    """Open the store of the workspace in a folder."""
    return open_workspace(path).store()


def choose(text: str, allowed: list[Any], what: str) -> str:
    """Return a choice that was given as text, if it is one of those that are allowed.

    Args:
        text: the given choice.
        allowed: the allowed choices.
        what: name of the option, for the message.

    Returns:
        The given text.

    Raises:
        ConfigError: another text.
    """
    from advreg.errors import ConfigError, did_you_mean

    if text not in allowed:
        raise ConfigError(f"{what} is {text!r}; allowed: {', '.join(allowed)}.{did_you_mean(text, allowed)}")
    return text
