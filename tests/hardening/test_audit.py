"""The audit replays: an edit past the store, in any table, in the log or in the bytes, is found and named."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa

from advreg.errors import HardeningError, MissingExtraError, RunError, StoreError
from advreg.hardening import registry, signatures
from advreg.hardening.cycle import run_cycle
from advreg.hardening.signatures import SigningKeys, create_key
from advreg.hardening.states import ExampleStatus, ModelStatus
from advreg.hardening.store import Store, verify
from advreg.hardening.store.anchors import anchor_head, anchored_heads, check_anchors, timestamp_request
from advreg.hardening.store.audit import Entry, append, head_of, link
from advreg.hardening.store.examples import Verdict, move, receive, review
from advreg.hardening.store.replay import imported_rows
from advreg.hardening.store.row_log import logged_tables
from advreg.hardening.store.tables import (
    audit,
    examples,
    gates,
    members,
    metadata,
    models,
    predictions,
    pruned,
    seeded,
    snapshots,
    spent,
)
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue, revoke_token
from advreg.hardening.workspace import Workspace
from advreg.hardening.workspace_audit import audit_workspace, sign_workspace
from advreg.runs import RunFolder
from tests.hardening.conftest import submission
from tests.hardening.small import attacked, label, make_home, submit

EDITS = {
    "examples.label": "UPDATE examples SET label=label+1 WHERE label IS NOT NULL",
    "examples.label to none": "UPDATE examples SET label=NULL WHERE id=1",
    "examples.confirmed": "UPDATE examples SET confirmed=NOT confirmed WHERE id=2",
    "examples.state": "UPDATE examples SET state='accepted' WHERE id=3",
    "examples.principal": "UPDATE examples SET principal='x' WHERE id=1",
    "examples.tier": "UPDATE examples SET tier='internal' WHERE id=1",
    "examples.cluster": "UPDATE examples SET cluster=99 WHERE id=1",
    "examples.received_at": "UPDATE examples SET received_at=0",
    "examples.copies": "UPDATE examples SET copies=999 WHERE id=1",
    "examples.prediction": "UPDATE examples SET prediction=7 WHERE id=1",
    "examples.claimed": "UPDATE examples SET claimed=1 WHERE id=1",
    "examples.looks": "UPDATE examples SET looks='f' WHERE id=1",
    "examples.suspicion": "UPDATE examples SET suspicion=0.25 WHERE id=1",
    "examples.rule": "UPDATE examples SET rule='none' WHERE id=1",
    "an example deleted": "DELETE FROM examples WHERE id=4",
    "an example moved to another number": "UPDATE examples SET id=77 WHERE id=4",
    "an answer changed": "UPDATE answers SET answer='Sure, first'",
    "reviews.label": "UPDATE reviews SET label=2 WHERE id=1",
    "reviews.reviewer": "UPDATE reviews SET reviewer='someone' WHERE id=1",
    "reviews.undone": "UPDATE reviews SET undone=NOT undone WHERE id=1",
    "a review inserted": "INSERT INTO reviews(id, example, reviewer, label, at, undone) "
    "SELECT 900, example, 'r9', label, at, undone FROM reviews WHERE id=1",
    "a review deleted": "DELETE FROM reviews WHERE id=1",
    "tokens.role": "UPDATE tokens SET role='admin'",
    "tokens.relay": "UPDATE tokens SET relay=NOT relay WHERE name='rae'",
    "tokens.digest": "UPDATE tokens SET digest='00' WHERE name='rae'",
    "a token comes back": "UPDATE tokens SET revoked=NOT revoked WHERE name='gone'",
    "a token inserted": "INSERT INTO tokens SELECT 'evil', 'ff', role, tier, relay, revoked FROM tokens WHERE name='rae'",
    "snapshots.manifest": "UPDATE snapshots SET manifest=manifest || ' '",
    "snapshots.sha256": "UPDATE snapshots SET sha256='00'",
    "a member deleted": "DELETE FROM members",
    "models.weights": "UPDATE models SET weights='00' WHERE version='m-0001'",
    "models.stage": "UPDATE models SET stage='retired' WHERE version='m-0001'",
    "models.run": "UPDATE models SET run='models/other' WHERE version='m-0002'",
    "models.decision": "UPDATE models SET decision='00' WHERE version='m-0002'",
    "a model inserted": "INSERT INTO models VALUES('m-0666', 'passed', 'models/base', '00', NULL, NULL, 0)",
    "aliases moved": "UPDATE aliases SET version='m-0001' WHERE name='champion'",
    "aliases deleted": "DELETE FROM aliases",
    "gates.verdict": "UPDATE gates SET verdict='REFUSE'",
    "gates.record": "UPDATE gates SET record='{}'",
    "spent deleted": "DELETE FROM spent",
    "predictions.prediction": "UPDATE predictions SET prediction=2",
    "witnesses.tier": "UPDATE witnesses SET tier='internal'",
    "witnesses deleted": "DELETE FROM witnesses",
    "seeded.label": "UPDATE seeded SET label=2",
    "pruned deleted": "DELETE FROM pruned",
    "audit detail": "UPDATE audit SET detail='{}' WHERE seq=3",
    "audit actor": "UPDATE audit SET actor='x' WHERE seq=5",
    "audit row deleted": "DELETE FROM audit WHERE seq=4",
    "audit tail cut": "DELETE FROM audit WHERE seq=(SELECT max(seq) FROM audit)",
    "head moved back": "UPDATE head SET seq=seq-1",
}


def fill(store: Store) -> None:
    """Give every table rows: examples, reviews, tokens, a snapshot, two models, a gate."""
    for name, role in (("rae", Role.REVIEW), ("gone", Role.SUBMIT)):
        issue(store, ApiToken(name, role, Tier.CUSTOMER))
    revoke_token(store, "gone")
    names = [receipt.id for receipt in receive(store, [submission(k) for k in range(4)])]
    receive(store, [submission(9, kind="text", prediction=None, answer="Sure")])
    receive(store, [submission(1, principal="bob")])
    with store.writing() as db:
        move(db, store.clock(), "tick", names, ExampleStatus.QUARANTINED)
        db.execute(seeded.insert().values(example=names[3], label=1))
        db.execute(pruned.insert().values(example=names[3], at=1.0))
    for name in names[:3]:
        review(store, Verdict(name, "rae", 1), 3)
    review(store, Verdict(names[0], "sam", 1), 3)
    registry.register_initial_champion(store, "models/base", "aa", "admin")
    with store.writing() as db:
        db.execute(predictions.insert().values(example=names[0], version="m-0001", prediction=1))
    with store.writing() as db:
        db.execute(snapshots.insert().values(id="s-0001", sha256="bb", manifest='{"members": []}' * 30, at=1.0))
        db.execute(members.insert(), [{"snapshot": "s-0001", "example": name} for name in names[:2]])
    registry.register(store, "models/s-0001", "cc", snapshot="s-0001")
    facts = {"champion": "m-0001", "challenger": "m-0002", "verdict": "PROMOTE", "decision": "dd", "record": "{ }"}
    with store.writing() as db:
        number = db.execute(gates.insert().values(sealed="ee", at=2.0, **facts).returning(gates.c.id)).scalar()
        db.execute(spent.insert(), [{"example": "ff", "gate": number}])
        db.execute(models.update().where(models.c.version == "m-0002").values(decision="dd"))
        for stage in (ModelStatus.EVALUATED, ModelStatus.PASSED):
            registry.set_stage(db, 3.0, "tick", "m-0002", stage)
    registry.promote(store, "m-0002", "tick")


def test_every_edit_of_a_row_is_found(any_store: Store) -> None:
    fill(any_store)
    with any_store.reading() as db:
        assert verify(db) is None
        assert {table.name for table in logged_tables() if not db.execute(sa.select(table)).first()} == set()
    if any_store.engine.dialect.name == "sqlite":
        with any_store.engine.connect() as db:
            db.exec_driver_sql("PRAGMA foreign_keys=OFF")
    unnoticed = {name for name, edit in EDITS.items() if _verdict(any_store, edit) is None}
    assert unnoticed == set()
    with any_store.reading() as db:
        assert verify(db) is None, "the edits were rolled back"


def _verdict(store: Store, edit: str) -> object:
    """Edit the tables as a person with a database client would, verify, and roll back."""
    with store.engine.connect() as db, db.begin() as transaction:
        if db.dialect.name == "sqlite":
            db.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        else:
            db.execute(sa.text("SET session_replication_role = replica"))  # no foreign keys
        assert db.execute(sa.text(edit)).rowcount, edit
        found = verify(db, store.blobs)
        transaction.rollback()
    return found


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ("UPDATE reviews SET label=2 WHERE id=1", "reviews 1: label is 2, the log says 1"),
        ("DELETE FROM aliases WHERE name='previous'", "aliases previous is in the log"),
        ("UPDATE models SET weights='00' WHERE version='m-0001'", "models m-0001: weights is '00', the log says 'aa'"),
        (
            "INSERT INTO models VALUES('m-0666', 'passed', 'x', '00', NULL, NULL, 0)",
            "models m-0666 is in the store and not",
        ),
        ("UPDATE audit SET detail='{}' WHERE seq=3", "entry 3 ("),
    ],
)
def test_the_first_difference_is_named(any_store: Store, edit: str, line: str) -> None:
    fill(any_store)
    found = _verdict(any_store, edit)
    assert line in found.why


@pytest.mark.parametrize("damage", ["overwritten", "deleted"])
def test_changed_bytes_are_found(any_store: Store, damage: str) -> None:
    fill(any_store)
    blob = sorted(Path(any_store.blobs.root).glob("*/*"))[0]
    blob.write_bytes(b"x") if damage == "overwritten" else blob.unlink()
    with any_store.reading() as db:
        assert blob.name[:12] in verify(db).why


def test_row_of_another_type_is_found(store: Store) -> None:
    fill(store)
    found = _verdict(store, "UPDATE examples SET scores='[' WHERE id=1")
    assert "cannot be read" in found.why


def test_rows_cannot_be_written_past_the_log(any_store: Store) -> None:
    receive(any_store, [submission(1)])
    with any_store.engine.connect() as db, pytest.raises(StoreError, match="outside Store"):
        db.execute(examples.update().values(copies=3))
    with any_store.writing() as db, pytest.raises(StoreError, match="one statement for each"):
        db.execute(examples.update().where(examples.c.id == sa.bindparam("which")), [{"which": 1}, {"which": 1}])


def test_changes_of_a_transaction_that_failed_are_not_logged(any_store: Store) -> None:
    receive(any_store, [submission(1)])
    with any_store.reading() as db:
        before = head_of(db)
    with contextlib.suppress(RuntimeError), any_store.writing() as db:
        db.execute(examples.update().values(copies=3))
        raise RuntimeError
    with any_store.reading() as db:
        assert head_of(db) == before
        assert verify(db) is None


def old_store(url: str, folder: Path) -> list[str]:
    """Write a store as version 0.1 did: a chain of events, and no rows in it."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    metadata.create_all(engine)
    store = Store(engine, Store.open(f"sqlite:///{folder}/unused.db", folder / "blobs").blobs)
    names = [store.blobs.put(submission(k).content) for k in range(3)]
    given = {key: value for key, value in vars(submission(0)).items() if key not in ("content", "answer")}
    with engine.begin() as db:
        db.execute(sa.text(f"INSERT INTO head VALUES (1, 0, '{'0' * 64}')"))
        for name in names:
            facts = {"size": 3, "copies": 1, "confirmed": False, "received_at": 1.0, "state": "received"}
            db.execute(examples.insert().values(sha256=name, **facts, **given))
            append(db, 1.0, [Entry("server", "state", name, {"to": "received", "principal": "ann"})])
    engine.dispose()
    return names


