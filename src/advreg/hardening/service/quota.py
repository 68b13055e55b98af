"""Quotas: how many bytes each token, and all of them together, may keep in the store."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from advreg.errors import UploadError
from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import examples, pruned

_FRESH = 30.0  # seconds between two sums over the store, for other processes that write to it


@dataclass
class Quotas:
    """Counts the bytes that tokens keep; sums come from the store, and what this process adds meanwhile is added.

    Args:
        store: the store.
        token_bytes: largest number of bytes of one token.
        total_bytes: largest number of bytes of the whole store.
        clock: returns seconds.
        used: token -> bytes.
        summed: time of the last sum.
        turn: serialises the threads.
    """

    store: Store
    token_bytes: int
    total_bytes: int
    clock: Callable[[], float] = time.monotonic
    used: Counter[str] = field(default_factory=Counter)
    summed: float | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)

    def take(self, token: str, count: int) -> None:
        """Count bytes that are about to be stored.

        Args:
            token: name of the token.
            count: number of bytes.

        Raises:
            UploadError: they exceed a quota: 413 for the token's, 507 for that of the store.
        """
        with self.turn:
            if self.summed is None or self.clock() - self.summed > _FRESH:
                self.used, self.summed = bytes_by_token(self.store), self.clock()
            if self.used[token] + count > self.token_bytes:
                raise UploadError(
                    f"token {token!r} keeps {self.used[token]} bytes; allowed: {self.token_bytes} "
                    "(service.token_bytes); an admin can free some with advreg harden prune",
                    413,
                )
            if self.used.total() + count > self.total_bytes:
                raise UploadError("the store is full (service.total_bytes); an admin can run advreg harden prune", 507)
            self.used[token] += count


def bytes_by_token(store: Store) -> Counter[str]:
    """Return the bytes that each token keeps in the store.

    Args:
        store: the store.
    """
    kept = examples.c.sha256.not_in(sa.select(pruned.c.example))
    total = sa.select(examples.c.token, sa.func.sum(examples.c.size)).where(kept).group_by(examples.c.token)
    with store.reading() as db:
        return Counter({token: int(size) for token, size in db.execute(total)})
