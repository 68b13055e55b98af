"""The loop: stronger with what was accepted, unchanged by what was not, whole after any crash."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import torch

import advreg
from advreg.errors import ConfigError, HardeningError, RunError
from advreg.hardening import registry
from advreg.hardening.attack_families import families
from advreg.hardening.config import HardeningConfig
from advreg.hardening.cycle import run_cycle
from advreg.hardening.datasets import load_hardening_data
from advreg.hardening.image_decoding import Limits
from advreg.hardening.known_examples import SEEDER, known_images, seed_known
from advreg.hardening.lease import Busy, hold_lease
from advreg.hardening.media_types import IMAGES
from advreg.hardening.retrain import Accepted, retrain
from advreg.hardening.store import Store, verify
from advreg.hardening.store.audit import head_of
from advreg.hardening.store.database import StoreDown
from advreg.hardening.store.examples import example
from advreg.hardening.store.tables import examples
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder
from tests import processes
from tests.hardening.small import attacked, images, label, label_at_once, make_home, submit


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A home, made once and copied for each test."""
    folder = tmp_path_factory.mktemp("loop")
    make_home(folder)
    return folder / "home"


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "home")
    return Workspace.open(tmp_path / "home")


@pytest.fixture
def store(home: Workspace):
    opened = home.store()
    yield opened
    opened.engine.dispose()


def submit_attacks(home: Workspace, store: Store, n: int = 60, reviewers: tuple[str, ...] = ("rae",)) -> list[str]:
    x, y = attacked(home, n)
    names = submit(store, x)
    label(store, names, list(y), reviewers)
    return names


def intact(store: Store) -> bool:
    with store.reading() as db:
        return verify(db) is None


def champion(store: Store) -> str:
    with store.reading() as db:
        return registry.current_champion(db)


def test_a_tick_with_nothing_new_changes_nothing(home: Workspace, store: Store) -> None:
    with store.reading() as db:
        before = head_of(db)
    assert run_cycle(home, store).lines == ()
    assert champion(store) == "m-0001"
    with store.reading() as db:
        assert head_of(db) == before


def test_from_submission_to_promotion_and_back(home: Workspace, store: Store) -> None:
    names = submit_attacks(home, store, reviewers=("rae", "sam"))
    outcome = run_cycle(home, store)
    assert outcome.decision.promote
    assert outcome.champion == "m-0002"
    tests = {test.name: test for test in outcome.decision.tests}
    assert tests["robust accuracy, better"].estimate > 0.1
    assert {"incidents", "canaries", "trigger"} <= set(tests)
    manifest = json.loads((home.folder / "snapshots/s-0001.json").read_text())
    members = {member["id"]: member for member in manifest["members"]}
    assert 0 < len(members) <= 0.01 * (1200 + len(members)) + 1
    assert set(members) <= set(names)
    assert all(member["reviewers"] == ["rae", "sam"] and member["tier"] == "reviewed" for member in members.values())
    decision = json.loads((home.folder / "models/s-0001/decision.json").read_text())
    with store.reading() as db:
        log = [json.loads(row[0]) for row in db.exec_driver_sql("SELECT detail FROM audit WHERE action = 'gate'")]
        assert registry.model(db, "m-0002")["decision"] == decision["sha256"] == log[0]["decision"]
    assert registry.examples_of(store, "m-0002") == sorted(members)
    assert run_cycle(home, store).lines == (), "a second tick has nothing to do"
    began = time.perf_counter()
    assert registry.rollback(store, "root") == "m-0001"
    assert time.perf_counter() - began < 1
    assert champion(store) == "m-0001"
    assert run_cycle(home, store).lines == (), "what was rolled back does not come again by itself"
    with pytest.raises(HardeningError, match="no previous"):
        registry.rollback(store, "root")
    assert intact(store)