def test_store_of_version_0_1_opens_and_its_rows_are_imported(any_store: Store, tmp_path: Path) -> None:
    url = any_store.engine.url.render_as_string(hide_password=False)
    _empty(any_store)
    old_store(url, tmp_path)
    opened = Store.open(url, tmp_path / "blobs")
    with opened.reading() as db:
        assert verify(db) is None
        actions = list(db.execute(sa.select(audit.c.action).order_by(audit.c.seq)).scalars())
        found = imported_rows(db)
    assert actions == ["state"] * 3 + ["import"] + ["imported"] * 3
    assert (found.seq, found.count) == (4, 3)
    assert found.recorded == found.rows.hexdigest(), "the import names the rows that it found, to compare with a backup"
    assert "copies is 9, the log says 1" in _verdict(opened, "UPDATE examples SET copies=9 WHERE id=2").why
    opened.engine.dispose()
    again = Store.open(url, tmp_path / "blobs")
    with again.reading() as db:
        assert head_of(db)[0] == 7, "rows are imported once"
    again.engine.dispose()


def test_edit_before_the_import_stays_in_the_verdict(any_store: Store, tmp_path: Path) -> None:
    url = any_store.engine.url.render_as_string(hide_password=False)
    _empty(any_store)
    old_store(url, tmp_path)
    with any_store.engine.begin() as db:
        db.execute(sa.text("UPDATE examples SET state='accepted' WHERE id=2"))
    opened = Store.open(url, tmp_path / "blobs")
    with opened.reading() as db:
        assert "is 'accepted', which is not in the log" in verify(db).why
    opened.engine.dispose()


