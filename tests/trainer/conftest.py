"""The small data set of the training tests, whose networks stand in for a user's."""

from tests.training.conftest import _trust_own_networks, data  # noqa: F401  # fixtures
