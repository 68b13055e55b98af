"""The engine ``ray``: units as tasks of a Ray cluster, which adds and removes machines as it likes (extra ``ray``).

The results of a task are a stream: what arrived before a worker died is kept, and the unit continues elsewhere.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from advreg.engines.in_process import RunUnit, Work
from advreg.engines.retries import UnitQueue
from advreg.errors import AdvregError, ConfigError, RunError
from advreg.plugins import import_extra

_RUNNERS: dict[str, RunUnit] = {}  # of a worker process, so that model and data are unpacked once


def run_on_ray(work: Work, run_unit: RunUnit, *, workers: int) -> Iterator[Any]:
    """Run the units as tasks of the Ray cluster of this session, or of one started on this machine.

    Args:
        work: units, each with its results so far.
        run_unit: yields the further results of a unit; sent to each machine once.
        workers: tasks at a time, each on one processor.

    Yields:
        Results, as they arrive.

    Raises:
        ConfigError: ``run_unit`` cannot be sent to a worker.
        RunError: three workers died in the same place of a unit, or a task failed.
    """
    ray = import_extra("ray", "advreg[ray]")
    if not ray.is_initialized():
        here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, configure_logging=False, **here)
    try:
        shared = ray.put(run_unit)
    except TypeError as cause:
        raise ConfigError(
            f"the model or an attack cannot be sent to Ray ({str(cause)[:100]}); define it in a module"
        ) from cause
    task = ray.remote(num_cpus=1, max_retries=0, num_returns="streaming")(_run)
    key, queue = uuid.uuid4().hex, UnitQueue(work)
    running: dict[Any, tuple[Any, list[Any]]] = {}
    while True:
        while len(running) < workers and (item := queue.take()):
            stream = task.remote(key, [shared], item[0], list(item[1]))
            running[stream] = item[0], list(item[1])
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1)
        for stream in ready:
            yield from _receive(ray, running, stream, queue)


def _receive(ray: Any, running: dict[Any, tuple[Any, list[Any]]], stream: Any, queue: UnitQueue) -> Iterator[Any]:
    """Yield the next result of a task; put its unit back if the worker died."""
    unit, done = running[stream]
    try:
        result = ray.get(next(stream))
    except StopIteration:
        del running[stream]
        return
    except ray.exceptions.RayTaskError as failure:
        cause = failure.cause
        raise cause if isinstance(cause, AdvregError) else RunError(f"a worker failed: {cause!r}"[:300]) from None
    except ray.exceptions.RayError:
        del running[stream]
        queue.put_back(unit, done)
        return
    done.append(result)
    yield result


def _run(key: str, shared: list[Any], unit: Any, done: Sequence[Any]) -> Iterator[Any]:
    """Run a unit in a worker."""
    if key not in _RUNNERS:
        import ray

        _RUNNERS.clear()
        _RUNNERS[key] = ray.get(shared[0])
    yield from _RUNNERS[key](unit, done)
