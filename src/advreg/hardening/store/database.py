"""One database by URL, one writer at a time, and what its silence looks like."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from advreg.errors import StoreError
from advreg.hardening.store.blobs import Blobs
from advreg.hardening.store.tables import head, metadata
from advreg.plugins import first_line, import_extra

_GENESIS = "0" * 64
_PATIENCE = 5  # seconds to wait for a lock or a connection


class StoreDown(StoreError):
    """The database or the bytes do not answer now; they may later."""


@dataclass(frozen=True, eq=False)
class Store:
    """A database and the bytes it speaks of.

    Every change is made in one transaction that holds the head of the audit log, so writers come one after the other and a
    change without its entry cannot be.

    Args:
        engine: SQLAlchemy's.
        blobs: the bytes.
        clock: seconds since 1970.

    Example:
        >>> import tempfile
        >>> store = Store.open(f"sqlite:///{tempfile.mkdtemp()}/harden.db", tempfile.mkdtemp())
        >>> with store.writing() as db:
        ...     pass
    """

    engine: sa.Engine
    blobs: Blobs
    clock: Callable[[], float] = time.time
    turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, url: str, blobs: str | Path, clock: Callable[[], float] = time.time) -> Store:
        """Open the database at a SQLAlchemy URL (``sqlite:///harden.db``, ``postgresql+psycopg://...``); make its tables.

        Raises:
            StoreError: the URL cannot be used, or the database does not answer.
            MissingExtraError: the database's driver is not installed.
        """
        store = cls(_engine(url), Blobs.at(blobs), clock)
        with _answering(store.name), store._connected() as db:
            if store.engine.dialect.name == "postgresql":
                db.execute(sa.text("SELECT pg_advisory_xact_lock(1635152434)"))  # two processes may start at once
            metadata.create_all(db)
            if db.execute(sa.select(head.c.seq)).first() is None:
                db.execute(head.insert().values(id=1, seq=0, digest=_GENESIS))
        return store

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Hold the one write transaction: all of it happens or, after an error or a kill, none.

        Raises:
            StoreDown: the database does not answer.
        """
        with self.turn, _answering(self.name), self._connected() as db:
            db.execute(sa.select(head.c.seq).with_for_update()).one()
            yield db

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Hold a read transaction: one consistent view.

        Raises:
            StoreDown: the database does not answer.
        """
        with _answering(self.name), self.engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as fresh:
            db = fresh.execution_options(advreg_writes=True)
            with db.begin():
                yield db

    @property
    def name(self) -> str:
        """The database's URL without its password."""
        return self.engine.url.render_as_string(hide_password=True)


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "postgresql":
            import_extra("psycopg", "advreg[postgres]")
            parsed = parsed.set(drivername="postgresql+psycopg")
            return sa.create_engine(parsed, pool_pre_ping=True, connect_args={"connect_timeout": _PATIENCE})
        if parsed.get_backend_name() != "sqlite":
            raise StoreError(
                f"the store cannot be {parsed.get_backend_name()}; give sqlite:///PATH or postgresql://..."
            )
        engine = sa.create_engine(parsed, connect_args={"timeout": _PATIENCE})
    except (exc.ArgumentError, exc.NoSuchModuleError) as error:
        raise StoreError(f"{url!r} is no database URL; give sqlite:///PATH or postgresql://USER@HOST/NAME") from error
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # transactions begin where we say, not where the driver guesses
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(db: sa.Connection) -> None:
    # a write that began as a read could find another writer in its way, too late to wait for it
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("advreg_writes") else "BEGIN")


@contextmanager
def _answering(name: str) -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreDown(f"the database {name} does not answer: {first_line(cause)}; is it running?") from error
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise StoreDown(f"the connection to {name} was lost; try again") from error