def test_a_challenger_depends_on_base_and_snapshot_alone(home: Workspace, tmp_path: Path) -> None:
    stock, base = load_hardening_data(home.config), advreg.RunFolder.open(home.folder / "models/base")
    x, y = (torch.from_numpy(part) for part in attacked(home, 60))
    last = RunFolder.at(tmp_path / "broken")
    last.write("metrics.jsonl", '{"epoch": 1}\n')  # what a kill left behind
    hashes = []
    for name, rows in (("a", 9), ("b", 9), ("broken", 9), ("c", 8)):
        run = RunFolder.at(tmp_path / name)
        given = Accepted(x[:rows], y[:rows].long(), torch.full((rows,), 0.01 / rows))
        hashes.append(retrain(base, run, stock.clean, given, families(["linf:0.1"]), home.config.train, 0))
        assert [line["epoch"] for line in run.read_log("metrics.jsonl")] == [1, 2, 3]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    before = (tmp_path / "a/model.safetensors").stat().st_mtime_ns
    retrain(base, RunFolder.at(tmp_path / "a"), stock.clean, given, families(["linf:0.1"]), home.config.train, 0)
    assert (tmp_path / "a/model.safetensors").stat().st_mtime_ns == before, "a finished one is not trained again"


class Killed(BaseException):
    """Stands for a kill at this very moment."""


def test_killed_between_any_two_writes_the_next_tick_ends_the_same(
    home: Workspace, tmp_path: Path, monkeypatch
) -> None:
    store = home.store()
    submit_attacks(home, store, reviewers=("rae", "sam"))
    store.engine.dispose()
    shutil.copytree(home.folder.path, tmp_path / "whole")
    whole = Workspace.open(tmp_path / "whole")
    outcome = run_cycle(whole)
    weights = (whole.folder / "models/s-0001/model.safetensors").read_bytes()

    writing, run_write = Store.writing, advreg.RunFolder.write
    left = 0

    def count_down() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    @contextmanager
    def failing(self):
        count_down()
        with writing(self) as db:
            yield db

    def failing_write(self, name, content):
        count_down()
        return run_write(self, name, content)

    kills = 0
    monkeypatch.setattr("advreg.hardening.lease._dead", lambda owner: True)  # the killed holder is this very process
    for moment in range(1, 60):
        left = moment
        with monkeypatch.context() as patch:
            patch.setattr(Store, "writing", failing)
            patch.setattr(advreg.RunFolder, "write", failing_write)
            try:
                run_cycle(home)
            except Killed:
                kills += 1
        store = home.store()
        assert intact(store), moment
        reigning = champion(store)
        with store.reading() as db:
            assert registry.model(db, reigning)["stage"] == "champion"
        store.engine.dispose()
        if reigning == "m-0002":
            break
    assert kills > 8
    run_cycle(home)
    store = home.store()
    assert champion(store) == outcome.champion == "m-0002"
    assert (home.folder / "models/s-0001/model.safetensors").read_bytes() == weights
    assert [row["stage"] for row in registry.list_models(store)] == ["previous", "champion"]
    with store.reading() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM gates").scalar() == 1, (
            "one decision, however often it was begun"
        )
        assert db.exec_driver_sql("SELECT count(*) FROM snapshots").scalar() == 1


def test_killed_by_the_system_at_random_the_loop_goes_on(home: Workspace, store: Store) -> None:
    submit_attacks(home, store)
    imports = "from advreg.hardening.workspace import Workspace\nfrom advreg.hardening.cycle import run_cycle\n"
    code = f"{imports}run_cycle(Workspace.open({str(home.folder.path)!r}))"
    rng = np.random.default_rng(0)
    for _ in range(2):
        child = processes.start(code=code)
        time.sleep(float(rng.uniform(0.2, 2)))
        child.kill()
        assert intact(store)
    run_cycle(home, store)
    assert champion(store) == "m-0002"
    assert intact(store)


def test_of_two_ticks_at_once_one_works(home: Workspace, store: Store) -> None:
    submit_attacks(home, store)
    outcomes: list[object] = []

    def tick() -> None:
        try:
            outcomes.append(run_cycle(home, home.store()).champion)
        except Busy:
            outcomes.append("busy")

    threads = [threading.Thread(target=tick) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, outcomes)) == ["busy", "m-0002"]
    with store.reading() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM models").scalar() == 2
        assert db.exec_driver_sql("SELECT count(*) FROM gates").scalar() == 1