def test_rows_imported_from_two_copies_of_a_store_have_one_hash(any_store: Store, tmp_path: Path) -> None:
    url = any_store.engine.url.render_as_string(hide_password=False)
    hashes = []
    for edit in ("SELECT 1", "SELECT 1", "UPDATE examples SET principal='eve' WHERE id=2"):
        _empty(any_store)
        old_store(url, tmp_path)
        with any_store.engine.begin() as db:
            db.execute(sa.text(edit))
        opened = Store.open(url, tmp_path / "blobs")
        with opened.reading() as db:
            hashes.append(imported_rows(db).recorded)
            assert verify(db) is None, "an edit before the import is seen by its hash alone"
        opened.engine.dispose()
    assert hashes[0] == hashes[1] != hashes[2]


def test_import_that_recorded_other_rows_is_found(store: Store, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    old_store(url, tmp_path)
    opened = Store.open(url, tmp_path / "blobs")
    recorded = sa.select(audit.c.detail).where(audit.c.action == "import")
    with opened.engine.begin() as db:
        detail = db.execute(recorded).scalar_one()
        forged = detail.replace(json.loads(detail)["sha256"], "f" * 64)
        db.execute(sa.text("UPDATE audit SET detail=:detail WHERE action='import'"), {"detail": forged})
    _forge(opened)
    with opened.reading() as db:
        assert "not those that the import recorded" in verify(db).why
    opened.engine.dispose()


def _empty(store: Store) -> None:
    metadata.drop_all(store.engine)


@pytest.mark.parametrize("kind", ["file", "git", "rfc3161"])
def test_chain_forged_by_the_database_owner_differs_from_its_anchor(
    any_store: Store, tmp_path: Path, kind: str
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path / "repo"], check=True)
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", tmp_path / "repo", *who, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    for key, value in (("user.name", "t"), ("user.email", "t@t")):
        subprocess.run(["git", "-C", tmp_path / "repo", "config", key, value], check=True)
    target = {"file": f"{tmp_path}/heads.jsonl", "git": f"git:{tmp_path}/repo", "rfc3161": f"rfc3161:{tmp_path}/tsq"}[
        kind
    ]
    fill(any_store)
    with any_store.reading() as db:
        head = anchor_head(db, target)
        assert anchor_head(db, target) == head, "the same head is anchored once"
        assert anchored_heads(target) == {head}
    receive(any_store, [submission(50)])
    with any_store.reading() as db:
        assert check_anchors(db, target) is None, "a longer log still holds the anchored head"
    _forge(any_store)
    with any_store.reading() as db:
        assert verify(db) is None, "the chain alone does not show it"
        assert f"anchored at {target}" in check_anchors(db, target).why


