"""Quotas and retention: a token keeps what it may, and what is deleted is neither needed nor shown."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import pytest

from advreg.errors import HardeningError, UploadError
from advreg.hardening.ingestion import queue
from advreg.hardening.retention import prune
from advreg.hardening.service.quota import Quotas, bytes_by_token
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store import Store, verify
from advreg.hardening.store.examples import Verdict, example, examples_in_state, move, receive, review, undo
from tests.hardening.conftest import Clock, png, submission

APART = [submission(seed, looks=f"{(1 << 192) // 11 * (seed + 1):048x}") for seed in range(8)]


def files(store: Store) -> list[Path]:
    return [path for path in Path(store.blobs.root).rglob("*") if path.is_file()]


def upload(store: Store, quotas: Quotas, *seeds: int, token: str = "server") -> None:
    quotas.refresh()
    receive(store, [submission(k, token=token) for k in seeds], lambda db, stored: quotas.check(db, token, stored))


def test_a_token_and_the_store_keep_their_quota(any_store: Store) -> None:
    one = len(png(1))
    quotas = Quotas(any_store, token_bytes=2 * one + 9, total_bytes=3 * one + 9)
    upload(any_store, quotas, 1)
    upload(any_store, quotas, 1)
    upload(any_store, quotas, 2)
    with pytest.raises(UploadError, match="token_bytes") as caught:
        upload(any_store, quotas, 3)
    assert caught.value.status == 413
    upload(any_store, quotas, 4, token="other")
    with pytest.raises(UploadError, match="total_bytes") as caught:
        upload(any_store, quotas, 5, token="third")
    assert caught.value.status == 507
    with any_store.reading() as db:
        assert bytes_by_token(db) == {"server": len(png(1)) + len(png(2)), "other": len(png(4))}
        assert verify(db) is None, "a rejected upload leaves no row"


def test_several_servers_keep_one_quota(any_store: Store) -> None:
    size = sum(len(png(k)) for k in range(40))
    servers = [Quotas(any_store, token_bytes=size // 2, total_bytes=size) for _ in range(4)]
    for server in servers:
        server.refresh()

    def send(first: int) -> None:
        for k in range(first, 40, 4):
            with contextlib.suppress(UploadError):
                upload(any_store, servers[first], k)

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with any_store.reading() as db:
        kept = bytes_by_token(db)["server"]
    assert size // 2 - 2 * len(png(1)) < kept <= size // 2


def test_bytes_that_come_back_count_again(store: Store, clock: Clock) -> None:
    one, quotas = len(png(1)), Quotas(store, token_bytes=1500, total_bytes=10_000)
    assert 750 < one < 1500
    upload(store, quotas, 1)
    clock.now += 181 * 86_400
    prune(store, keep_days=180)
    fresh = Quotas(store, token_bytes=1500, total_bytes=10_000)
    upload(store, fresh, 1)
    with pytest.raises(UploadError, match="token_bytes"):
        upload(store, fresh, 2)


def test_old_examples_lose_their_bytes_and_keep_their_rows(any_store: Store, clock: Clock) -> None:
    names = [receipt.id for receipt in receive(any_store, APART)]
    queue(any_store, "rae", 1)
    review(any_store, Verdict(names[0], "rae", None))
    for name in names[1:3]:
        review(any_store, Verdict(name, "rae", 7))
    with any_store.writing() as db:
        move(db, clock(), "tick", [names[1]], ExampleStatus.ACCEPTED)
    clock.now += 181 * 86_400
    young = receive(any_store, [submission(20)])[0].id
    found = prune(any_store, keep_days=180)
    assert (found.examples, found.orphans, found.temporary) == (6, 0, 0)
    assert {path.name for path in files(any_store)} == {names[1], names[2], young}
    with any_store.reading() as db:
        assert len(examples_in_state(db, ExampleStatus.REJECTED)) == 6
        assert verify(db) is None, "a deletion that the log holds is no tampering"
    assert [row["sha256"] for row in queue(any_store, "sam", 100)] == [young]
    with pytest.raises(HardeningError, match="retention"):
        undo(any_store, names[0], "rae")
    assert prune(any_store, keep_days=180).examples == 0
    receive(any_store, [APART[0]])
    assert undo(any_store, names[0], "rae") == "quarantined", "its bytes are there again"
    assert prune(any_store, keep_days=0).examples == 0


def test_what_a_killed_writer_left_is_swept_and_young_files_are_not(store: Store) -> None:
    receive(store, [submission(1)])
    orphan = Path(store.blobs.root) / "ab" / store.blobs.put(b"an upload that was never stored")
    orphan = next(path for path in files(store) if path.name == orphan.name)
    scratch = orphan.with_name(f"{orphan.name}.0011.tmp")
    scratch.write_bytes(b"half")
    assert prune(store, keep_days=180).bytes == 0
    for path in files(store):
        os.utime(path, (time.time() - 7200,) * 2)
    found = prune(store, keep_days=180)
    assert (found.orphans, found.temporary) == (1, 1)
    assert len(files(store)) == 1
    with store.reading() as db:
        assert verify(db) is None


def test_temporary_files_everywhere_in_the_home_are_swept_safely(store: Store, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    kept = ["notes.tmp", ".config.tmp", "models/base/model.json", ".young.json.12.tmp"]
    swept = [".harden.toml.77.tmp", "snapshots/.s-0001.json.4711.tmp", "models/base/evaluation/x/.results.json.5.tmp"]
    outside = elsewhere / ".other.json.1.tmp"
    for file in [*(home / name for name in kept + swept), outside]:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"half")
    (home / "models/linked").symlink_to(elsewhere)
    (home / ".link.json.9.tmp").symlink_to(outside)
    for file in [path for path in tmp_path.rglob("*") if path.is_file() and "young" not in path.name]:
        os.utime(file, (time.time() - 7200,) * 2)
    found = prune(store, keep_days=0, home=home)
    assert (found.temporary, found.bytes) == (3, 12)
    assert all((home / name).exists() for name in [*kept, "models/linked/.other.json.1.tmp", ".link.json.9.tmp"])
    assert not any((home / name).exists() for name in swept)


def test_bytes_swept_before_their_row_are_written_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Store.writing

    def sweep_first(self: Store):
        for path in files(self):
            path.unlink()
        return begin(self)

    monkeypatch.setattr(Store, "writing", sweep_first)
    name = receive(store, [submission(1)])[0].id
    assert store.blobs.get(name) == png(1)
    with store.reading() as db:
        assert example(db, name)["state"] == "received"
