"""The hardening loop under kills and under load.

    python bench/hardening.py crash [--kills 100] [--out FILE.json]
    python bench/hardening.py rate [--seconds 10] [--clients 8] [--out FILE.json]

``crash`` kills ``advreg harden serve`` and a tick with SIGKILL at random moments and looks after each kill: is every
acknowledged example there, byte for byte, is the audit chain whole, do the aliases agree with the stages. ``rate`` sends
examples from a second process over loopback, one a request, on SQLite and, where Debian's package is there, on PostgreSQL.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.hardening.conftest import Postgres
from tests.hardening.small import SIZE, attacked, label, make_home, submit

from advreg import runtime
from advreg.hardening import registry
from advreg.hardening.cycle import run_cycle
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.states import ModelStatus
from advreg.hardening.store import Store, verify
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue
from advreg.hardening.workspace import Workspace
from advreg.runs.files import write_atomic

Record = dict[str, Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(home: Workspace, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "advreg", "harden", "serve", "--home", str(home.folder.path), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                assert server.poll() is None, "the service ended"
                time.sleep(0.02)
        yield server
    finally:
        if server.poll() is None:
            server.terminate()
        server.wait()


def image(rng: np.random.Generator) -> bytes:
    return to_npy(rng.random((1, SIZE, SIZE), dtype=np.float32))


@dataclass
class Sender:
    """One connection that sends until it is stopped or the service is gone, and remembers what was acknowledged."""

    port: int
    token: str
    seed: int

    def __post_init__(self) -> None:
        """Begin with nothing acknowledged."""
        self.acknowledged: list[str] = []
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.stop = threading.Event()

    def run(self) -> None:
        """Send until told to stop, or until nobody answers."""
        rng = np.random.default_rng(self.seed)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {self.token}"}
        while not self.stop.is_set():
            content = image(rng)
            began = time.perf_counter()
            try:
                connection.request("POST", "/v1/examples?model=m&prediction=1", content, headers)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                return
            self.seconds.append(time.perf_counter() - began)
            self.statuses[answer.status] += 1
            if answer.status == 201:
                self.acknowledged.append(json.loads(body)["id"])


def sound(store: Store, acknowledged: list[str]) -> Record:
    """Return what is lost or broken."""
    with store.reading() as db:
        there = {row[0] for row in db.exec_driver_sql("SELECT sha256 FROM examples")}
        broken = verify(db)
        stages = {row["version"]: row["stage"] for row in registry.list_models(store)}
        pointed = {name: registry.alias(db, name) for name in (registry.CHAMPION, registry.PREVIOUS)}
    agreed = {name: version for version, name in stages.items() if name in (ModelStatus.CHAMPION, ModelStatus.PREVIOUS)}
    lost = [name for name in acknowledged if name not in there]
    for name in acknowledged:
        store.blobs.get(name)  # raises where the bytes are not those that came
    half = {name: version for name, version in pointed.items() if version is not None} != agreed
    return {"lost": len(lost), "chain broken": int(broken is not None), "half promotions": int(half)}


def crash_serve(kills: int, rng: random.Random) -> Record:
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder), **{"service.rate": 1e6, "service.burst": 1e6})
        store = home.store()
        token = issue(store, ApiToken("bench", Role.SUBMIT, Tier.CUSTOMER))
        found: Counter[str] = Counter()
        acknowledged: list[str] = []
        for kill in range(kills):
            port = free_port()
            with serving(home, port) as server:
                senders = [Sender(port, token, 1000 * kill + k) for k in range(4)]
                threads = [threading.Thread(target=sender.run) for sender in senders]
                for thread in threads:
                    thread.start()
                time.sleep(rng.uniform(0.02, 0.6))
                os.kill(server.pid, signal.SIGKILL)
                for thread in threads:
                    thread.join()
            fresh = [name for sender in senders for name in sender.acknowledged]
            acknowledged += fresh
            found.update(sound(store, fresh))
        found.update(sound(store, acknowledged))
        return {"kills": kills, "acknowledged": len(acknowledged), **found}


def crash_step(kills: int, rng: random.Random) -> Record:
    """Kill ticks in a child process that has everything imported, so that kills land in the work and not before it."""
    with tempfile.TemporaryDirectory() as folder:
        template = make_home(Path(folder))
        store = template.store()
        x, y = attacked(template, 60)
        names = submit(store, x)
        label(store, names, list(y), ("rae", "sam"))
        store.engine.dispose()
        whole = _copy(template, Path(folder) / "whole")
        began = time.perf_counter()
        assert _child(whole, None) == 0
        seconds = time.perf_counter() - began
        wanted = (whole.folder / "models/s-0001/model.safetensors").read_bytes()
        found: Counter[str] = Counter()
        done, k = 0, 0
        while done < kills:
            k += 1
            home = _copy(template, Path(folder) / f"home{k}")
            while done < kills and _child(home, rng.uniform(0, 1.1 * seconds)) != 0:
                done += 1
                store = home.store()
                found.update(sound(store, names))
                store.engine.dispose()
            assert _child(home, None) == 0
            store = home.store()
            found.update(sound(store, names))
            with store.reading() as db:
                found["wrong ends"] += int(registry.current_champion(db) != "m-0002")
            store.engine.dispose()
            found["other weights"] += int((home.folder / "models/s-0001/model.safetensors").read_bytes() != wanted)
            shutil.rmtree(home.folder.path)
        return {"kills": kills, "homes": k, "seconds of a whole tick": round(seconds, 2), **found}


def _copy(home: Workspace, to: Path) -> Workspace:
    shutil.copytree(home.folder.path, to)
    return Workspace.open(to)


def _child(home: Workspace, seconds: float | None) -> int:
    """Run a tick in a fork; kill it after some seconds, if any. Return its status."""
    child = os.fork()
    if child == 0:
        try:
            run_cycle(home)
            os._exit(0)
        except BaseException as error:
            print(f"a tick failed: {error}", file=sys.stderr)
            os._exit(1)
    if seconds is not None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if os.waitpid(child, os.WNOHANG)[0]:
                return 0
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "a tick failed after a kill"
    return status


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used, from Linux's /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(url: str, seconds: float, clients: int) -> Record:
    """Measure requests a second, latencies and processor time, the senders in this process, the service in another."""
    with tempfile.TemporaryDirectory() as folder:
        home = make_home(Path(folder), **{"service.rate": 1e9, "service.burst": 1e9, "store.url": url})
        store = home.store()
        token, port = issue(store, ApiToken("bench", Role.SUBMIT, Tier.CUSTOMER)), free_port()
        with serving(home, port) as server:
            senders, used = [Sender(port, token, k) for k in range(clients)], processor_seconds(server.pid)
            threads = [threading.Thread(target=sender.run) for sender in senders]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            time.sleep(seconds)
            for sender in senders:
                sender.stop.set()
            for thread in threads:
                thread.join()
            took, used = time.perf_counter() - began, processor_seconds(server.pid) - used
        latencies = np.sort([s for sender in senders for s in sender.seconds])
        acknowledged = [name for sender in senders for name in sender.acknowledged]
        checked = sound(store, acknowledged)
        store.engine.dispose()
    p50, p99 = (float(1000 * np.quantile(latencies, q)) for q in (0.5, 0.99))
    speed = {"requests a second": round(len(acknowledged) / took, 1), "p50 ms": round(p50, 1), "p99 ms": round(p99, 1)}
    speed["processor ms a request"] = round(1000 * used / max(len(acknowledged), 1), 2)
    return {"clients": clients, "acknowledged": len(acknowledged), **speed, **checked}


@contextmanager
def postgres() -> Iterator[str | None]:
    """Start a server that syncs to disk as in production; None where there is none installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="advreg-postgres-"))
    folder.chmod(0o777)
    server = Postgres(found[-1].parent, folder, free_port(), fsync="on")
    try:
        if os.getuid() == 0:
            shutil.chown(folder, "postgres")
        server.run("initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server.url("postgres")
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill the hardening loop a hundred times, or load it.")
    parser.add_argument("what", choices=("crash", "rate"))
    parser.add_argument("--kills", type=int, default=100, help="of the service, and of ticks (default 100 each)")
    parser.add_argument("--seconds", type=float, default=10, help="of load on each database (default 10)")
    parser.add_argument("--clients", type=int, default=8, help="connections that send at once (default 8)")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results: Record = {"schema": "advreg/bench-hardening@1", "environment": runtime.environment()}
    if given.what == "crash":
        results["serve"] = crash_serve(given.kills, random.Random(0))
        print(f"serve: {results['serve']}", flush=True)
        results["step"] = crash_step(given.kills, random.Random(1))
        print(f"step: {results['step']}")
    else:
        results["sqlite"] = rate("", given.seconds, given.clients)
        print(f"sqlite: {results['sqlite']}", flush=True)
        with postgres() as url:
            results["postgresql"] = None if url is None else rate(url, given.seconds, given.clients)
        print(f"postgresql: {results['postgresql'] or 'no server in /usr/lib/postgresql'}")
    if given.out:
        write_atomic(given.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
