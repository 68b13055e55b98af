"""Health of the service: whether the next example could be stored, not only whether the process runs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from advreg.hardening.store.database import Store
from advreg.hardening.store.tables import head


@dataclass
class Health:
    """Writes to the database and the folder of bytes; a success is believed for some seconds, a failure never.

    Args:
        store: the store.
        seconds: how long a success is believed, so that requests without a token cause few writes.
        clock: returns seconds.
        good: time of the last success.
        turn: lets one thread write at a time.
    """

    store: Store
    seconds: float = 5.0
    clock: Callable[[], float] = time.monotonic
    good: float = -math.inf
    turn: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Return if the store reads and writes.

        Raises:
            StoreError: it does not.
        """
        with self.store.reading() as db:
            db.exec_driver_sql("SELECT 1")
        with self.turn:
            if self.clock() - self.good < self.seconds:
                return
            self.good = -math.inf
            with self.store.writing() as db:
                db.execute(head.update().values(seq=head.c.seq))  # the same value: a write without a change
            self.store.blobs.check_write()
            self.good = self.clock()

    def doubt(self) -> None:
        """Write at the next check, because an example could not be stored."""
        self.good = -math.inf
