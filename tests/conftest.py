"""Shared fixtures: small trained-by-hand models, and the folder of real data and networks where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.postgres import postgres

__all__ = ["postgres", "shared"]

torch.set_num_threads(1)  # small tensors: threads cost more than they bring, and two test runs share two cores


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data sets and networks that others trained; tests that need them skip where they are absent."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("ADVREG_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no folder of reference data at {folder}; set ADVREG_SHARED to run this test")
    return folder
