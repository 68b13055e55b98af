"""The run folder of a training: its configuration, its creation, and the checks before it is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from advreg import runtime
from advreg.config import toml
from advreg.documents import check_links
from advreg.errors import RunError
from advreg.runs import RunFolder
from advreg.runs.resume_check import check_same_config

C = TypeVar("C")

ENVIRONMENT = "environment.json"


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


def start_or_resume(config: Any, file: str, *, resume: bool) -> RunFolder:
    """Return a new run folder with configuration and environment, or the one to resume.

    Args:
        config: the configuration.
        file: name of the configuration in the folder.
        resume: whether the run exists.

    Raises:
        RunError: a new one exists already or cannot be written; one to resume is absent or holds another run.
    """
    if resume:
        return open_to_resume(config, file)
    return create_run_folder(config, file, {ENVIRONMENT: runtime.environment()})


def create_run_folder(config: Any, file: str, facts: Mapping[str, dict[str, Any]]) -> RunFolder:
    """Return a new run folder with its facts and, written last, its configuration.

    Args:
        config: the configuration; it has ``to_toml`` and ``train.out``.
        file: name of the configuration in the folder.
        facts: name of a JSON file -> its content, such as the environment.

    Raises:
        RunError: a run is in the folder already, or it cannot be written.
    """
    run = RunFolder.create(config.train.out, leftovers=tuple(facts))
    for name, content in facts.items():
        run.write_json(name, content)
    run.write(file, config.to_toml())
    return run


def open_to_resume(config: Any, file: str) -> RunFolder:
    """Return the run folder of an interrupted run with this configuration.

    Args:
        config: the configuration; it has ``from_dict``, ``to_dict`` and ``train.out``.
        file: name of the configuration in the folder.

    Raises:
        RunError: the folder is absent, the run in it never started, or it has another configuration.
    """
    run = RunFolder.open(config.train.out)
    check_links(run.path)
    if not (run / file).exists():
        raise RunError(f"{run.path} holds no {file}: it was stopped before it started; train without resuming")
    return check_same_config(run, config.from_dict(toml.read(run / file)).to_dict(), config.to_dict())
