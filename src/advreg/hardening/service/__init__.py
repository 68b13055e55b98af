"""The service: collects examples beside the user's model server, and shows them to reviewers. No torch."""

from advreg.plugins import import_extra

import_extra("fastapi", "advreg[harden]")  # says in one line what is missing, before a traceback does

from advreg.hardening.service.app import create_app  # noqa: E402
from advreg.hardening.service.auth import Options  # noqa: E402

__all__ = ["Options", "create_app"]
