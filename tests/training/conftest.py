"""The small data set, written once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from advreg.plugins import trusting
from tests.training.small import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 120 images in a file."""
    return write_data(tmp_path_factory.mktemp("data") / "small.npz")


@pytest.fixture(autouse=True)
def _trust_own_networks() -> Iterator[None]:
    """Runs of these tests are made of networks of these tests, which only trusted run folders may name."""
    with trusting(True):
        yield
