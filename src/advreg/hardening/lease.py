"""A lease in the database: one process works at a time; the lease of a dead process is taken over."""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from advreg.errors import HardeningError, StoreError
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import locks


class Busy(HardeningError):
    """Another process holds the lease."""


@dataclass(frozen=True)
class Lease:
    """The right to work until the lease is lost; every write checks it in the same transaction."""

    name: str
    owner: str

    def check(self, db: sa.Connection) -> None:
        """Raise if the lease was lost.

        Args:
            db: the transaction of the write.

        Raises:
            Busy: another process holds it now.
        """
        if db.execute(sa.select(locks.c.owner).where(locks.c.name == self.name)).scalar() != self.owner:
            raise Busy(f"this process did not renew the {self.name} lease in time and lost it; run the step again")


@contextmanager
def hold_lease(store: Store, name: str = "tick", seconds: float = 120.0) -> Iterator[Lease]:
    """Hold a lease; a dead process on this machine loses it at once, one elsewhere after its time.

    Args:
        store: the store.
        name: name of the lease.
        seconds: time until a lease that is not renewed can be taken over.

    Raises:
        Busy: another live process holds it.
    """
    lease = Lease(name, f"{_own_id()}:{secrets.token_hex(4)}")
    with store.writing() as db:
        held = db.execute(sa.select(locks).where(locks.c.name == name)).mappings().first()
        if held is not None and held["until"] > store.clock() and not _dead(held["owner"]):
            raise Busy(f"another process holds the {name} lease ({held['owner']}); wait until it is done")
        db.execute(locks.delete().where(locks.c.name == name))
        db.execute(locks.insert().values(name=name, owner=lease.owner, until=store.clock() + seconds))
    done = threading.Event()
    beat = threading.Thread(target=_renew, args=(store, lease, seconds, done), daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        done.set()
        beat.join()
        with store.writing() as db:
            db.execute(locks.delete().where(locks.c.name == name, locks.c.owner == lease.owner))


def _renew(store: Store, lease: Lease, seconds: float, done: threading.Event) -> None:
    mine = locks.update().where(locks.c.name == lease.name, locks.c.owner == lease.owner)
    while not done.wait(seconds / 4):
        try:
            with store.writing() as db:
                db.execute(mine.values(until=store.clock() + seconds))
        except StoreError:  # the next renewal tries again; every write checks the lease
            continue


def _own_id() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"


def _dead(owner: str) -> bool:
    """Return whether the owner is a process of this machine that has ended."""
    host, pid, born, _ = owner.rsplit(":", 3)
    return host == socket.gethostname() and _start_time(int(pid)) != born


def _start_time(pid: int) -> str:
    """Return when a process started, in the system's ticks; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "" if Path("/proc").is_dir() else "unknown"
