"""The small data set, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.small import write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 120 images in a file."""
    return write_data(tmp_path_factory.mktemp("data") / "small.npz")
