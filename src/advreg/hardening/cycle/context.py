"""`CycleContext`: the resources that every stage of a cycle uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import sqlalchemy as sa

from advreg.hardening import registry
from advreg.hardening.backends import MediumBackend
from advreg.hardening.lease import Lease
from advreg.hardening.states import ModelStatus
from advreg.hardening.store.database import Store
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder

ACTOR = "tick"
"""The cycle's name in the audit log."""


@dataclass(frozen=True)
class CycleContext:
    """The resources of a cycle.

    Attributes:
        workspace: the workspace.
        store: its store, open.
        lease: the right to work; every write checks it.
        backend: the steps that differ between images and texts.
        say: receives each line of the report.
        lines: the report so far.
    """

    workspace: Workspace
    store: Store
    lease: Lease
    backend: MediumBackend
    say: Callable[[str], None]
    lines: list[str] = field(default_factory=list)

    def report(self, line: str) -> None:
        """Add a line to the report.

        Args:
            line: one stage and what it changed.
        """
        self.lines.append(line)
        self.say(line)

    def run(self, name: str) -> RunFolder:
        """Return a run folder of the workspace, its signature verified.

        Args:
            name: its path below the workspace, such as ``models/base``.

        Raises:
            HardeningError: the model is not signed, or was changed since.
        """
        return self.workspace.run(name)

    def champion(self) -> str | None:
        """Return the version of the current champion."""
        with self.store.reading() as db:
            return registry.current_champion(db)

    def set_stage(self, version: str, stage: ModelStatus) -> None:
        """Move a model version to a stage.

        Args:
            version: such as ``m-0002``.
            stage: the new stage.

        Raises:
            Busy: another process holds the lease.
            HardeningError: the step is not allowed.
        """
        with self.writing() as db:
            registry.set_stage(db, self.store.clock(), ACTOR, version, stage)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that is rolled back if this process has lost its lease.

        Raises:
            Busy: another process holds the lease.
        """
        with self.store.writing() as db:
            self.lease.check(db)
            yield db
