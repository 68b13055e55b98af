"""Engines by name."""

from __future__ import annotations

from functools import partial

from advreg.engines.in_process import MapUnits, run_in_process
from advreg.errors import ConfigError

ENGINES = ("local", "ray")
"""Names of the engines that run several workers."""


def engine_of(name: str | None, workers: int | None = None) -> MapUnits:
    """Return the engine of this name.

    Args:
        name: ``"local"`` for processes of this machine, ``"ray"`` for a Ray cluster; None for this process alone.
        workers: number of workers; 2 by default.

    Returns:
        The engine.

    Raises:
        ConfigError: another name, no worker, or workers without an engine.

    Example:
        >>> engine_of(None) is run_in_process
        True
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; give 1 or more")
    if name is None:
        if workers is not None:
            raise ConfigError(f"workers is {workers}, but no engine is given; add --engine {' or '.join(ENGINES)}")
        return run_in_process
    if name == "local":
        from advreg.engines.local import run_in_processes

        return partial(run_in_processes, workers=workers or 2)
    if name == "ray":
        from advreg.engines.on_ray import run_on_ray

        return partial(run_on_ray, workers=workers or 2)
    raise ConfigError(f"engine is {name!r}; allowed: {', '.join(ENGINES)} (several machines: --shard, or torchrun)")
