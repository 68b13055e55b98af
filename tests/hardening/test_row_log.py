"""The log's entries of a transaction are chained in order and written once, when it ends."""

from __future__ import annotations

import contextlib

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from advreg.hardening.store import Store, verify
from advreg.hardening.store.audit import Entry, append, head_of
from advreg.hardening.store.examples import receive
from advreg.hardening.store.tables import audit
from tests.hardening.conftest import submission


def test_entries_keep_their_order_and_rows_come_last(any_store: Store) -> None:
    receive(any_store, [submission(1), submission(2)])
    with any_store.writing() as db:
        first = append(db, 1.0, [Entry("a", "note", "x", {"k": 1})])
        second = append(db, 2.0, [Entry("a", "note", "y", {"k": 2})])
    with any_store.reading() as db:
        rows = db.execute(sa.select(audit).order_by(audit.c.seq)).all()
        assert [row.action for row in rows] == ["import", "state", "state", "row", "row", "note", "note"]
        assert [row.digest for row in rows[-2:]] == [first, second]
        assert head_of(db) == (7, second)
        assert verify(db) is None


def test_failed_transaction_leaves_the_chain_as_it_was(any_store: Store) -> None:
    receive(any_store, [submission(1)])
    with contextlib.suppress(RuntimeError), any_store.writing() as db:
        append(db, 1.0, [Entry("a", "note", "x", {})])
        raise RuntimeError
    receive(any_store, [submission(2)])
    with any_store.reading() as db:
        assert head_of(db)[0] == 5
        assert verify(db) is None


@pytest.mark.parametrize(("count", "statements"), [(1, 6), (50, 104)])
def test_receipt_needs_two_statements_an_example_and_four_more(store: Store, count: int, statements: int) -> None:
    executed: list[str] = []
    event.listen(store.engine, "before_cursor_execute", lambda *given: executed.append(given[2]))
    receive(store, [submission(seed) for seed in range(count)])
    assert [text.split()[0] for text in executed].count("BEGIN") == 1
    assert len(executed) - 1 == statements
