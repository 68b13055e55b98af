"""The store: what was submitted, where it stands, who did what, in one database and one folder of bytes."""

from advreg.plugins import import_extra

import_extra("sqlalchemy", "advreg[harden]")  # says in one line what is missing, before a traceback does

from advreg.hardening.store.audit import Broken, append, verify  # noqa: E402
from advreg.hardening.store.blobs import Blobs  # noqa: E402
from advreg.hardening.store.database import Store, StoreDown  # noqa: E402

__all__ = ["Blobs", "Broken", "Store", "StoreDown", "append", "verify"]
