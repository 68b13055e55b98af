"""The command line of the loop, as a stranger uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from advreg.cli.harden import _seconds
from advreg.errors import AdvregError, ConfigError
from advreg.hardening import registry
from advreg.hardening.client import Client
from advreg.hardening.store import verify
from advreg.hardening.store.tables import audit
from advreg.hardening.workspace import Workspace
from tests.hardening.runs import write_run
from tests.hardening.small import attacked, label, make_home, submit, write_base, write_data

ROOT = Path(__file__).resolve().parents[2]


def harden(*arguments: object) -> tuple[int, str]:
    """Run a verb in this process; what the command line would say and its status."""
    from advreg.cli.app import app

    done = CliRunner().invoke(app, ["harden", *map(str, arguments)])
    if isinstance(done.exception, AdvregError):  # as `advreg.cli.main` answers it
        return 2, f"{done.output}{done.exception}"
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Workspace:
    return make_home(tmp_path_factory.mktemp("cli"))


def test_a_home_from_the_command_line_and_its_refusals(tmp_path: Path) -> None:
    data = write_data(tmp_path)
    base = write_base(tmp_path / "base", data)
    options = ["--base", base, "--set", f"data.name={data}", "--set", "data.sealed=300", "--attack", "linf:0.1"]
    status, said = harden("init", tmp_path / "home", *options, "--attack", "patch:3")
    assert (status, "next: advreg harden token add" in said) == (0, True)
    assert Workspace.open(tmp_path / "home").config.attacks == ["linf:0.1", "patch:3"]
    assert harden("models", "--home", tmp_path / "home") == (0, "m-0001  champion   models/base  -\n")
    for wrong, words in (
        (["init", tmp_path / "home", *options], "already holds"),
        (["init", tmp_path / "new", *options, "--attack", "wobble:1"], "allowed: linf:EPS"),
        (["init", tmp_path / "new", *options, "--set", "caps.totl=0.1"], "Did you mean 'total'"),
        (["init", tmp_path / "new", *options, "--set", "caps.total"], "section.key=value"),
        (["models", "--home", tmp_path / "nowhere"], "harden init"),
        (["step", "--home", tmp_path / "home", "--every", "soon"], "30s, 10m"),
        (["token", "add", "x", "--role", "boss", "--home", tmp_path / "home"], "submit, review, admin"),
        (["rollback", "--home", tmp_path / "home"], "no previous champion"),
        (["promote", "m-9", "--home", tmp_path / "home"], "no model"),
        (["revoke", "ab", "--home", tmp_path / "home"], "no example"),
    ):
        status, said = harden(*wrong)
        assert status == 2, (wrong, said)
        assert words in said
    assert not (tmp_path / "new").exists()


def test_the_gate_has_three_answers(tmp_path: Path) -> None:
    champion = write_run(tmp_path / "a", wrong=range(20), broken=range(20, 320))
    challenger = write_run(tmp_path / "b", wrong=range(20), broken=range(20, 120))
    status, said = harden("gate", champion, challenger, "--guard", 3)
    assert status == 0
    assert said.splitlines()[0].startswith("1000 examples"), "the plan comes first"
    assert "PROMOTE" in said
    assert json.loads((challenger / "decision.json").read_text())["promote"] is True
    status, said = harden("gate", challenger, champion, "--json")
    assert (status, json.loads(said)["verdict"]) == (1, "REFUSED")
    assert harden("gate", champion, tmp_path / "none")[0] == 2
    (tmp_path / "slices.json").write_text('{"night": [1, 2, 3]}')
    assert "night" in harden("gate", champion, challenger, "--slices", tmp_path / "slices.json")[1]
    (tmp_path / "slices.json").write_text("[1]")
    assert harden("gate", champion, challenger, "--slices", tmp_path / "slices.json")[0] == 2


def test_a_loop_by_hand(home: Workspace) -> None:
    at = ["--home", home.folder.path]
    status, token = harden("token", "add", "rae", "--role", "review", *at)
    assert status == 0
    assert len(token.strip()) > 40
    assert "rae  review" in harden("token", "list", *at)[1]
    assert harden("step", *at) == (0, "nothing to do\n")
    store = home.store()
    x, y = attacked(home, 60)
    label(store, submit(store, x), list(y))
    status, said = harden("step", *at)
    assert "promotion: m-0002 is the champion" in said
    listed = json.loads(harden("models", "--json", *at)[1])["models"]
    assert [(row["version"], row["alias"]) for row in listed] == [("m-0001", "previous"), ("m-0002", "champion")]
    name = harden("lineage", "m-0002", *at)[1].split()[0]
    assert harden("lineage", name, *at)[1] == "snapshots: s-0001\nmodels: m-0002\n"
    status, said = harden("revoke", name, "--rollback", *at)
    assert "m-0001 is the champion again" in said
    status, said = harden("audit", *at)
    assert (status, said.startswith("intact:")) == (0, True)
    assert harden("token", "revoke", "rae", *at)[0] == 0
    assert "revoked" in harden("token", "list", *at)[1]
    with store.writing() as db:
        db.execute(sa.update(audit).where(audit.c.seq == 5).values(actor="nobody"))
    status, said = harden("audit", *at)
    assert (status, said.startswith("BROKEN at entry 5")) == (1, True)
    assert json.loads(harden("audit", "--json", *at)[1])["intact"] is False


def test_serve_survives_a_kill_and_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    at = ["--home", home.folder.path]
    token = harden("token", "add", "server", "--role", "submit", *at)[1].strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "advreg", "harden", "serve", "--port", str(port), *map(str, at)]
    client = Client(f"http://127.0.0.1:{port}", token, "m-0001", tries=12, wait=0.2)
    x, _ = attacked(home, 60)
    sent = 0
    for _ in range(2):
        server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        _until_healthy(port, server)
        for image in x[sent : sent + 8]:
            client.record(image, prediction=0)
        sent += 8
        time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    _until_healthy(port, server)
    client.close(200)
    server.terminate()
    server.wait(10)
    assert client.counts == {"sent": 16}
    store = home.store()
    with store.reading() as db:
        assert db.exec_driver_sql("SELECT count(*) FROM examples").scalar() == 16
        assert verify(db) is None
        for (name,) in db.exec_driver_sql("SELECT sha256 FROM examples"):
            store.blobs.get(name)


def _until_healthy(port: int, server: subprocess.Popen) -> None:
    for _ in range(2400):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10).close()
            return
        except OSError:
            assert server.poll() is None, "the service ended"
            time.sleep(0.05)
    raise AssertionError("the service never answered")


def test_pauses_are_read() -> None:
    assert [_seconds(text) for text in ("", "30s", "10m", "1h", "1d")] == [0, 30, 600, 3600, 86_400]
    for wrong in ("0s", "h", "1 h", "-1h", "1w"):
        with pytest.raises(ConfigError):
            _seconds(wrong)


def test_mlflow_follows_the_aliases(home: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As a server would be told, against a stand-in; real registries in files and databases are in test_mirror.py."""
    from types import SimpleNamespace

    from advreg.hardening import mlflow_sync as module

    class Registry:
        versions: ClassVar[list[SimpleNamespace]] = []
        aliases: ClassVar[dict[str, int]] = {}
        made: ClassVar[list[str]] = []

        def __init__(self, tracking_uri: str, registry_uri: str) -> None:
            assert tracking_uri == registry_uri == "http://mlflow"

        def search_registered_models(self, filter_string: str) -> list[str]:
            assert filter_string == "name = 'advreg'"
            return self.made

        def create_registered_model(self, name: str) -> None:
            self.made.append(name)

        def search_model_versions(self, filter_string: str) -> list[SimpleNamespace]:
            return self.versions

        def create_model_version(self, name: str, source: str, tags: dict[str, str]) -> SimpleNamespace:
            assert source.startswith("advreg:/"), "a server refuses paths of its clients' machines"
            assert Path(source.removeprefix("advreg:")).is_dir()
            self.versions.append(SimpleNamespace(version=len(self.versions) + 1, tags=tags))
            return self.versions[-1]

        def get_registered_model(self, name: str) -> SimpleNamespace:
            return SimpleNamespace(aliases=self.aliases)

        def set_registered_model_alias(self, name: str, alias: str, version: int) -> None:
            self.aliases[alias] = version

        def delete_registered_model_alias(self, name: str, alias: str) -> None:
            del self.aliases[alias]

    monkeypatch.setattr(module, "import_extra", lambda *_: SimpleNamespace(MlflowClient=Registry))
    fresh = make_home(tmp_path, **{"mlflow.uri": "http://mlflow"})
    store = fresh.store()
    module.sync_to_mlflow(fresh, store)
    assert Registry.aliases == {"champion": 1}
    (fresh.folder / "models/x").mkdir()
    registry.promote(store, registry.register(store, "models/x", "w", registry.ModelStatus.TRUSTED), "root")
    module.sync_to_mlflow(fresh, store)
    assert Registry.aliases == {"champion": 2, "previous": 1}
    registry.rollback(store, "root")
    module.sync_to_mlflow(fresh, store)
    assert Registry.aliases == {"champion": 1}
    assert len(Registry.versions) == 2
