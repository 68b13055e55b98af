"""What hardening requires of a medium: `MediumBackend` for the cycle, `TrustedBase` for a new workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from advreg.hardening.config import HardeningConfig
from advreg.hardening.data_selection import Selection
from advreg.hardening.manifest import Snapshot
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder


class TrustedBase(Protocol):
    """A deployed model that was checked and can be copied into a new workspace."""

    @property
    def config(self) -> HardeningConfig:
        """The configuration of the workspace."""

    def install(self, workspace: Workspace) -> str:
        """Copy the model into the workspace and return the SHA-256 of its weights."""


class MediumBackend(Protocol):
    """The steps of a hardening cycle that differ between images and texts."""

    @property
    def trusted_data(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number ``n`` of the trusted examples."""

    def ingest(self, store: Store) -> int:
        """Move received examples into quarantine, order the review queue, and return the number of examples moved."""

    def build_snapshot(self, store: Store, name: str, selection: Selection, base: str) -> Snapshot:
        """Return the snapshot of a selection, for training from the base with this SHA-256.

        Args:
            store: the store of the workspace.
            name: id of the snapshot, such as ``s-0001``.
            selection: the chosen examples.
            base: SHA-256 of the weights of the trusted base.

        Returns:
            The snapshot.
        """

    def loss_shares(self, selection: Selection) -> Mapping[str, float]:
        """Return each example's share of the training loss."""

    def provide_challenger(self, store: Store, snapshot: Snapshot, report: Callable[[str], None]) -> str | None:
        """Train and register a challenger, or export the training file for one that is handed in later.

        Returns:
            The new model version; None if there is none yet.
        """

    def evaluate(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Evaluate both models, skip finished measurements, and return one line about what was measured.

        Args:
            store: the store of the workspace.
            incidents: confirmed examples that the champion fails on.
            challenger: run folder of the new model.
            champion: run folder of the deployed model.

        Returns:
            One line.
        """

    def holdout_ids(self, challenger: RunFolder) -> list[str]:
        """Return an id of each sealed example; the same content has the same id."""

    def protocol_id(self, challenger: RunFolder) -> str:
        """Return the id of the protocol that the gate compares by."""

    @property
    def required_evidence(self) -> tuple[str, ...]:
        """The evidence that the challenger's run folder must hold."""

    @property
    def rotation_hint(self) -> str:
        """How to get fresh sealed examples."""
