"""A home: the folder that a loop lives in. Settings, the trusted base, challengers, and by default the store as well.

harden.toml   harden.db   blobs/   models/base/   models/s-0001/   snapshots/s-0001.json   neighbours.npz
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advreg.hardening.config import FILE, HardeningConfig
from advreg.hardening.media_types import MEDIA, TEXTS
from advreg.hardening.store import Store
from advreg.hardening.texts import CLASSES
from advreg.runs import RunFolder

if TYPE_CHECKING:
    from advreg.hardening.service import Options

BASE = "models/base"
NEIGHBOURS = "neighbours.npz"


@dataclass(frozen=True)
class Workspace:
    """Settings with the folder they are in."""

    folder: RunFolder
    settings: HardeningConfig

    @classmethod
    def open(cls, path: str | Path) -> Workspace:
        """Open the home at a path.

        Raises:
            RunError: there is none.
            ConfigError: its settings cannot be used.
        """
        settings = HardeningConfig.load(path)
        return cls(RunFolder.open(path), settings)

    @classmethod
    def create(cls, path: str | Path, settings: HardeningConfig) -> Workspace:
        """Make a new home.

        Raises:
            RunError: there is something at the path, or it cannot be written.
        """
        folder = RunFolder.create(path)
        folder.write(FILE, settings.to_toml())
        return cls(folder, settings)

    def store(self, clock: Callable[[], float] = time.time) -> Store:
        """Open the store."""
        url = self.settings.store.url or f"sqlite:///{self.folder.path.resolve()}/harden.db"
        return Store.open(url, self.settings.store.blobs or self.folder.path.resolve() / "blobs", clock)

    def model(self) -> dict[str, Any]:
        """Return what the base's ``model.json`` says: name, options, shape, classes."""
        return RunFolder.open(self.folder / BASE).read_json("model.json")

    def options(self) -> Options:
        """Return how the service is bounded, for the base's inputs and classes."""
        from advreg.hardening.service import Options

        medium, service = MEDIA[self.settings.keeps], self.settings.service
        bounded = Options(medium, self.settings.limits(None), rate=service.rate, burst=service.burst, classes=CLASSES)
        if medium is TEXTS:
            return bounded
        model, neighbours = self.model(), self.folder / NEIGHBOURS
        channels, height, width = model["shape"]
        return replace(
            bounded,
            limits=self.settings.limits((channels, height, width)),
            classes=tuple(model["classes"]),
            neighbours=neighbours if neighbours.is_file() else None,
        )
