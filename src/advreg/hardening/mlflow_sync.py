"""Synchronisation of the aliases to MLflow's model registry, if one is configured; the store remains authoritative."""

from __future__ import annotations

import warnings
from typing import Any

from advreg.errors import MissingExtraError
from advreg.hardening import registry
from advreg.hardening.secrets_in_urls import mask_url, read_url
from advreg.hardening.store.database import Store
from advreg.hardening.workspace import Workspace
from advreg.plugins import first_line, import_extra

_TAG = "advreg.version"


def sync_to_mlflow(home: Workspace, store: Store) -> None:
    """Set MLflow's aliases champion and previous to our versions; do nothing if no registry is configured.

    An unreachable registry gives a warning and does not stop a promotion; the next promotion updates it.

    Args:
        home: the workspace; its section ``mlflow`` names the registry.
        store: its store.

    Raises:
        MissingExtraError: a registry is configured, and mlflow is not installed.
    """
    section = home.config.mlflow
    if not section.uri:
        return
    mlflow = import_extra("mlflow", "advreg[mlflow]")
    try:
        uri = read_url(section.uri, "mlflow.uri")
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)  # some kinds connect here
        _mirror(client, section.name, home, store)
    except MissingExtraError:
        raise
    except Exception as error:  # server and client raise many types
        warnings.warn(
            mask_url(
                f"the aliases were not copied to {section.uri}: {first_line(error)}; the next promotion tries again"
            ),
            RuntimeWarning,
            stacklevel=2,
        )


def _mirror(client: Any, name: str, home: Workspace, store: Store) -> None:
    if not client.search_registered_models(filter_string=f"name = '{name}'"):
        client.create_registered_model(name)
    known = {found.tags.get(_TAG): found.version for found in client.search_model_versions(f"name = '{name}'")}
    pointed = {row["alias"]: row for row in registry.list_models(store) if row["alias"]}
    for alias in (registry.CHAMPION, registry.PREVIOUS):
        row = pointed.get(alias)
        if row is None:
            if alias in client.get_registered_model(name).aliases:
                client.delete_registered_model_alias(name, alias)
            continue
        if row["version"] not in known:
            source = _source(home, row["run"])
            tags = {_TAG: row["version"], "advreg.weights": row["weights"], "advreg.decision": row["decision"] or ""}
            known[row["version"]] = client.create_model_version(name, source, tags=tags).version
        client.set_registered_model_alias(name, alias, known[row["version"]])


def _source(home: Workspace, run: str) -> str:
    """Return the location of a version's files; servers reject local paths, so they get a URI of the scheme ``advreg:``."""
    path = str((home.folder / run).resolve())
    return f"advreg:{path}" if home.config.mlflow.uri.startswith(("http:", "https:")) else path
