"""Runs of these tests are made of models of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from advreg.plugins import trusting


@pytest.fixture(autouse=True, scope="package")
def _trust_own_networks() -> Iterator[None]:
    """Runs of these tests are made of networks of these tests, which only trusted run folders may name."""
    with trusting(True):
        yield
