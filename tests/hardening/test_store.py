"""The store: nothing acknowledged is lost, nothing moves off the table of transitions, the log cannot be changed unseen."""

from __future__ import annotations

import itertools
import threading

import pytest
import sqlalchemy as sa

from advreg.errors import HardeningError, StoreError
from advreg.hardening.ingestion import queue
from advreg.hardening.states import STAGES, TRANSITIONS, ExampleStatus, ModelStatus
from advreg.hardening.store import Blobs, Store, StoreDown, verify
from advreg.hardening.store.audit import Entry, append, head_of
from advreg.hardening.store.examples import Verdict, example, examples_in_state, move, receive, review, undo
from advreg.hardening.store.tables import audit, examples
from advreg.hardening.store.tokens import ApiToken, Role, Tier, bearer_of, issue, revoke_token
from advreg.hardening.store.witnesses import attribution_of, senders_of
from tests.hardening.conftest import png, submission


def quarantined(store: Store, *seeds: int) -> list[str]:
    names = [receipt.id for receipt in receive(store, [submission(seed) for seed in seeds])]
    with store.writing() as db:
        move(db, store.clock(), "tick", names, ExampleStatus.QUARANTINED)
    return names


def transitions(db: sa.Connection) -> int:
    return len(db.execute(sa.select(audit.c.seq).where(audit.c.action == "state")).all())


def state(store: Store, name: str) -> str:
    with store.reading() as db:
        return example(db, name)["state"]


def test_bytes_come_back_exactly_and_a_second_copy_is_the_same_example(any_store: Store) -> None:
    first, second = receive(any_store, [submission(1)]) + receive(any_store, [submission(1, principal="bob")])
    assert (first.known, second.known) == (False, True)
    assert first.id == second.id
    assert any_store.blobs.get(first.id) == png(1)
    with any_store.reading() as db:
        row = example(db, first.id)
        assert (row["copies"], row["principal"], row["state"]) == (2, "ann", "received")
        assert transitions(db) == 1, "a copy is no transition"
        assert verify(db) is None


