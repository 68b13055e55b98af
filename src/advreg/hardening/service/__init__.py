"""The service: collects examples from model servers and shows them to reviewers. It needs no torch."""

from advreg.plugins import import_extra

import_extra("fastapi", "advreg[harden]")  # a one-line error instead of a traceback

from advreg.hardening.service.app import create_app  # noqa: E402
from advreg.hardening.service.auth import Options  # noqa: E402

__all__ = ["Options", "create_app"]
