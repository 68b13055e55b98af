"""Everything advreg refuses, as one small tree: each message says what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AdvregError(Exception):
    """Base of every error that advreg raises on purpose; the command line turns it into one line and status 2."""


class ThreatError(AdvregError, ValueError):
    """A threat model that cannot be: unknown norm, negative eps, an empty box."""


class ModelError(AdvregError, ValueError):
    """A model that cannot be used as given: unknown name, wrong shapes, train mode, NaN or probability outputs."""


class WeightsError(ModelError):
    """A weights file that cannot be read safely: truncated, a pickle, or made for another architecture."""


class DataError(AdvregError, ValueError):
    """Data that cannot be used as given: unknown name, wrong range, shape, label, or a damaged file."""


class ConfigError(AdvregError, ValueError):
    """A configuration with an unknown key, a wrong type or an impossible combination."""


class TrainingError(AdvregError, RuntimeError):
    """Training that cannot go on: the loss or the weights are no longer finite; the last complete epoch is kept."""


class RunError(AdvregError, OSError):
    """A run folder that cannot be created, read or resumed."""


class HardeningError(AdvregError, ValueError):
    """A step of the hardening loop that is not allowed: a transition, a review, a promotion."""


class StoreError(AdvregError, OSError):
    """A store that does not answer, or whose contents are not what was put there."""


class UploadError(AdvregError, ValueError):
    """An upload that is refused; nothing of it is stored. ``status`` is HTTP's word for why."""

    def __init__(self, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.status = status


class MissingExtraError(AdvregError, ImportError):
    """An optional library is not installed; the message names the command that installs it."""


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest allowed name, or an empty string.

    Example:
        >>> did_you_mean("epochz", ["epochs", "eps"])
        " Did you mean 'epochs'?"
    """
    near = difflib.get_close_matches(given, list(allowed), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
