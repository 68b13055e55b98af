"""The mirror against MLflow's own registry, in files and in SQLite; no server is needed for either."""

from __future__ import annotations

from pathlib import Path

import pytest

mlflow = pytest.importorskip("mlflow", reason="the mirror needs advreg[mlflow]: pip install mlflow-skinny")

from advreg.hardening import registry
from advreg.hardening.config import HardeningConfig
from advreg.hardening.mlflow_sync import sync_to_mlflow
from advreg.hardening.store import Store
from advreg.hardening.workspace import create_workspace
from tests.hardening.spoken import write_spoken

pytestmark = pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SADeprecationWarning"
)  # mlflow's own use of SQLAlchemy 2.1


@pytest.fixture(params=["files", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqlite":
        pytest.importorskip("alembic", reason="MLflow keeps a registry in a database only where alembic is installed")
        return f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return str(tmp_path / "mlruns")


def test_aliases_of_a_real_registry_follow_ours(uri: str, tmp_path: Path) -> None:
    (tmp_path / "trusted.jsonl").write_text('{"prompt": "a"}\n')
    facts = {"keeps": "texts", "data.name": str(tmp_path / "trusted.jsonl"), "mlflow.uri": uri, "mlflow.name": "chat"}
    base = write_spoken(tmp_path / "base", n=2)
    home = create_workspace(tmp_path / "home", base, HardeningConfig().replace_with(facts))
    store = home.store()
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)

    def seen() -> dict[str, str]:
        aliases = client.get_registered_model("chat").aliases
        return {
            alias: client.get_model_version("chat", number).tags["advreg.version"] for alias, number in aliases.items()
        }

    sync_to_mlflow(home, store)
    assert seen() == {"champion": "m-0001"}
    (home.folder / "models/x").mkdir()
    registry.promote(store, registry.register(store, "models/x", "w", registry.ModelStatus.TRUSTED), "root")
    sync_to_mlflow(home, store)
    sync_to_mlflow(home, store)  # twice is once
    assert seen() == {"champion": "m-0002", "previous": "m-0001"}
    registry.rollback(store, "root")
    sync_to_mlflow(home, store)
    assert seen() == {"champion": "m-0001"}
    versions = client.search_model_versions("name = 'chat'")
    assert sorted(found.tags["advreg.version"] for found in versions) == ["m-0001", "m-0002"]
    assert all(Path(found.source).is_dir() for found in versions)
    _unchanged(store)


def _unchanged(store: Store) -> None:
    from advreg.hardening.store import verify

    with store.reading() as db:
        assert verify(db) is None
    store.engine.dispose()


def test_a_registry_that_does_not_answer_is_warned_of_and_stops_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trusted.jsonl").write_text('{"prompt": "a"}\n')
    facts = {
        "keeps": "texts",
        "data.name": str(tmp_path / "trusted.jsonl"),
        "mlflow.uri": str(tmp_path / "none" / "x.db"),
    }
    home = create_workspace(
        tmp_path / "home", write_spoken(tmp_path / "base", n=2), HardeningConfig().replace_with(facts)
    )
    store = home.store()
    with pytest.warns(RuntimeWarning, match="not copied") as caught:
        sync_to_mlflow(home, store)
    assert "\n" not in str(caught[0].message)
    _unchanged(store)
