"""Quotas: how many bytes each token, and all of them together, may keep in the store."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from advreg.errors import UploadError
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Receipt
from advreg.hardening.store.tables import examples, pruned

_FRESH = 30.0  # seconds between two sums over the whole store, for what was pruned meanwhile


@dataclass
class Quotas:
    """Counts the bytes that tokens keep.

    Sums over the whole store are taken now and then; the rows since then, those of other servers too, are added inside the
    transaction that stores an upload. Writers are serialised, so no two uploads pass together what each would pass alone.

    Args:
        store: the store.
        token_bytes: largest number of bytes of one token.
        total_bytes: largest number of bytes of the whole store.
        clock: returns seconds.
        used: token -> bytes of the examples up to ``newest``.
        newest: number of the newest example in ``used``.
        summed: time of the last sum over the store.
        turn: serialises the threads.
    """

    store: Store
    token_bytes: int
    total_bytes: int
    clock: Callable[[], float] = time.monotonic
    used: Counter[str] = field(default_factory=Counter)
    newest: int = 0
    summed: float | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def refresh(self) -> None:
        """Sum over the store, if the last sum is old; call it before the transaction of an upload."""
        with self.turn:
            if self.summed is None or self.clock() - self.summed > _FRESH:
                with self.store.reading() as db:
                    self.used = bytes_by_token(db)
                    self.newest = db.execute(sa.select(sa.func.max(examples.c.id))).scalar() or 0
                self.summed = self.clock()

    def check(self, db: sa.Connection, token: str, receipts: Sequence[Receipt]) -> None:
        """Check the quotas after an upload, inside its transaction.

        Args:
            db: the transaction.
            token: name of the token.
            receipts: what the upload stored.

        Raises:
            UploadError: the upload exceeds a quota: 413 for the token's, 507 for that of the store.
        """
        with self.turn:
            self._add_rows_of_others(db, sum(not receipt.known for receipt in receipts))
            added = sum(receipt.bytes for receipt in receipts)
            if self.used[token] + added > self.token_bytes:
                raise UploadError(
                    f"token {token!r} keeps {self.used[token]} bytes; allowed: {self.token_bytes} "
                    "(service.token_bytes); an admin can free some with advreg harden prune",
                    413,
                )
            if self.used.total() + added > self.total_bytes:
                raise UploadError("the store is full (service.total_bytes); an admin can run advreg harden prune", 507)
            self.used[token] += sum(receipt.bytes for receipt in receipts if receipt.known)  # no new row shows these

    def _add_rows_of_others(self, db: sa.Connection, mine: int) -> None:
        """Add the committed rows since the last call; the newest ones are this transaction's, and it may be rolled back."""
        columns = examples.c.id, examples.c.token, examples.c.size
        rows = db.execute(sa.select(*columns).where(examples.c.id > self.newest).order_by(examples.c.id)).all()
        for row in rows[: len(rows) - mine]:
            self.used[row.token] += row.size
            self.newest = row.id


def bytes_by_token(db: sa.Connection) -> Counter[str]:
    """Return the bytes that each token keeps in the store.

    Args:
        db: an open transaction.
    """
    kept = examples.c.sha256.not_in(sa.select(pruned.c.example))
    total = sa.select(examples.c.token, sa.func.sum(examples.c.size)).where(kept).group_by(examples.c.token)
    return Counter({token: int(size) for token, size in db.execute(total)})
