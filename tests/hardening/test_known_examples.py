"""Known examples in the queue: no fact of theirs gives them away, none is accepted, and they measure the reviewers."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from advreg.errors import HardeningError
from advreg.hardening.image_decoding import Limits
from advreg.hardening.ingestion import ingest, queue
from advreg.hardening.known_examples import SEEDER, known_images, known_texts, reviewer_quality, seed_known
from advreg.hardening.media_types import IMAGES
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import Verdict, receive, review
from advreg.hardening.store.tables import examples, seeded
from tests.hardening.conftest import submission

LIMITS = Limits(shape=(1, 28, 28))
APART = [submission(seed, looks=f"{(1 << 192) // 5 * seed:048x}") for seed in range(5)]  # none resembles another


@pytest.fixture
def known(tmp_path) -> list[tuple[bytes, int]]:
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "known.npz", images=images, labels=np.arange(20) % 10)
    return known_images(tmp_path / "known.npz", 10)


def test_errors_and_agreement_are_measured(any_store: Store, known: list[tuple[bytes, int]]) -> None:
    receive(any_store, APART)
    assert seed_known(any_store, known, IMAGES, LIMITS) == 10
    assert seed_known(any_store, known, IMAGES, LIMITS) == 0
    waiting = queue(any_store, "rae", 100)
    assert len(waiting) == 15
    with any_store.reading() as db:
        truth = dict(db.execute(sa.select(seeded.c.example, seeded.c.label)).all())
    for k, row in enumerate(sorted(waiting, key=lambda row: row["sha256"] not in truth)):
        label = truth.get(row["sha256"], 3)
        review(any_store, Verdict(row["sha256"], "rae", label))
        review(any_store, Verdict(row["sha256"], "sam", (label + 1) % 10 if k < 2 else None if k == 2 else label))
    with any_store.reading() as db:
        rae, sam = reviewer_quality(db)
        assert verify(db) is None
    assert (rae.reviewer, rae.reviews, rae.known, rae.errors, rae.pairs, rae.agreed) == ("rae", 15, 10, 0, 15, 12)
    assert (sam.known, sam.errors, sam.agreed) == (10, 3, 12)
    low, high = sam.error_interval
    assert low < 0.3 < high


def test_a_known_example_shows_facts_of_submitted_ones(store: Store, known: list[tuple[bytes, int]]) -> None:
    with pytest.raises(HardeningError, match="hide"):
        seed_known(store, known, IMAGES, LIMITS)
    receive(store, [submission(seed, principal=f"p{seed}", scores=[0.5, 0.5]) for seed in range(5)])
    seed_known(store, known, IMAGES, LIMITS)
    ingest(store)
    with store.reading() as db:
        rows = db.execute(sa.select(examples)).mappings().all()
    hidden = [row for row in rows if row["token"] == SEEDER]
    shown = [row for row in rows if row["token"] != SEEDER]
    for key in ("state", "principal", "tier", "model", "prediction", "scores", "copies", "disagrees"):
        assert {str(row[key]) for row in hidden} <= {str(row[key]) for row in shown}, key
    assert all(row["cluster"] < 0 for row in hidden), "no submitted example joins a known one"


def test_files_of_known_texts_are_read_or_rejected_in_one_line(tmp_path) -> None:
    (tmp_path / "known.jsonl").write_text('{"text": "How do I bake?", "label": 0}\n{"text": "x", "label": 1}\n')
    assert known_texts(tmp_path / "known.jsonl", 1) == [(b"How do I bake?", 0)]
    (tmp_path / "known.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(HardeningError, match="text and label"):
        known_texts(tmp_path / "known.jsonl", 1)
    with pytest.raises(HardeningError, match="no known images"):
        known_images(tmp_path / "none.npz", 1)
