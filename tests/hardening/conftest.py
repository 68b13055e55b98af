"""A store on each kind of database, a clock that stands still until it is moved, and pictures that differ."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="the store needs advreg[harden]")

from PIL import Image

from advreg.hardening.store import Store
from advreg.hardening.store.examples import Submission


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


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
    folder = Path(f"/tmp/advreg-postgres-{os.getpid()}")
    folder.mkdir(mode=0o777)
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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path, clock) -> Iterator[Store]:
    """A store on SQLite."""
    made = Store.open(f"sqlite:///{tmp_path}/harden.db", tmp_path / "blobs", clock)
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request, tmp_path, clock) -> Iterator[Store]:
    """A store on every kind of database in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/harden.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    made = Store.open(url, tmp_path / "blobs", clock)
    yield made
    made.engine.dispose()


def png(seed: int, size: int = 28) -> bytes:
    """Return a picture of its own for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def submission(seed: int, **changed: object) -> Submission:
    """Return a submission of its own for every seed."""
    facts = {"kind": "png", "looks": f"{seed:048x}", "token": "server", "principal": "ann", "tier": "customer"}
    said = {"model": "m1", "prediction": 3}
    return Submission(content=png(seed), **{**facts, **said, **changed})
