"""One fake run for the tests that only read it; tests that change a run write their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from .fake_run import write_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "robust-cnn")
