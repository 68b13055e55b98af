"""Incidents: reviewers that suffice to train on an example do not suffice to block every challenger with a false label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from advreg.hardening.config import HardeningConfig
from advreg.hardening.cycle import run_cycle
from advreg.hardening.cycle.promotion import find_incidents
from advreg.hardening.gate import Decision
from advreg.hardening.ingestion import queue
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import Verdict, receive, review, undo
from advreg.hardening.store.tables import audit
from advreg.hardening.workspace import Workspace
from tests.hardening.conftest import submission
from tests.hardening.small import attacked, images, label, make_home, submit

COLLUDERS = ("eve", "mallory")


@pytest.fixture(scope="module")
def attack_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, Store, list[str]]]:
    """A home with honest attacks, and harmless images that two colluders call another class."""
    home = make_home(tmp_path_factory.mktemp("home"), **{"caps.reviewers": 2, "gate.gates": 10})
    store = home.store()
    x, y = attacked(home, 60)
    label(store, submit(store, x), list(y), ("rae", "sam"))
    harmless, truth = images(12, 9)
    names = submit(store, harmless[:, None] / 255.0, principal="bob")
    label(store, names, list((truth + 1) % 3), COLLUDERS)
    yield home, store, names
    store.engine.dispose()


def test_two_colluders_cannot_block_promotions(attack_store: tuple[Workspace, Store, list[str]]) -> None:
    home, store, names = attack_store
    strict = Workspace(home.folder, home.config.replace_with({"gate.incident_reviewers": 2}))
    blocked = run_cycle(strict, store).decision
    assert [reason.partition(":")[0] for reason in blocked.reasons] == ["incidents"], "12 false incidents block it"
    submit_more(home, store, seed=11)
    outcome = run_cycle(home, store)
    assert outcome.decision.promote, outcome.decision.reasons
    assert "0 of 0" in incidents_line(outcome.decision)
    with store.reading() as db:
        assert {row["sha256"] for row in find_incidents(db, 2)} >= set(names)
        assert verify(db) is None


def submit_more(home: Workspace, store: Store, seed: int) -> None:
    x, y = attacked(home, 30, seed=seed)
    label(store, submit(store, x, principal=f"user-{seed}"), list(y), ("rae", "sam"))


def incidents_line(decision: Decision) -> str:
    return next(test.says for test in decision.tests if test.name == "incidents")


def test_waiver_of_an_admin_is_logged(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    store = home.store()
    waived = Workspace(home.folder, home.config.replace_with({"gate.waivers": ["a" * 64]}))
    run_cycle(waived, store)
    newest = sa.select(audit.c.detail).where(audit.c.action == "config").order_by(audit.c.seq.desc()).limit(1)
    with store.reading() as db:
        assert json.loads(db.execute(newest).scalar_one())["gate"]["waivers"] == ["a" * 64]
    store.engine.dispose()


def test_incident_needs_one_reviewer_more_than_training() -> None:
    config = HardeningConfig()
    assert config.incident_reviewers == 3
    assert config.replace_with({"caps.reviewers": 1}).incident_reviewers == 2
    assert config.replace_with({"gate.incident_reviewers": 5}).incident_reviewers == 5


def test_third_opinion_makes_an_incident_and_is_offered(any_store: Store) -> None:
    (name,) = [receipt.id for receipt in receive(any_store, [submission(1)])]
    queue(any_store, "rae", 1)
    for reviewer in ("rae", "sam"):
        review(any_store, Verdict(name, reviewer, 4), 10)
    assert offered(any_store, opinions=2) == []
    assert offered(any_store, opinions=3) == [name]
    assert incidents(any_store) == ([name], [])
    review(any_store, Verdict(name, "kim", 4), 10)
    assert offered(any_store, opinions=3) == []
    assert incidents(any_store) == ([name], [name])
    undo(any_store, name, "kim")
    review(any_store, Verdict(name, "kim", 5), 10)
    assert incidents(any_store) == ([name], []), "an opinion that differs confirms nothing"


def offered(store: Store, opinions: int) -> list[str]:
    return [row["sha256"] for row in queue(store, "lee", 10, second=True, opinions=opinions)]


def incidents(store: Store) -> tuple[list[str], list[str]]:
    """Return the incidents where two reviewers suffice, and where three are needed."""
    with store.reading() as db:
        two, three = ([row["sha256"] for row in find_incidents(db, count)] for count in (2, 3))
    return two, three
