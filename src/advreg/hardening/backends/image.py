"""The part of a tick that depends on what is kept: here images; texts have theirs in `advreg.hardening.backends.text`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from advreg.hardening.attack_families import families
from advreg.hardening.backends.text import TextBackend
from advreg.hardening.candidate_evaluation import (
    evaluate_diagnosis,
    evaluate_holdout,
    evaluate_incidents,
    evaluate_probes,
    needs_diagnosis,
)
from advreg.hardening.data_selection import Snapshot
from advreg.hardening.datasets import HardeningData, accepted_of, hardening_data_of
from advreg.hardening.model_disagreement import ask_previous
from advreg.hardening.retrain import retrain
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.workspace import BASE, Workspace
from advreg.runs import RunFolder

_EVIDENCE = ("incidents", "canaries", "trigger")


class MediumBackend(Protocol):
    """What a tick asks of a medium."""

    @property
    def clean(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number ``n`` of the trusted examples."""

    def ask(self, store: Store) -> None:
        """Improve the order of what waits for a review."""

    def contents(self, store: Store, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return what a manifest says of examples beside their hashes."""

    def publish(self, snapshot: Snapshot) -> str:
        """Write what a snapshot is trained from, and return what is left to be done by hand, if anything."""

    def train(self, store: Store, rows: Sequence[Row], run: RunFolder) -> str | None:
        """Train a challenger on a snapshot's examples and return its weights' SHA-256; None where it is handed in."""

    def trial(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Put both models to the test, and say on what."""

    def sealed(self, challenger: RunFolder) -> list[str]:
        """Return a name for each sealed example, which stays with its content."""

    def protocol(self, challenger: RunFolder) -> str:
        """Return the id of the protocol that the gate compares by."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """What must be in the challenger's folder."""

    @property
    def rotate(self) -> str:
        """How to get fresh sealed examples."""


def backend_of(home: Workspace) -> MediumBackend:
    """Return the work of a home.

    Raises:
        ConfigError: its attacks or data cannot be used.
    """
    if home.settings.keeps == "texts":
        return TextBackend(home)
    families(home.settings.attacks)
    return ImageBackend(home, hardening_data_of(home.settings))


@dataclass(frozen=True)
class ImageBackend:
    """Images: trained here, attacked here."""

    home: Workspace
    stock: HardeningData

    @property
    def clean(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number of the trusted images."""
        clean = self.stock.clean
        return {"name": clean.name, "sha256": clean.fingerprint(), "n": len(clean)}

    def ask(self, store: Store) -> None:
        """Ask the previous champion about what waits."""
        ask_previous(self.home, store)

    def contents(self, store: Store, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return nothing: the hash says which image it is."""
        return {}

    def publish(self, snapshot: Snapshot) -> str:
        """Do nothing: the bytes are in the store."""
        return ""

    def train(self, store: Store, rows: Sequence[Row], run: RunFolder) -> str:
        """Train from the trusted base; see `retrain`."""
        channels, height, width = self.home.model()["shape"]
        accepted = accepted_of(store, rows, (channels, height, width))
        settings, base = self.home.settings, RunFolder.at(self.home.folder / BASE)
        attacks = families(settings.attacks)
        return retrain(base, run, self.stock.clean, accepted, attacks, settings.train, settings.seed)

    def trial(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Attack both on the sealed set, ask about incidents, probe the challenger; what was measured is not measured again."""
        for run in (champion, challenger):
            evaluate_holdout(self.home, run, self.stock)
            evaluate_incidents(store, self.home, run, incidents)
        evaluate_probes(self.home, challenger, champion, RunFolder.at(self.home.folder / BASE), self.stock)
        if needs_diagnosis(self.home):
            evaluate_diagnosis(self.home, challenger, self.stock)
        return f"both models on {len(self.stock.sealed)} sealed examples and {len(incidents)} incidents; probes"

    def sealed(self, challenger: RunFolder) -> list[str]:
        """Return the SHA-256 of each sealed image with its label."""
        images, labels = self.stock.sealed.images.cpu().numpy(), self.stock.sealed.labels.tolist()
        return [
            hashlib.sha256(image.tobytes() + b"%d" % label).hexdigest()
            for image, label in zip(images, labels, strict=True)
        ]

    def protocol(self, challenger: RunFolder) -> str:
        """Return the id of the sealed set's protocol."""
        return evaluate_holdout(self.home, challenger, self.stock)

    @property
    def rotate(self) -> str:
        """How to get fresh sealed examples."""
        return "set data.sealed_from in harden.toml"

    @property
    def evidence(self) -> tuple[str, ...]:
        """Incidents, probes, and a diagnosis where an attack is a norm ball."""
        return (*_EVIDENCE, "diagnosis") if needs_diagnosis(self.home) else _EVIDENCE
