"""The small data set, networks of the tests, and a real PostgreSQL server."""

from tests.hardening.conftest import postgres
from tests.training.conftest import _trust_own_networks, data

__all__ = ["_trust_own_networks", "data", "postgres"]