def _forge(store: Store) -> None:
    """Rewrite the log from one entry on, as the owner of the database can: tables, entries, digests and head."""
    with store.engine.begin() as db:
        digest = "0" * 64
        for row in db.execute(sa.select(audit).order_by(audit.c.seq)).all():
            actor = "eve" if row.seq == 2 else row.actor
            digest = link(digest, row.seq, row.at, actor, row.action, row.subject, row.detail)
            change = sa.text("UPDATE audit SET actor=:actor, digest=:digest WHERE seq=:seq")
            db.execute(change, {"actor": actor, "digest": digest, "seq": row.seq})
        db.execute(sa.text("UPDATE head SET digest=:digest"), {"digest": digest})


def test_bad_anchors_are_one_line(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text").write_text('{"seq": "x"}\n')
    with store.reading() as db:
        for target in (f"{tmp_path}/text", f"git:{tmp_path}", f"rfc3161:{tmp_path}/text/more"):
            with pytest.raises((StoreError, RunError)) as caught:
                anchor_head(db, target)
            assert "\n" not in str(caught.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl reads time-stamp requests: install it")
def test_timestamp_request_is_one_that_openssl_reads(tmp_path: Path) -> None:
    (tmp_path / "a.tsq").write_bytes(timestamp_request("ab" * 32))
    done = subprocess.run(
        ["openssl", "ts", "-query", "-in", tmp_path / "a.tsq", "-text"], capture_output=True, text=True, check=True
    )
    assert "Hash Algorithm: sha256" in done.stdout
    assert "ab ab ab" in done.stdout
    assert "Certificate required: yes" in done.stdout


def test_keys_are_private_and_missing_cryptography_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    public = create_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert SigningKeys(str(tmp_path / "key")).public_key == public
    with pytest.raises(HardeningError, match="cannot create"):
        create_key(tmp_path / "key")
    os.chmod(tmp_path / "key", 0o644)
    with pytest.raises(HardeningError, match="chmod 600"):
        _ = SigningKeys(str(tmp_path / "key")).public_key
    monkeypatch.setattr(signatures, "_MODULE", "no_such_module")
    with pytest.raises(MissingExtraError, match=r"pip install 'advreg\[sign\]'"):
        create_key(tmp_path / "other")


@pytest.fixture(scope="module")
def signed_home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with keys, and a challenger that was promoted."""
    pytest.importorskip("cryptography")
    folder = tmp_path_factory.mktemp("signed")
    home = make_home(folder, **{"signing.key": str(folder / "key")})
    store = home.store()
    x, y = attacked(home, 300)
    label(store, submit(store, x[:40]), [int(k) for k in y[:40]])
    outcome = run_cycle(home, store)
    assert outcome.champion == "m-0002", outcome.lines
    store.engine.dispose()
    return home


def _copy(home: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(home.folder.path, tmp_path / "home")
    return Workspace.open(tmp_path / "home")


@pytest.mark.parametrize("file", ["model.json", "model.safetensors", "signature.json"])
@pytest.mark.parametrize("verb", ["promotion", "load", "audit"])
def test_changed_model_is_rejected(signed_home: Workspace, tmp_path: Path, file: str, verb: str) -> None:
    home = _copy(signed_home, tmp_path)
    store = home.store()
    assert audit_workspace(home, store) is None
    place = home.folder / "models/base" / file
    if file == "signature.json":
        create_key(tmp_path / "eve")
        SigningKeys(str(tmp_path / "eve")).sign_run(RunFolder(place.parent))
    elif file == "model.json":
        place.write_text(json.dumps({**json.loads(place.read_text()), "note": "edited"}))
    else:
        shutil.copy(home.folder / "models/s-0001/model.safetensors", place)
    if verb == "audit":
        assert "m-0001" in audit_workspace(home, store).why
    elif verb == "load":
        with pytest.raises(HardeningError, match="models/base"):
            run_cycle(home, store)
    else:
        from advreg.cli.app import app

        with pytest.raises(HardeningError, match="models/base"):
            app(["harden", "rollback", "--home", str(home.folder.path)], standalone_mode=False)
        with store.reading() as db:
            assert registry.current_champion(db) == "m-0002"
    store.engine.dispose()


def test_changed_snapshot_is_found(signed_home: Workspace, tmp_path: Path) -> None:
    home = _copy(signed_home, tmp_path)
    store = home.store()
    file = home.folder / "snapshots/s-0001.json"
    home.signing.verify_file(file)
    file.write_text(file.read_text() + " ")
    assert "differs from the manifest" in audit_workspace(home, store).why
    with pytest.raises(HardeningError, match="was changed after it was signed"):
        home.signing.verify_file(file)
    with pytest.raises(HardeningError, match="nothing is signed"):
        sign_workspace(home, store)
    store.engine.dispose()


def test_workspace_of_before_can_be_signed_later(signed_home: Workspace, tmp_path: Path) -> None:
    home = _copy(signed_home, tmp_path)
    for file in home.folder.path.rglob("*signature.json"):
        file.unlink()
    store = home.store()
    assert "has no signature" in audit_workspace(home, store).why
    assert sign_workspace(home, store) == ["models/base", "models/s-0001", "snapshots/s-0001.json"]
    assert audit_workspace(home, store) is None
    store.engine.dispose()


def test_configuration_of_each_cycle_is_in_the_log(signed_home: Workspace, tmp_path: Path) -> None:
    home = _copy(signed_home, tmp_path)
    store = home.store()
    (home.folder / "harden.toml").write_text((home.folder / "harden.toml").read_text().replace("seed = 0", "seed = 7"))
    run_cycle(Workspace.open(home.folder.path), store)
    run_cycle(Workspace.open(home.folder.path), store)
    with store.reading() as db:
        found = db.execute(sa.select(audit.c.detail).where(audit.c.action == "config").order_by(audit.c.seq))
        logged = [json.loads(detail) for detail in found.scalars()]
    assert [values["seed"] for values in logged] == [0, 7]
    assert all("store" not in values for values in logged), "its address may hold a password"
    store.engine.dispose()
