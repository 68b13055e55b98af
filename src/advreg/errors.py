"""The errors of advreg, one small tree; each message has what was given, what is allowed, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class AdvregError(Exception):
    """Base of every error that advreg raises deliberately; the command line prints one line and exits with 2."""


class ThreatError(AdvregError, ValueError):
    """An invalid threat model: unknown norm, negative eps, an empty box."""


class ModelError(AdvregError, ValueError):
    """A model that cannot be used as given: unknown name, wrong shapes, train mode, NaN or probability outputs."""


class WeightsError(ModelError):
    """A weights file that cannot be read safely: truncated, a pickle, or made for another architecture."""


class DataError(AdvregError, ValueError):
    """Data that cannot be used as given: unknown name, wrong range, shape, label, or a damaged file."""


class ConfigError(AdvregError, ValueError):
    """A configuration with an unknown key, a wrong type or an impossible combination."""


class TrainingError(AdvregError, RuntimeError):
    """Training that cannot continue: the loss or the weights are not finite; the last complete epoch remains."""


class RunError(AdvregError, OSError):
    """A run folder that cannot be created, read or resumed."""


class HardeningError(AdvregError, ValueError):
    """A step of the hardening loop that is not allowed: a transition, a review, a promotion."""


class StoreError(AdvregError, OSError):
    """A store that does not respond, or whose contents differ from what was stored."""


class UploadError(AdvregError, ValueError):
    """A rejected upload, nothing of which is stored. ``status`` is the HTTP status."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class MissingExtraError(AdvregError, ImportError):
    """An optional library is not installed; the message names the command that installs it."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest allowed name, or an empty string.

    Args:
        given: the unknown name.
        allowed: the allowed names.

    Returns:
        The hint, with a leading space.

    Example:
        >>> did_you_mean("epochz", ["epochs", "eps"])
        " Did you mean 'epochs'?"
    """
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def did_you_mean_path(path: Path) -> str:
    """Return `` Did you mean 'x'?`` for the nearest name beside a path that does not exist, or an empty string.

    Args:
        path: the path.

    Returns:
        The hint, with a leading space.

    Example:
        >>> did_you_mean_path(Path("no/such/folder"))
        ''
    """
    parent = path.expanduser().parent
    beside = [each.name for each in parent.iterdir()] if parent.is_dir() else []
    found = did_you_mean(path.name, beside)
    return found if parent == Path() or not found else found.replace("'", f"'{parent}/", 1)
