"""Hardening of image classifiers: challengers are trained, attacked and diagnosed here."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from advreg import data, models
from advreg.config import toml
from advreg.errors import ConfigError
from advreg.hardening import registry
from advreg.hardening.attack_families import families
from advreg.hardening.candidate_evaluation import (
    ProbedRuns,
    evaluate_diagnosis,
    evaluate_holdout,
    evaluate_incidents,
    evaluate_probes,
    needs_diagnosis,
)
from advreg.hardening.champion_predictions import predict_examples
from advreg.hardening.config import HardeningConfig
from advreg.hardening.data_selection import Selection
from advreg.hardening.datasets import HardeningData, load_accepted, load_hardening_data
from advreg.hardening.influence import loss_shares
from advreg.hardening.ingestion import ingest
from advreg.hardening.manifest import Snapshot, snapshot_of
from advreg.hardening.model_disagreement import score_disagreement
from advreg.hardening.retrain import Accepted, retrain
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.workspace import BASE, NEIGHBOURS, Workspace
from advreg.runs import RunFolder

_EVIDENCE = ("incidents", "canaries", "trigger", "pattern", "activations", "drift")
_NEIGHBOURS = 3000


@dataclass(frozen=True, eq=False)
class ImageBase:
    """A deployed image classifier, its ``model.json`` and the trusted training images."""

    config: HardeningConfig
    model: nn.Module
    spec: Mapping[str, Any]
    train: data.Dataset

    def install(self, workspace: Workspace) -> str:
        """Copy the model and some trusted images into the workspace and return the SHA-256 of the weights."""
        shape, sha256 = list(self.train.images.shape[1:]), models.state_sha256(self.model)
        run = RunFolder.at(workspace.folder / BASE)
        run.save_model(self.model)
        facts = {"shape": shape, "classes": list(self.train.classes), "sha256": sha256}
        run.write_json("model.json", {**self.spec, **facts})
        _write_neighbours(workspace, self.train)
        return sha256


def load_image_base(base: str | Path, config: HardeningConfig) -> ImageBase:
    """Return a deployed image classifier after checking it.

    Args:
        base: its run folder.
        config: the configuration of the workspace to create.

    Raises:
        ModelError, DataError, ConfigError: base, data or attacks cannot be used.
    """
    families(config.attacks)
    _require_classes(Path(base))
    train, _ = data.load_images(config.data.name)
    model = models.load(str(base))
    models.check_model(model, train.tensors(n=8)[0], len(train.classes))
    spec = RunFolder.open(base).read_json("model.json")
    load_hardening_data(config)
    return ImageBase(config, model, spec, train)


def _require_classes(base: Path) -> None:
    section = toml.read(base / "run.toml").get("task") if (base / "run.toml").is_file() else None
    name = section.get("name", "classes") if isinstance(section, dict) else "classes"
    if name != "classes":
        raise ConfigError(
            f"{base} was trained for the task {name!r}; hardening collects labels of classes: give a classifier"
        )


def _write_neighbours(workspace: Workspace, train: data.Dataset) -> None:
    """Save trusted images for the review page, which runs without torch."""
    count = min(_NEIGHBOURS, len(train))
    images, labels = train.images[:count].cpu().numpy(), train.labels[:count].cpu().numpy()
    np.savez_compressed(workspace.folder / NEIGHBOURS, images=images, labels=labels)


@dataclass(frozen=True)
class ImageBackend:
    """The cycle's backend for images."""

    workspace: Workspace
    data: HardeningData

    @classmethod
    def of(cls, workspace: Workspace) -> ImageBackend:
        """Return the backend of a workspace that keeps images.

        Args:
            workspace: where the data and the attacks are configured.

        Raises:
            ConfigError: its attacks or its data cannot be used.
        """
        workspace.config.check_names()
        families(workspace.config.attacks)
        return cls(workspace, load_hardening_data(workspace.config))

    @property
    def trusted_data(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number of the trusted images."""
        clean = self.data.clean
        return {"name": clean.name, "sha256": clean.fingerprint(), "n": len(clean)}

    def ingest(self, store: Store) -> int:
        """Move received examples into quarantine; examples on which the previous champion disagrees are reviewed earlier."""
        count = ingest(store)
        predict_examples(self.workspace, store)
        score_disagreement(self.workspace, store)
        return count

    def build_snapshot(self, store: Store, name: str, selection: Selection, base: str) -> Snapshot:
        """Return the snapshot of a selection: the hash of an image identifies it.

        Args:
            store: the store of the workspace.
            name: id of the snapshot, such as ``s-0001``.
            selection: the chosen examples.
            base: SHA-256 of the weights of the trusted base.

        Returns:
            The snapshot.
        """
        contents = {name: {"loss_share": share} for name, share in self.loss_shares(selection).items()}
        return snapshot_of(name, selection, base, self.trusted_data, self.workspace.config.bounds, contents)

    def loss_shares(self, selection: Selection) -> Mapping[str, float]:
        """Return each example's share of the training loss under the caps."""
        return loss_shares(selection.chosen, self.workspace.config.bounds, self.workspace.config.train.replay)

    def provide_challenger(self, store: Store, snapshot: Snapshot, report: Callable[[str], None]) -> str:
        """Train a challenger from the trusted base and the snapshot, and register it."""
        members = snapshot.members
        name = f"models/{snapshot.id}"
        run = RunFolder.at(self.workspace.folder / name)
        weights = self._train(store, members, run)
        self.workspace.signing.sign_run(run)
        version = registry.register(store, name, weights, snapshot=snapshot.id)
        report(f"challenger: {version} trained from the trusted base and {len(members)} examples of {snapshot.id}")
        return version

    def _train(self, store: Store, members: Sequence[Row], run: RunFolder) -> str:
        """Train into a run folder and return the SHA-256 of the weights; see `retrain`."""
        config, base = self.workspace.config, self.workspace.run(BASE)
        accepted = load_accepted(store, members, self.workspace.input_shape())
        return retrain(base, run, self.data.clean, accepted, families(config.attacks), config.train, config.seed)

    def _admitted(self, store: Store, challenger: RunFolder) -> Accepted:
        """Return the examples that a challenger was trained on; none for a version that an admin handed in."""
        with store.reading() as db:
            members = registry.snapshot_members(db, challenger.path.name)
        return load_accepted(store, members, self.workspace.input_shape())

    def evaluate(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Attack both models on the sealed set, query them on the incidents and probe the challenger for poison.

        Args:
            store: the store of the workspace.
            incidents: confirmed examples that the champion fails on.
            challenger: run folder of the new model.
            champion: run folder of the deployed model.

        Returns:
            One line about what was measured.
        """
        for run in (champion, challenger):
            evaluate_holdout(self.workspace, run, self.data)
            evaluate_incidents(store, self.workspace, run, incidents)
        base = self.workspace.run(BASE)
        evaluate_probes(
            self.workspace, ProbedRuns(challenger, champion, base), self.data, self._admitted(store, challenger)
        )
        if needs_diagnosis(self.workspace):
            evaluate_diagnosis(self.workspace, challenger, self.data)
        return f"both models on {len(self.data.sealed)} sealed examples and {len(incidents)} incidents; probes"

    def holdout_ids(self, challenger: RunFolder) -> list[str]:
        """Return the SHA-256 of each sealed image with its label."""
        images, labels = self.data.sealed.images.cpu().numpy(), self.data.sealed.labels.tolist()
        return [
            hashlib.sha256(image.tobytes() + b"%d" % label).hexdigest()
            for image, label in zip(images, labels, strict=True)
        ]

    def protocol_id(self, challenger: RunFolder) -> str:
        """Return the id of the sealed set's protocol."""
        return evaluate_holdout(self.workspace, challenger, self.data)

    @property
    def required_evidence(self) -> tuple[str, ...]:
        """Incidents and probes, and a diagnosis if an attack is a norm ball."""
        return (*_EVIDENCE, "diagnosis") if needs_diagnosis(self.workspace) else _EVIDENCE

    @property
    def rotation_hint(self) -> str:
        """How to get fresh sealed examples."""
        return "set data.sealed_from in harden.toml"