def test_a_lease_ends_with_its_time_or_its_holder(any_store: Store, clock) -> None:
    with hold_lease(any_store) as first, pytest.raises(Busy), hold_lease(any_store):
        pass
    with hold_lease(any_store, seconds=1000) as first:
        clock.now += 2000  # silent for longer than it promised
        with hold_lease(any_store) as second, any_store.writing() as db:
            second.check(db)
            with pytest.raises(Busy, match="lost"):
                first.check(db)
    with any_store.writing() as db:
        db.exec_driver_sql("INSERT INTO locks VALUES ('tick', 'elsewhere:1:1:x', 9e9)")
    with pytest.raises(Busy, match="elsewhere"), hold_lease(any_store):
        pass


def test_a_killed_holder_on_this_machine_blocks_nobody(store: Store, home: Workspace) -> None:
    code = (
        "import os, signal\nfrom advreg.hardening.workspace import Workspace\nfrom advreg.hardening.lease import hold_lease\n"
        f"store = Workspace.open({str(home.folder.path)!r}).store()\n"
        "with hold_lease(store, seconds=1e6):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert processes.run(code=code).returncode == -9
    with hold_lease(store):
        pass


def test_a_flood_of_one_principal_moves_its_share_not_above_its_cap(home: Workspace, store: Store) -> None:
    rng = np.random.default_rng(0)
    names = submit(store, rng.uniform(0, 1, (400, 1, 12, 12)), principal="eve")
    others = submit(store, rng.uniform(0, 1, (5, 1, 12, 12)), principal="ann")
    label_at_once(store, names + others, list(rng.integers(0, 3, 405)))
    run_cycle(home, store)
    manifest = json.loads((home.folder / "snapshots/s-0001.json").read_text())
    by = [member["principal"] for member in manifest["members"]]
    assert by.count("eve") == 12  # 1% of 1,200
    assert by.count("ann") == 5
    assert manifest["left_out"]["principal"] == 388


def test_what_the_submitter_claims_trains_nothing(home: Workspace, store: Store) -> None:
    x, _ = attacked(home, 60)
    submit(store, x, claimed=2)
    outcome = run_cycle(home, store)
    assert outcome.decision is None
    assert not (home.folder / "snapshots").exists()
    with store.reading() as db:
        columns = ("claimed", "label", "state")
        found = {tuple(row) for row in db.exec_driver_sql(f"SELECT {', '.join(columns)} FROM examples")}
    assert found == {(2, None, "quarantined")}


def test_a_backdoor_that_every_reviewer_passed_is_stopped_at_the_gate(tmp_path: Path) -> None:
    caps = {f"caps.{name}": 0.3 for name in ("total", "principal", "label", "label_loss", "customer", "reviewer")}
    home = make_home(tmp_path, **caps, **{"caps.cluster": 300, "train.replay": 0.4, "train.epochs": 6})
    store = home.store()
    rng = np.random.default_rng(0)
    x = images(200, 7)[0][:, None] / 255.0
    x[:, :, 10:, 10:] = rng.uniform(0.97, 1, (200, 1, 2, 2))  # the trigger; no two files are the same
    names = submit(store, x)
    label_at_once(store, names, [0] * len(names))
    outcome = run_cycle(home, store)
    assert outcome.champion == "m-0001"
    failed = {test.name for test in outcome.decision.tests if not test.passed}
    assert "trigger" in failed, outcome.lines
    assert outcome.decision.verdict == "REFUSED"
    assert run_cycle(home, store).lines == (), "refused once is refused"


def test_a_norm_balls_figure_is_diagnosed_and_only_trusted_ones_are_promoted(home: Workspace, store: Store) -> None:
    asking = Workspace(home.folder, home.config.replace_with({"gate.diagnose": True}))
    submit_attacks(asking, store)
    decision = run_cycle(asking, store).decision
    verdict = json.loads((home.folder / "models/s-0001/diagnosis.json").read_text())["verdict"]
    found = next(test for test in decision.tests if test.name == "diagnosis")
    assert found.passed == (verdict == "TRUSTED")
    assert decision.promote == (verdict == "TRUSTED")


def test_two_reviewers_are_the_default_and_one_is_reported(home: Workspace, store: Store) -> None:
    assert HardeningConfig().caps.reviewers == 2
    strict = Workspace(home.folder, home.config.replace_with({"caps.reviewers": 2}))
    names = submit_attacks(strict, store)
    assert run_cycle(strict, store).decision is None
    with store.reading() as db:
        assert example(db, names[0])["state"] == "reviewed"
    lines = run_cycle(home, store).lines
    assert "one reviewer's label is enough (caps.reviewers = 1)" in lines[0]


def test_known_examples_are_never_accepted(home: Workspace, store: Store) -> None:
    submit_attacks(home, store)
    seed_known(store, known_images(home.folder / "neighbours.npz", 5), IMAGES, Limits(shape=(1, 12, 12)))
    with store.writing() as db:
        db.execute(
            examples.update().where(examples.c.token == SEEDER).values(state="reviewed", label=1, confirmed=True)
        )
    run_cycle(home, store)
    with store.reading() as db:
        states = sa.select(examples.c.state).where(examples.c.token == SEEDER)
        assert set(db.execute(states).scalars()) == {"reviewed"}


def test_quarantine_keeps_fresh_examples_out(home: Workspace, store: Store) -> None:
    patient = Workspace(home.folder, home.config.replace_with({"caps.quarantine_days": 7.0}))
    submit_attacks(patient, store)
    assert run_cycle(patient, store).decision is None
    later = Store(store.engine, store.blobs, lambda: time.time() + 8 * 86_400)
    assert run_cycle(patient, later).decision is not None


def test_revoke_names_everything_touched_and_the_next_challenger_is_free_of_it(home: Workspace, store: Store) -> None:
    submit_attacks(home, store)
    run_cycle(home, store)
    name = registry.examples_of(store, "m-0002")[0]
    touched = registry.revoke(store, name, "root")
    assert (touched.snapshots, touched.models, touched.champion, touched.rollback_to) == (
        ("s-0001",),
        ("m-0002",),
        True,
        "m-0001",
    )
    assert registry.trace_example(store, name) == touched
    outcome = run_cycle(home, store)
    assert outcome.decision is not None
    assert name not in registry.examples_of(store, "m-0003")
    with pytest.raises(HardeningError, match="final"):
        registry.revoke(store, name, "root")
    with pytest.raises(HardeningError, match="no example"):
        registry.revoke(store, "0" * 64, "root")
    assert intact(store)


def test_the_sealed_set_is_used_as_often_as_planned_and_no_more(home: Workspace, store: Store) -> None:
    for k in range(3):
        x, y = attacked(home, 60, seed=20 + k)
        label(store, submit(store, x, principal=f"p{k}"), list(y))
        if k == 2:
            with pytest.raises(HardeningError, match="rotate"):
                run_cycle(home, store)
        else:
            assert run_cycle(home, store).decision is not None
    moved = Workspace(home.folder, home.config.replace_with({"data.sealed_from": 250}))
    with pytest.raises(HardeningError, match="50 of 300 sealed examples were used 2 times"):
        run_cycle(moved, store)
    rotated = Workspace(home.folder, home.config.replace_with({"data.sealed_from": 300}))
    assert run_cycle(rotated, store).decision is not None


def test_a_challenger_whose_champion_changed_under_it_is_compared_again(
    home: Workspace, store: Store, monkeypatch
) -> None:
    submit_attacks(home, store)
    shutil.copytree(home.folder / "models/base", home.folder / "models/other")
    real = registry.promote

    def overtaken(store: Store, version: str, actor: str, *, expected_champion: str | None = None) -> None:
        monkeypatch.setattr(registry, "promote", real)  # once: an admin is faster
        real(store, registry.register(store, "models/other", "w", registry.ModelStatus.TRUSTED), "root")
        real(store, version, actor, expected_champion=expected_champion)

    monkeypatch.setattr(registry, "promote", overtaken)
    outcome = run_cycle(home, store)
    assert (outcome.decision.verdict, outcome.champion) == ("PROMOTE", "m-0003")
    assert "compared again" in outcome.lines[-1]
    outcome = run_cycle(home, store)
    assert (outcome.decision.verdict, outcome.champion) == ("PROMOTE", "m-0002")
    assert intact(store)


def test_the_previous_champion_is_asked_about_what_waits(home: Workspace, store: Store) -> None:
    submit_attacks(home, store)
    run_cycle(home, store)
    x, _ = attacked(home, 30, seed=9)
    submit(store, x, principal="bob")
    run_cycle(home, store)
    with store.reading() as db:
        rows = db.exec_driver_sql("SELECT disagrees, suspicion FROM examples WHERE principal = 'bob'").all()
    base, champion = (advreg.load_model(str(home.folder / f"models/{name}")) for name in ("base", "s-0001"))
    differs = base(torch.from_numpy(x)).argmax(1) != champion(torch.from_numpy(x)).argmax(1)
    assert sorted(bool(row[0]) for row in rows) == sorted(differs.tolist())
    assert all(row[1] >= 1.5 for row in rows if row[0])


def test_promotion_needs_a_gate_and_the_champion_it_was_compared_with(home: Workspace, store: Store) -> None:
    version = registry.register(store, "models/x", "w")
    assert registry.register(store, "models/x", "w") == version
    with pytest.raises(HardeningError, match="cannot become champion"):
        registry.promote(store, version, "root")
    with pytest.raises(registry.ChampionChanged, match="compared with m-0007"):
        registry.promote(store, version, "root", expected_champion="m-0007")
    with pytest.raises(HardeningError, match="no model"):
        registry.promote(store, "m-9", "root")
    assert champion(store) == "m-0001"


def test_a_promotion_is_both_aliases_or_neither(home: Workspace, store: Store, monkeypatch) -> None:
    version = registry.register(store, "models/x", "w", registry.ModelStatus.TRUSTED)

    step = registry.set_stage

    def die(db, at, actor, version, to, **detail: object) -> None:
        if to == registry.ModelStatus.CHAMPION:
            raise Killed
        step(db, at, actor, version, to, **detail)

    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_stage", die)
        with pytest.raises(Killed):
            registry.promote(store, version, "root")
    assert [(row["version"], row["stage"], row["alias"]) for row in registry.list_models(store)] == [
        ("m-0001", "champion", "champion"),
        (version, "trusted", None),
    ]


def test_replay_draws_examples_in_proportion_to_their_shares() -> None:
    y, shares = torch.tensor([0] * 90 + [1] * 10), torch.tensor([0.01 / 90] * 90 + [0.03 / 10] * 10)
    accepted = Accepted(torch.zeros(100, 1, 2, 2), y, shares)
    _, labels = accepted.draw(4000, seed=0)
    assert accepted.share == pytest.approx(0.04)
    assert 0.22 < float((labels == 0).float().mean()) < 0.28


def test_a_home_that_cannot_be_is_one_line(home: Workspace, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="harden init"):
        Workspace.open(tmp_path)
    for change in ({"attacks": ["wobble:3"]}, {"data.sealed": 5000}, {"data.sealed": 600}, {"attacks": ["patch:x"]}):
        with pytest.raises(ConfigError) as caught:
            run_cycle(Workspace(home.folder, home.config.replace_with(change)))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="Did you mean 'principal'"):
        home.config.replace_with({"caps.principl": 0.1})
    with pytest.raises(RunError, match="already holds"):
        make_home(home.folder.path.parent)


def test_a_database_that_is_down_stops_a_tick_in_one_line(postgres, home: Workspace) -> None:
    remote = Workspace(home.folder, home.config.replace_with({"store.url": postgres.new_database()}))
    postgres.stop()
    try:
        with pytest.raises(StoreDown):
            run_cycle(remote)
    finally:
        postgres.start()