def test_many_writers_at_once_lose_nothing_and_keep_one_chain(any_store: Store) -> None:
    def work(first: int) -> None:
        for seed in range(first, first + 10):
            receive(any_store, [submission(seed)])

    threads = [threading.Thread(target=work, args=(k * 10,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with any_store.reading() as db:
        assert len(examples_in_state(db, ExampleStatus.RECEIVED)) == 40
        assert transitions(db) == 40
        assert verify(db) is None


def test_two_stores_on_one_database_take_turns(any_store: Store) -> None:
    url = any_store.engine.url.render_as_string(hide_password=False)
    other = Store.open(url, any_store.blobs.root, any_store.clock)
    threads = [
        threading.Thread(target=lambda s=s, k=k: [receive(s, [submission(k + i)]) for i in range(10)])
        for s, k in ((any_store, 100), (other, 200))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with other.reading() as db:
        assert len(examples_in_state(db, ExampleStatus.RECEIVED)) == 20
        assert verify(db) is None
    other.engine.dispose()


def test_a_change_without_its_entry_cannot_be(any_store: Store) -> None:
    (name,) = quarantined(any_store, 1)

    def fail_half_way() -> None:
        with any_store.writing() as db:
            move(db, 1.0, "tick", [name], ExampleStatus.REVIEWED)
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert state(any_store, name) == "quarantined"
    with any_store.reading() as db:
        assert verify(db) is None


def test_only_the_steps_in_the_table_are_taken(store: Store) -> None:
    (name,) = [receipt.id for receipt in receive(store, [submission(1)])]
    with store.writing() as db:
        for before, after in itertools.product(ExampleStatus, ExampleStatus):
            db.execute(examples.update().values(state=before))
            if after in TRANSITIONS[before]:
                move(db, 1.0, "x", [name], after)
                assert example(db, name)["state"] == after
            else:
                with pytest.raises(HardeningError, match="cannot become"):
                    move(db, 1.0, "x", [name], after)
                assert example(db, name)["state"] == before


def test_every_state_and_stage_can_be_reached() -> None:
    for table, start in ((TRANSITIONS, {ExampleStatus.RECEIVED}), (STAGES, {ModelStatus.TRUSTED, ModelStatus.TRAINED})):
        seen = set(start)
        while more := {after for before in seen for after in table[before]} - seen:  # type: ignore[index]
            seen |= more
        assert seen == set(table)


@pytest.mark.parametrize(
    "change",
    [
        sa.update(audit).where(audit.c.seq == 3).values(detail='{"to":"rejected"}'),
        sa.update(audit).where(audit.c.seq == 3).values(actor="nobody"),
        sa.update(audit).where(audit.c.seq == 3).values(at=5.0),
        sa.update(audit).where(audit.c.seq == 3).values(digest="0" * 64),
        sa.delete(audit).where(audit.c.seq == 3),
    ],
)
def test_a_changed_entry_is_named(any_store: Store, change: sa.Executable) -> None:
    quarantined(any_store, 1, 2, 3)
    with any_store.writing() as db:
        db.execute(change)
        broken = verify(db)
    assert broken is not None
    assert broken.seq == 3


def test_a_cut_tail_and_a_state_set_by_hand_are_seen(any_store: Store) -> None:
    quarantined(any_store, 1, 2)
    with any_store.reading() as db:
        last = head_of(db)[0]
    for edit, words in (
        ("UPDATE examples SET state='accepted' WHERE id=1", "state is 'accepted', the log says 'quarantined'"),
        (f"DELETE FROM audit WHERE seq={last}", f"ends at entry {last - 1}"),
    ):
        with any_store.engine.connect() as db, db.begin() as transaction:
            db.execute(sa.text(edit))
            assert words in verify(db).why
            transaction.rollback()


def test_a_forged_chain_needs_every_later_entry(store: Store) -> None:
    with store.writing() as db:
        before = append(db, 1.0, [Entry("a", "note", "x", {"k": 1})])
        after = append(db, 2.0, [Entry("a", "note", "x", {"k": 1})])
        assert before != after


def test_reviews_label_confirm_disagree_and_are_undone(any_store: Store) -> None:
    (name,) = quarantined(any_store, 1)
    assert review(any_store, Verdict(name, "rae", 7)) == "reviewed"
    with pytest.raises(HardeningError, match="already"):
        review(any_store, Verdict(name, "rae", 7))
    assert review(any_store, Verdict(name, "bob", 7)) == "reviewed"
    with any_store.reading() as db:
        assert (example(db, name)["label"], example(db, name)["confirmed"]) == (7, True)
    assert undo(any_store, name, "bob") == "reviewed"
    with any_store.reading() as db:
        assert (example(db, name)["label"], example(db, name)["confirmed"]) == (7, False)
    assert review(any_store, Verdict(name, "bob", 8)) == "quarantined"
    with any_store.reading() as db:
        assert example(db, name)["label"] is None
        assert verify(db) is None
    assert undo(any_store, name, "rae") == "reviewed", "what remains is bob's label"
    assert undo(any_store, name, "bob") == "quarantined"
    assert review(any_store, Verdict(name, "rae", None)) == "rejected"
    assert undo(any_store, name, "rae") == "quarantined"
    with pytest.raises(HardeningError, match="no review"):
        undo(any_store, name, "rae")
    with pytest.raises(HardeningError, match="0 to 9"):
        review(any_store, Verdict(name, "rae", 10), classes=10)


@pytest.mark.parametrize("other", [8, None])
def test_two_who_agree_are_overturned_by_three_and_held_against_one(any_store: Store, other: int | None) -> None:
    (name,) = quarantined(any_store, 1)
    found = []
    for reviewer, label in (("a", 7), ("b", 7), ("c", other), ("d", other), ("e", other)):
        state_now = review(any_store, Verdict(name, reviewer, label))
        with any_store.reading() as db:
            row = example(db, name)
        found.append((str(state_now), row["label"], row["confirmed"]))
    end = ("rejected", None, False) if other is None else ("reviewed", 8, True)
    held = ("reviewed", 7, True)
    assert found == [("reviewed", 7, False), held, held, ("quarantined", None, False), end]
    with any_store.reading() as db:
        assert verify(db) is None


def test_senders_never_review_their_own(any_store: Store) -> None:
    (name,) = quarantined(any_store, 1)  # token server, principal ann
    receive(any_store, [submission(1, token="gateway", principal="gateway/eve")])
    receive(any_store, [submission(1, token="root", principal="root", tier="internal")])
    for reviewer in ("server", "ann", "gateway", "eve", "root"):
        with pytest.raises(HardeningError, match="another reviewer"):
            review(any_store, Verdict(name, reviewer, 7))
        assert queue(any_store, reviewer, 10) == []
    assert [row["sha256"] for row in queue(any_store, "steve", 10)] == [name]
    assert review(any_store, Verdict(name, "steve", 7)) == "reviewed"


def test_a_second_sender_of_the_same_bytes_is_a_witness(any_store: Store) -> None:
    flood = [submission(seed, principal="mallory") for seed in range(5)]
    receive(any_store, [*flood, submission(1, principal="mallory"), submission(1, principal="ann")])
    receive(any_store, [submission(1, principal="ann"), submission(2, principal="bob", tier="internal")])
    with any_store.reading() as db:
        rows = examples_in_state(db, ExampleStatus.RECEIVED)
        assert [sender.principal for sender in senders_of(db, rows[1]["sha256"])] == ["mallory", "ann"]
        assert [attribution_of(db, row).principal for row in rows] == ["mallory", "ann", "bob", "mallory", "mallory"]
        assert attribution_of(db, rows[2]).tier == "internal"
        assert [row["copies"] for row in rows] == [1, 4, 2, 1, 1]
        entries = sa.select(audit.c.subject).where(audit.c.action == "witness")
        assert len(db.execute(entries).all()) == 2
        assert verify(db) is None


def test_what_was_accepted_cannot_be_undone_by_a_reviewer(store: Store) -> None:
    (name,) = quarantined(store, 1)
    review(store, Verdict(name, "rae", 7))
    with store.writing() as db:
        move(db, 1.0, "tick", [name], ExampleStatus.ACCEPTED)
    with pytest.raises(HardeningError, match="cannot become quarantined"):
        undo(store, name, "rae")


def test_tokens_are_kept_as_hashes_and_can_be_revoked(any_store: Store) -> None:
    bearer = ApiToken("server", Role.SUBMIT, Tier.CUSTOMER, relay=True)
    token = issue(any_store, bearer)
    assert bearer_of(any_store, token) == bearer
    assert bearer_of(any_store, token + "x") is None
    with any_store.reading() as db:
        kept = str(db.execute(sa.text("SELECT * FROM tokens")).all()) + str(db.execute(sa.select(audit)).all())
    assert token not in kept
    revoke_token(any_store, "server")
    assert bearer_of(any_store, token) is None
    for name in ("server", "", "a b", "../x"):
        with pytest.raises(HardeningError):
            issue(any_store, ApiToken(name, Role.SUBMIT, Tier.CUSTOMER))


def test_damaged_or_missing_bytes_are_refused(tmp_path) -> None:
    blobs = Blobs.at(tmp_path)
    name = blobs.put(b"abc")
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_bytes(b"abd")
    with pytest.raises(StoreError, match="were changed"):
        blobs.get(name)
    file.unlink()
    with pytest.raises(StoreError, match="no bytes"):
        blobs.get(name)
    for path in ("../../etc/passwd", "", "AB" * 32):
        with pytest.raises(StoreError, match="not a SHA-256"):
            blobs.get(path)


def test_bytes_may_lie_at_any_fsspec_url() -> None:
    blobs = Blobs.at("memory://attacks")
    assert blobs.get(blobs.put(b"abc")) == b"abc"
    with pytest.raises(StoreError, match="fsspec URL"):
        Blobs.at("nosuch://x")


@pytest.mark.parametrize("url", ["", "harden.db", "mysql://x/y", "sqlite:////no/such/folder/x.db"])
def test_a_database_that_cannot_be_used_is_one_line(url: str, tmp_path) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(url, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down_says_so_and_the_store_recovers(postgres, tmp_path) -> None:
    store = Store.open(postgres.new_database(), tmp_path)
    postgres.stop()
    try:
        with pytest.raises(StoreDown, match="does not respond"):
            receive(store, [submission(1)])
    finally:
        postgres.start()
    receipt = receive(store, [submission(1)])
    assert not receipt[0].known
    store.engine.dispose()
