"""The small data set and networks of the tests."""

from tests.training.conftest import _trust_own_networks, data

__all__ = ["_trust_own_networks", "data"]
