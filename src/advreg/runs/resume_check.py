"""Whether a run that is to be gone on with is the one that was begun: its configuration says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advreg.errors import RunError
from advreg.runs.folder import RunFolder

_MAY_CHANGE = ("train.out", "train.device")  # a moved folder and another machine are no other run


def check_same_config(run: RunFolder, begun: Mapping[str, Any], now: Mapping[str, Any]) -> RunFolder:
    """Return the run if its stored configuration allows it to be resumed with the given one.

    Args:
        run: the run folder.
        begun: configuration of the run when it was started, section -> key -> value.
        now: configuration to resume with.

    Returns:
        The same run folder.

    Raises:
        RunError: the first key that differs, with both values.
    """
    before = flat(begun)
    for key, value in flat(now).items():
        if key not in _MAY_CHANGE and before.get(key) != value:
            raise RunError(
                f"{run.path} was started with {key} = {before.get(key)!r}, not {value!r}; "
                "resume it as it was, or train in another folder"
            )
    return run


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with one level of keys; what is in no section keeps its name.

    Args:
        values: section -> key -> value.

    Returns:
        ``section.key`` -> value.

    Example:
        >>> flat({"seed": 0, "train": {"epochs": 3}})
        {'seed': 0, 'train.epochs': 3}
    """
    nested: dict[str, Any] = {}
    for name, value in values.items():
        nested |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {name: value}
    return nested
