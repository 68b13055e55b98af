"""The task of a configuration or of an option; a module of its own, because reading a configuration needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advreg.config.config import Config
from advreg.errors import ConfigError
from advreg.plugins import call_factory, is_factory
from advreg.tasks import Task, as_task, make_task


def configured_task(config: Config) -> Task:
    """Return the task of the section ``[task]``, classification where there is none.

    Args:
        config: configuration of a run.

    Raises:
        ConfigError: no such task, an option that it does not have, or a factory that returns no task.

    Example:
        >>> configured_task(Config().replace_with(["task.name=number", "task.options.tolerance=0.5"]))
        Task(number-0.5: above, below)
    """
    name, options = config.task.name, config.task.options
    return _made(name, options) if is_factory(name) else make_task(name, options)


def named_task(name: str) -> Task:
    """Return the task of an option: a name with options, or what a factory ``pkg.module:factory`` returns.

    Args:
        name: such as ``labels`` or ``number:tolerance=0.5``.

    Raises:
        ConfigError: no such task, or a factory that returns no task.

    Example:
        >>> named_task("pixels")
        Task(pixels: masked-ce, balanced-ce, js, cosine)
    """
    return _made(name, {}) if is_factory(name) else as_task(name)


def _made(name: str, options: Mapping[str, Any]) -> Task:
    made = call_factory(name, ConfigError, **options)
    if not isinstance(made, Task):
        raise ConfigError(f"task {name} returns {type(made).__name__}; return an advreg.Task")
    return made
