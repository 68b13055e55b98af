"""A workspace: the folder of a hardening loop with its configuration, the trusted base, challengers and the store.

harden.toml   harden.db   blobs/   models/base/   models/s-0001/   snapshots/s-0001.json   neighbours.npz
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from advreg.errors import RunError
from advreg.hardening import registry
from advreg.hardening.config import FILE, HardeningConfig
from advreg.hardening.media_types import MEDIA, TEXTS
from advreg.hardening.secrets_in_urls import read_url
from advreg.hardening.signatures import SigningKeys, create_key
from advreg.hardening.store import Store
from advreg.hardening.store.audit import Entry, append, canonical
from advreg.hardening.store.tables import audit
from advreg.hardening.texts import CLASSES
from advreg.runs import RunFolder

if TYPE_CHECKING:
    from advreg.hardening.service import Options
    from advreg.hardening.service.connections import ConnectionLimits

BASE = "models/base"
NEIGHBOURS = "neighbours.npz"
_UNLOGGED = ("mlflow", "store")
"""Sections with addresses, which may hold a password."""


@dataclass(frozen=True)
class Workspace:
    """A hardening configuration and the folder it is in."""

    folder: RunFolder
    config: HardeningConfig

    @classmethod
    def open(cls, path: str | Path) -> Workspace:
        """Open an existing workspace.

        Args:
            path: its folder.

        Raises:
            RunError: the folder is no workspace.
            ConfigError: ``harden.toml`` holds a key or a value that is not allowed.
        """
        file = Path(path) / FILE
        if not file.is_file():
            raise RunError(f"{path} has no {FILE}; create a workspace with `advreg harden init {path} --base RUN`")
        return cls(RunFolder.open(path), HardeningConfig.load(file))

    @classmethod
    def create(cls, path: str | Path, config: HardeningConfig) -> Workspace:
        """Create the folder and write ``harden.toml``; `create_workspace` adds the trusted base.

        Args:
            path: a new folder.
            config: the configuration to write.

        Raises:
            RunError: the path exists already, or it cannot be written.
        """
        folder = RunFolder.create(path)
        folder.path.chmod(0o700)
        folder.write(FILE, config.to_toml()).chmod(0o600)
        return cls(folder, config)

    def store(self, clock: Callable[[], float] = time.time) -> Store:
        """Open the store.

        Args:
            clock: returns the present time in seconds since 1970.
        """
        url = read_url(self.config.store.url, "store.url") or f"sqlite:///{self.folder.path.resolve()}/harden.db"
        return Store.open(url, self.config.store.blobs or self.folder.path.resolve() / "blobs", clock)

    @property
    def signing(self) -> SigningKeys:
        """The keys that sign and verify models and snapshots."""
        return SigningKeys(self.config.signing.key, self.config.signing.public)

    def run(self, name: str) -> RunFolder:
        """Return the run folder of a model after verifying its signature; without keys nothing is verified.

        Args:
            name: its path below the workspace, such as ``models/base``.

        Raises:
            HardeningError: the model is not signed, or was changed since.
        """
        run = RunFolder.at(self.folder / name)
        self.signing.verify_run(run)
        return run

    def log_configuration(self, store: Store, actor: str) -> None:
        """Append the configuration to the audit log where it differs from the last one there: caps and margins are facts too.

        Args:
            store: the store of this workspace.
            actor: name for the audit log.
        """
        values = {key: value for key, value in self.config.to_dict().items() if key not in _UNLOGGED}
        entry = Entry(actor, "config", FILE, values)
        newest = sa.select(audit.c.detail).where(audit.c.action == "config").order_by(audit.c.seq.desc()).limit(1)
        with store.reading() as db:
            known = db.execute(newest).scalar() == canonical(entry.detail)
        if not known:
            with store.writing() as db:
                append(db, store.clock(), [entry])

    def base_model(self) -> dict[str, Any]:
        """Return the base's ``model.json``: name, options, shape, classes."""
        return RunFolder.open(self.folder / BASE).read_json("model.json")

    def input_shape(self) -> tuple[int, int, int]:
        """Return the shape ``(C, H, W)`` of the base's inputs."""
        channels, height, width = self.base_model()["shape"]
        return channels, height, width

    def service_options(self) -> Options:
        """Return the limits of the service, with the classes and the input shape of the base."""
        from advreg.hardening.service import Options

        medium, service = MEDIA[self.config.keeps], self.config.service
        options = Options(
            medium,
            self.config.limits(None),
            rate=service.rate,
            burst=service.burst,
            classes=CLASSES,
            token_bytes=service.token_bytes,
            total_bytes=service.total_bytes,
            failed_logins=service.failed_logins,
            opinions=self.config.incident_reviewers,
        )
        if medium is TEXTS:
            return options
        neighbours = self.folder / NEIGHBOURS
        return replace(
            options,
            limits=self.config.limits(self.input_shape()),
            classes=tuple(self.base_model()["classes"]),
            neighbours=neighbours if neighbours.is_file() else None,
        )

    def connection_limits(self) -> ConnectionLimits:
        """Return the deadlines and numbers of the service's connections."""
        from advreg.hardening.service.connections import ConnectionLimits

        given = self.config.service
        return ConnectionLimits(
            header_seconds=given.header_seconds,
            body_seconds=given.body_seconds,
            total=given.connections,
            per_address=given.connections_per_address,
        )


def create_workspace(path: str | Path, base: str | Path, config: HardeningConfig) -> Workspace:
    """Create a workspace that hardens a deployed model.

    Args:
        path: a new folder.
        base: run folder of the deployed model, which is trusted: every challenger is trained from it. A language model must
            have been evaluated by ``advreg language evaluate``.
        config: the configuration; ``keeps`` decides between images and texts.

    Returns:
        The workspace; its first champion is the base.

    Raises:
        RunError: the path exists already, or a language model was not evaluated.
        ModelError, DataError, ConfigError: base, data or attacks cannot be used; nothing has been written then.
    """
    from advreg.hardening.backends import load_trusted_base

    trusted = load_trusted_base(base, config)
    workspace = Workspace.create(path, _with_keys(trusted.config))
    weights = trusted.install(workspace)
    workspace.signing.sign_run(RunFolder.at(workspace.folder / BASE))
    store = workspace.store()
    registry.register_initial_champion(store, BASE, weights, "admin")
    workspace.log_configuration(store, "admin")
    store.engine.dispose()
    return workspace


def _with_keys(config: HardeningConfig) -> HardeningConfig:
    """Return the configuration with the public key of its private key, which is created where the file is missing."""
    if not config.signing.key:
        return config
    file = Path(config.signing.key).expanduser().resolve()
    public = SigningKeys(str(file)).public_key if file.exists() else create_key(file)
    return config.replace_with({"signing.key": str(file), "signing.public": public})
