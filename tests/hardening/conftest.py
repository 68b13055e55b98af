"""A store on each kind of database, a clock that stands still until it is moved, and pictures that differ."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

pytest.importorskip("sqlalchemy", reason="the store needs advreg[harden]")

from PIL import Image

from advreg.hardening.store import Store
from advreg.hardening.store.examples import Submission
from tests.postgres import Postgres


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path, clock) -> Iterator[Store]:
    """A store on SQLite."""
    made = Store.open(f"sqlite:///{tmp_path}/harden.db", tmp_path / "blobs", clock)
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request, tmp_path, clock) -> Iterator[Store]:
    """A store on every kind of database in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/harden.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    made = Store.open(url, tmp_path / "blobs", clock)
    yield made
    made.engine.dispose()


def png(seed: int, size: int = 28) -> bytes:
    """Return a picture of its own for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def submission(seed: int, **changed: object) -> Submission:
    """Return a submission of its own for every seed."""
    facts = {"kind": "png", "looks": f"{seed:048x}", "token": "server", "principal": "ann", "tier": "customer"}
    said = {"model": "m1", "prediction": 3}
    return Submission(content=png(seed), **{**facts, **said, **changed})
