"""The configuration that a run folder holds, and the one to train with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from advreg.documents import check_links
from advreg.errors import RunError

C = TypeVar("C")


def read_run_config(config: C | str | Path, schema: type[C], file: str, *, resume: bool) -> C:
    """Return the configuration to train with, validated; a run folder gives the one inside it.

    Args:
        config: a configuration, a TOML file, or a run folder to resume.
        schema: class of the configuration; it has ``load``, ``checked`` and ``train.out``.
        file: name of the configuration in a run folder.
        resume: whether a run folder may be given.

    Returns:
        An instance of ``schema``; its ``train.out`` is the folder where a run folder was given.

    Raises:
        ConfigError: the configuration is not valid.
        RunError: a run folder was given without ``resume``.

    Example:
        >>> from advreg.config import Config
        >>> read_run_config(Config(), Config, "config.toml", resume=False).train.epochs == Config().train.epochs
        True
    """
    kind: Any = schema
    if isinstance(config, schema):
        checked: C = kind.checked(config)
        return checked
    path = Path(config).expanduser()  # type: ignore[arg-type]  # not a configuration
    if path.is_dir() and not resume:
        raise RunError(f"{path} is a folder; give a TOML file, or resume the run in it")
    if not path.is_dir():
        loaded: C = kind.load(path)
        return loaded
    check_links(path)
    inside = kind.load(path / file)
    moved: C = replace(inside, train=replace(inside.train, out=str(path)))
    return moved
