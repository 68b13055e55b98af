"""The database: opened by URL, one writer at a time, connection errors as one line."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc

from advreg.errors import AdvregError, StoreError
from advreg.hardening.secrets_in_urls import mask_url
from advreg.hardening.store import audit
from advreg.hardening.store.blobs import Blobs
from advreg.hardening.store.replay import BLOBS, import_rows
from advreg.hardening.store.row_log import OPTION, RowChanges, append_changes, watch_changes
from advreg.hardening.store.tables import head, metadata
from advreg.plugins import first_line, import_extra

_GENESIS = "0" * 64
_PATIENCE = 5  # seconds to wait for a lock or a connection


class StoreDown(StoreError):
    """The database or the folder of bytes does not respond; a later try may succeed."""


@dataclass(frozen=True, eq=False)
class Store:
    """A database and the bytes that it refers to.

    Every change is one transaction that locks the head of the audit log: writers are serialised, and the rows that it changed
    are appended to the log when it ends.

    Args:
        engine: SQLAlchemy's engine.
        blobs: the bytes.
        clock: returns seconds since 1970.
        turn: serialises the writers of this process.

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
        """Open a database and create missing tables.

        Args:
            url: a SQLAlchemy URL (``sqlite:///harden.db``, ``postgresql+psycopg://...``).
            blobs: folder or fsspec URL of the bytes.
            clock: returns seconds since 1970.

        Raises:
            StoreError: the URL cannot be used, or the database does not respond.
            MissingExtraError: the database's driver is not installed.
        """
        store = cls(_engine(url), Blobs.at(blobs), clock)
        watch_changes(store.engine)
        with _translate_errors(store.name), store._connected() as db:
            if store.engine.dialect.name == "postgresql":
                db.execute(sa.text("SELECT pg_advisory_xact_lock(1635152434)"))  # two processes may start at once
            metadata.create_all(db)
            if db.execute(sa.select(head.c.seq)).first() is None:
                db.execute(head.insert().values(id=1, seq=0, digest=_GENESIS))
            import_rows(db, store.clock())
        return store

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open the write transaction: after an error or a kill, none of it is stored.

        Raises:
            StoreDown: the database does not respond.
        """
        with self.turn, _translate_errors(self.name), self._connected() as db:
            seq, digest = db.execute(sa.select(head.c.seq, head.c.digest).with_for_update()).one()
            db.get_execution_options()[audit.OPTION].last = seq, digest
            yield db

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a read transaction with one consistent view.

        Raises:
            StoreDown: the database does not respond.
        """
        with _translate_errors(self.name), self.engine.connect() as fresh:
            db = fresh.execution_options(**{BLOBS: self.blobs})
            with db.begin():
                yield db

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        with self.engine.connect() as fresh:
            pending = audit.LogEntries()
            options = {OPTION: RowChanges(), audit.OPTION: pending, BLOBS: self.blobs}
            db = fresh.execution_options(advreg_writes=True, **options)
            with db.begin():
                yield db
                append_changes(db, self.clock())
                pending.write(db)

    @property
    def name(self) -> str:
        """The database's URL without its secrets."""
        return mask_url(self.engine.url.render_as_string(hide_password=True))


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
        _create_private(parsed.database)
        engine = sa.create_engine(parsed, connect_args={"timeout": _PATIENCE})
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        if isinstance(error, AdvregError):
            raise
        raise StoreError(
            f"{mask_url(url)!r} is not a database URL; give sqlite:///PATH or postgresql://USER@HOST/NAME"
        ) from None  # its text may hold a part of the password
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _create_private(file: str | None) -> None:
    """Create a database file that others cannot read; its write-ahead log gets the same mode."""
    if file and file != ":memory:" and not os.path.exists(file):
        with suppress(OSError):  # the driver reports what is wrong with the path
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # _begin_sqlite starts transactions, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(db: sa.Connection) -> None:
    # a read transaction that becomes a write cannot wait for another writer
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("advreg_writes") else "BEGIN")


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
        cause = getattr(error, "orig", None) or error
        raise StoreDown(
            f"the database {name} does not respond: {mask_url(first_line(cause))}; is it running?"
        ) from error
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise StoreDown(f"the connection to {name} was lost; try again") from error
