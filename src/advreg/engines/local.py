"""The engine ``local``: worker processes on this machine; a worker that dies is replaced, and its unit continued."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from advreg.engines.in_process import RunUnit, Work
from advreg.engines.retries import UnitQueue
from advreg.errors import AdvregError, ConfigError, RunError

_END = "end"
_JOIN = 5.0  # seconds in which a worker without work ends by itself


def run_in_processes(work: Work, run_unit: RunUnit, *, workers: int) -> Iterator[Any]:
    """Run the units in worker processes of this machine.

    Args:
        work: units, each with its results so far.
        run_unit: yields the further results of a unit; it is pickled once for each worker.
        workers: number of processes.

    Yields:
        Results, as they arrive.

    Raises:
        ConfigError: ``run_unit`` cannot be sent to another process.
        RunError: three workers died in the same place of a unit.
    """
    queue = UnitQueue(work)
    team: dict[Connection, _Worker] = {}
    try:
        while True:
            while len(team) < workers and (item := queue.take()):
                worker = _start(run_unit, max(1, _threads() // workers))
                team[worker.connection] = worker
                worker.give(item)
            if not team:
                return
            for connection in wait(list(team)):
                yield from _receive(team, connection, queue)  # type: ignore[arg-type]
    finally:
        for worker in team.values():
            worker.process.kill()
            worker.process.join()


@dataclass(eq=False)
class _Worker:
    """A process, the end of its pipe, and the unit that it runs with the results that arrived."""

    process: BaseProcess
    connection: Connection
    unit: Any = None
    done: list[Any] = field(default_factory=list)

    def give(self, item: tuple[Any, Any]) -> None:
        self.unit, self.done = item[0], list(item[1])
        try:
            self.connection.send((self.unit, self.done))
        except OSError:  # it is dead already, which the next read notices
            return


def _receive(team: dict[Connection, _Worker], connection: Connection, queue: UnitQueue) -> Iterator[Any]:
    """Yield a result; give the worker another unit after the last one, and replace it if it died."""
    worker = team[connection]
    try:
        kind, value = connection.recv()
    except (EOFError, OSError):
        del team[connection]
        worker.process.join()
        queue.put_back(worker.unit, worker.done)
        return
    if kind == "failure":
        raise value
    if kind != _END:
        worker.done.append(value)
        yield value
    elif item := queue.take():
        worker.give(item)
    else:
        del team[connection]
        connection.close()
        worker.process.join(_JOIN)


def _start(run_unit: RunUnit, threads: int) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of torch's threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, run_unit, threads), daemon=True)
    try:
        process.start()
    except Exception as cause:  # what pickle raises, and whatever a model's own __reduce__ raises
        raise _unsendable(cause) from cause
    theirs.close()
    return _Worker(process, ours)


def _unsendable(cause: Exception) -> ConfigError:
    return ConfigError(
        f"the model or an attack cannot be sent to another process ({str(cause)[:100]}); define it in a module, "
        "or start the processes yourself with torchrun or --shard"
    )


def _serve(connection: Connection, run_unit: RunUnit, threads: int) -> None:
    """Run units until the other end of the pipe closes."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    while True:
        try:
            unit, done = connection.recv()
        except EOFError:
            return
        try:
            for result in run_unit(unit, done):
                connection.send(("result", result))
            connection.send((_END, None))
        except (BrokenPipeError, ConnectionResetError):
            return  # the driver died; what it wrote remains
        except Exception as cause:
            known = isinstance(cause, AdvregError)
            connection.send(("failure", cause if known else RunError(f"a worker failed: {cause!r}"[:300])))
            return


def _threads() -> int:
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads()) if torch else 1
