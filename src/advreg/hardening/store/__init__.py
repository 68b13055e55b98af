"""The store: examples, reviews, models and the audit log in one database, and the examples' bytes in one folder."""

from advreg.plugins import import_extra

import_extra("sqlalchemy", "advreg[harden]")  # a one-line error instead of a traceback

from advreg.hardening.store.audit import append  # noqa: E402
from advreg.hardening.store.blobs import Blobs  # noqa: E402
from advreg.hardening.store.database import Store, StoreDown  # noqa: E402
from advreg.hardening.store.replay import Broken, verify  # noqa: E402

__all__ = ["Blobs", "Broken", "Store", "StoreDown", "append", "verify"]
