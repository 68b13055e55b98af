"""Processes of their own for tests, forked from one that has imported the package: a child costs its work, not imports.

A test whose point is what gets imported starts ``sys.executable`` itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Child:
    """A process that `start` started; `wait` returns its exit status, negative for the signal that killed it."""

    pid: int
    folder: Path
    returncode: int | None = field(default=None)

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.02)
        assert self.returncode is not None
        return self.returncode

    def poll(self) -> int | None:
        if self.returncode is None and (status := _ask({"poll": self.pid})) >= 0:
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def stdout(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "err").read_text()


def start(*arguments: object, code: str = "", environment: dict[str, str] | None = None) -> Child:
    """Start ``python -m advreg ARGUMENTS``, or ``python -c CODE ARGUMENTS``, in the current folder."""
    folder = Path(tempfile.mkdtemp(dir=_folder()))
    wish = {"argv": [str(part) for part in arguments], "code": code, "cwd": os.getcwd(), "folder": str(folder)}
    return Child(_ask(wish | {"environment": {**os.environ, **(environment or {})}}), folder)


def run(*arguments: object, code: str = "", environment: dict[str, str] | None = None) -> Child:
    """Return the process of `start` after it ended."""
    child = start(*arguments, code=code, environment=environment)
    child.wait()
    return child


def run_ranks(*arguments: object, code: str, n: int = 2) -> list[Child]:
    """Run one group of processes as torchrun does: each knows its rank, and where one fails the others are killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": str(n)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(n)]
    group = [start(*arguments, code=code, environment=place | rank) for rank in ranks]
    while None in [child.poll() for child in group] and not any(child.returncode for child in group):
        time.sleep(0.02)
    for child in group:
        if child.returncode is None:
            child.kill()
    return group


@functools.cache
def _folder() -> str:
    folder = tempfile.TemporaryDirectory(prefix="advreg-children-")
    atexit.register(folder.cleanup)
    return folder.name


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Return the process that forks; it ends with its standard input."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.fork_server"]
    server = subprocess.Popen(
        command, text=True, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    atexit.register(_close, server)
    return server


def _close(server: subprocess.Popen[str]) -> None:
    server.communicate()


def _ask(wish: dict[str, object]) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(wish) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())
