"""A real PostgreSQL server for tests, one for each process that runs some."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Postgres:
    """A real server in a folder of its own."""

    programs: Path
    folder: Path
    port: int
    fsync: str = "off"

    def run(self, program: str, *arguments: object) -> None:
        command = [str(self.programs / program), *map(str, arguments)]
        user = "postgres" if os.getuid() == 0 else None  # the server refuses to run as root
        done = subprocess.run(command, user=user, cwd="/", capture_output=True, text=True, timeout=60, env=_plain())
        assert done.returncode == 0, done.stderr + done.stdout

    def start(self) -> None:
        listen = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c shared_buffers=16MB -c fsync={self.fsync}"
        self.run("pg_ctl", "-D", self.folder / "data", "-l", self.folder / "log", "-o", listen, "-w", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", self.folder / "data", "-m", "fast", "-w", "stop")

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{time.time_ns()}"
        self.run("createdb", "-h", self.folder, "-p", self.port, "-U", "postgres", name)
        return self.url(name)

    def url(self, name: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"


def _plain() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C", "LC_ALL": "C"}


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server from the system's packages."""
    pytest.importorskip("psycopg", reason="PostgreSQL needs advreg[postgres]")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server in /usr/lib/postgresql: install Debian's package postgresql to run this test")
    folder = Path(tempfile.mkdtemp(prefix="advreg-postgres-", dir="/tmp"))  # a socket's path must be short
    folder.chmod(0o777)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Postgres(found[-1].parent, folder, probe.getsockname()[1])
    try:
        server.run("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
