"""Secrets: files for their owner alone, no password in a message, none on a command line."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from advreg.errors import ConfigError, StoreError
from advreg.hardening.config import StoreConfig
from advreg.hardening.secrets_in_urls import mask_url, read_url
from advreg.hardening.store import Store
from advreg.hardening.store.examples import receive
from tests.hardening.conftest import submission
from tests.hardening.small import make_home
from tests.hardening.test_cli import harden

SECRET = "hunter2"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_store_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/harden.db", tmp_path / "blobs")
    receive(store, [submission(1)])
    found = {path: mode(path) for path in [*(tmp_path / "blobs").rglob("*"), *tmp_path.glob("harden.db*")]}
    assert len(found) >= 4
    assert {path.name: oct(bits) for path, bits in found.items() if bits != (0o700 if path.is_dir() else 0o600)} == {}
    store.engine.dispose()


def test_workspace_and_token_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    home = make_home(tmp_path).folder.path
    assert (mode(home), mode(home / "harden.toml"), mode(home / "harden.db")) == (0o700, 0o600, 0o600)
    status, text = harden("token", "add", "server", "--role", "submit", "--out", tmp_path / "token", "--home", home)
    assert status == 0
    assert mode(tmp_path / "token") == 0o600
    assert len((tmp_path / "token").read_text().strip()) > 40
    assert (tmp_path / "token").read_text().strip() not in text
    again = harden("token", "add", "other", "--role", "submit", "--out", tmp_path / "token", "--home", home)
    assert again[0] == 2


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://rae:{SECRET}@127.0.0.1:1/x",
        f"postgresql://rae:{SECRET}@more@127.0.0.1:1/x",
        f"postgresql://rae:more/{SECRET}@127.0.0.1:1/x",
        f"postgresql://rae:{SECRET}@127.0.0.1:port/x",
        f"postgresql://rae@127.0.0.1:1/x?password={SECRET}",
        f"postgresql://rae@127.0.0.1:1/x?sslpassword={SECRET}",
        f"mysql://rae:{SECRET}@127.0.0.1/x",
        f"nonsense://rae:{SECRET}@127.0.0.1/x",
        f"rae:{SECRET}@127.0.0.1",
    ],
)
def test_no_message_holds_the_password_of_a_database(url: str, tmp_path: Path) -> None:
    if url.startswith("postgres"):
        pytest.importorskip("psycopg", reason="PostgreSQL needs advreg[postgres]")
    with pytest.raises(StoreError) as caught:
        Store.open(url, tmp_path)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in repr(StoreConfig(url=url))


def test_urls_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVREG_STORE", "sqlite:///x.db")
    (tmp_path / "url").write_text("sqlite:///y.db\n")
    assert read_url("env:ADVREG_STORE", "store.url") == "sqlite:///x.db"
    assert read_url(f"file:{tmp_path}/url", "store.url") == "sqlite:///y.db"
    assert [read_url(text, "k") for text in ("", "sqlite:///z.db", "file:///mlruns")] == [
        "",
        "sqlite:///z.db",
        "file:///mlruns",
    ]
    for text in ("env:ADVREG_NO_SUCH", f"file:{tmp_path}/none"):
        with pytest.raises(ConfigError, match=r"store\.url"):
            read_url(text, "store.url")


def test_a_password_on_the_command_line_is_rejected_and_not_repeated(tmp_path: Path) -> None:
    for key in ("store.url", "store.blobs", "mlflow.uri"):
        change = f"{key}=postgresql://rae:{SECRET}@db/x"
        status, text = harden("init", tmp_path / "home", "--base", tmp_path, "--set", change)
        assert status == 2
        assert SECRET not in text
        assert f"{key}=env:NAME" in text


def test_urls_without_a_secret_are_shown_as_they_are() -> None:
    for url in ("sqlite:////data/harden.db", "postgresql://rae@db:5432/x?sslmode=require", "s3://bucket/a@b"):
        assert mask_url(url) == url
