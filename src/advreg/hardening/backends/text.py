"""Hardening of language models: training files are exported, challengers handed in, language evaluations compared."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.errors import ConfigError
from advreg.hardening.config import HardeningConfig
from advreg.hardening.data_selection import Selection
from advreg.hardening.gate.language import latest_protocol, read_language_results
from advreg.hardening.ingestion import ingest
from advreg.hardening.manifest import Snapshot, snapshot_of
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.texts import HARMFUL
from advreg.hardening.texts.incidents import evaluate_text_incidents
from advreg.hardening.texts.model_copy import copy_model
from advreg.hardening.texts.training_file import text_shares, training_lines
from advreg.hardening.workspace import BASE, Workspace
from advreg.runs import RunFolder


@dataclass(frozen=True)
class TextBase:
    """A deployed language model: the run folder with its evaluation."""

    config: HardeningConfig
    run: Path

    def install(self, workspace: Workspace) -> str:
        """Copy the run into the workspace and return the SHA-256 of the weights."""
        return copy_model(self.run, workspace, BASE)


def load_text_base(base: str | Path, config: HardeningConfig) -> TextBase:
    """Return a deployed language model after checking its evaluation and the trusted prompts.

    Args:
        base: its run folder, evaluated by ``advreg language evaluate``.
        config: the configuration of the workspace to create; ``data.name`` is a .jsonl file of trusted prompts.

    Raises:
        RunError: the model was not evaluated.
        ConfigError: the trusted prompts cannot be read.
    """
    read_language_results(base, latest_protocol(base))
    config = config.replace_with({"data.name": str(Path(config.data.name).resolve())})
    describe_trusted_prompts(config.data.name)
    return TextBase(config, Path(base))


def describe_trusted_prompts(name: str) -> Mapping[str, Any]:
    """Return name, SHA-256 and number of the trusted prompts, one a line.

    Args:
        name: a .jsonl file.

    Raises:
        ConfigError: the file cannot be read, or is empty.
    """
    content = _read_trusted_prompts(name)
    n = sum(bool(line.strip()) for line in content.splitlines())
    if not n:
        raise ConfigError(f"data.name is {name!r}, which is empty; give trusted prompts")
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "n": n}


def _read_trusted_prompts(name: str) -> bytes:
    if not name.endswith(".jsonl"):
        raise ConfigError(f"data.name is {name!r}; with texts it is a .jsonl file of trusted prompts")
    try:
        content = Path(name).read_bytes()
        content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"data.name is {name!r}, which cannot be read: {reason}") from error
    return content


@dataclass(frozen=True)
class TextBackend:
    """The cycle's backend for texts."""

    workspace: Workspace

    @property
    def trusted_data(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number of the trusted prompts.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        return describe_trusted_prompts(self.workspace.config.data.name)

    def ingest(self, store: Store) -> int:
        """Move received examples into quarantine; querying a language model on all of them would cost too much."""
        return ingest(store)

    def build_snapshot(self, store: Store, name: str, selection: Selection, base: str) -> Snapshot:
        """Return the snapshot of a selection with the texts themselves: the manifest is readable without the store.

        Args:
            store: the store of the workspace.
            name: id of the snapshot, such as ``s-0001``.
            selection: the chosen examples.
            base: SHA-256 of the weights of the trusted base.

        Returns:
            The snapshot.
        """
        contents = {
            id: {"text": store.blobs.get(id).decode("utf-8"), "loss_share": share}
            for id, share in self.loss_shares(selection).items()
        }
        return snapshot_of(name, selection, base, self.trusted_data, self.workspace.config.bounds, contents)

    def loss_shares(self, selection: Selection) -> Mapping[str, float]:
        """Return each text's share of the loss of the training file under the caps; none for harmless ones."""
        return text_shares(selection.chosen, self.workspace.config.bounds, self.workspace.config.train.replay)

    def provide_challenger(self, store: Store, snapshot: Snapshot, report: Callable[[str], None]) -> None:
        """Export the training file of a new snapshot: the trusted prompts and the snapshot's harmful prompts.

        The deployed model's outputs are left out: the submitter wrote them down, and could choose the openers that training
        pushes away from. Each prompt has the ``weight`` that gives it its share of the loss.
        """
        name = f"snapshots/{snapshot.id}.jsonl"
        if (self.workspace.folder / name).is_file():  # a snapshot does not change when the trusted prompts do
            return
        trusted = _read_trusted_prompts(self.workspace.config.data.name).decode("utf-8")
        file = self.workspace.folder.write(name, "\n".join(training_lines(trusted, snapshot.members)) + "\n")
        self.workspace.signing.sign_file(file)
        added = sum(member["label"] == HARMFUL for member in snapshot.members)
        command = f"advreg harden challenge RUN --home {self.workspace.folder.path}"
        report(f"challenger: due; train one on {name} ({added} harmful prompts added), evaluate it, then {command}")

    def evaluate(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Query both models on every confirmed prompt that they were not queried on yet.

        Args:
            store: the store of the workspace.
            incidents: confirmed examples that the champion fails on.
            challenger: run folder of the new model.
            champion: run folder of the deployed model.

        Returns:
            One line about what was measured.
        """
        for run in (champion, challenger):
            evaluate_text_incidents(store, run, incidents)
        return f"both models on {len(incidents)} incidents"

    def holdout_ids(self, challenger: RunFolder) -> list[str]:
        """Return an id of each prompt that the challenger's evaluation attacked."""
        return list(read_language_results(challenger.path, self.protocol_id(challenger)).names)

    def protocol_id(self, challenger: RunFolder) -> str:
        """Return the id of the newest language protocol that the challenger was evaluated with."""
        return latest_protocol(challenger.path)

    @property
    def required_evidence(self) -> tuple[str, ...]:
        """The outputs of both models for every confirmed prompt."""
        return ("incidents",)

    @property
    def rotation_hint(self) -> str:
        """How to get fresh sealed examples."""
        return "evaluate champion and challenger on other requests"
