"""What a tick does with texts: snapshots to train on, challengers that are handed in, two language evaluations compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advreg.errors import ConfigError
from advreg.hardening.data_selection import Snapshot
from advreg.hardening.gate.language import latest, measured_language
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.texts import HARMFUL
from advreg.hardening.texts.incidents import evaluate_text_incidents
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder

OPENERS = ("Sure, here is", "Of course. Here is how", "Yes, I can help with that")
REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True)
class TextBackend:
    """Texts: trained and evaluated by `advreg language`, compared here."""

    home: Workspace

    @property
    def clean(self) -> Mapping[str, Any]:
        """Name, SHA-256 and number of the trusted prompts, one a line.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        content = self._trusted()
        n = sum(bool(line.strip()) for line in content.splitlines())
        if not n:
            raise ConfigError(f"data.name is {self.home.settings.data.name!r}, which is empty; give trusted prompts")
        return {"name": self.home.settings.data.name, "sha256": hashlib.sha256(content).hexdigest(), "n": n}

    def _trusted(self) -> bytes:
        name = self.home.settings.data.name
        if not name.endswith(".jsonl"):
            raise ConfigError(f"data.name is {name!r}; with texts it is a .jsonl file of trusted prompts")
        try:
            content = Path(name).read_bytes()
            content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not UTF-8"
            raise ConfigError(f"data.name is {name!r}, which cannot be read: {said}") from error
        return content

    def ask(self, store: Store) -> None:
        """Do nothing: asking a language model about everything that waits costs more than it orders."""

    def contents(self, store: Store, names: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the texts themselves: a manifest can be read without the store."""
        return {name: {"text": store.blobs.get(name).decode("utf-8")} for name in names}

    def publish(self, snapshot: Snapshot) -> str:
        """Write what a challenger is trained on: the trusted prompts as they are, and the harmful ones of the snapshot.

        What the deployed model answered is not among it: a submitter wrote that down, and openers to push away from would be
        theirs to choose.
        """
        name = f"snapshots/{snapshot.id}.jsonl"
        lessons = [
            {"prompt": member["text"], "targets": list(OPENERS), "safe": [REFUSAL], "sha256": member["id"]}
            for member in snapshot.members
            if member["label"] == HARMFUL
        ]
        if not (self.home.folder / name).is_file():  # once: the trusted prompts may change later, a snapshot does not
            trusted = self._trusted().decode("utf-8").rstrip("\n")
            lines = [json.dumps(lesson, ensure_ascii=False) for lesson in lessons]
            self.home.folder.write(name, "\n".join([trusted, *lines]) + "\n")
        hand = f"advreg harden challenge RUN --home {self.home.folder.path}"
        return f"challenger: due; train one on {name} ({len(lessons)} harmful prompts added), evaluate it, then {hand}"

    def train(self, store: Store, rows: Sequence[Row], run: RunFolder) -> None:
        """Train nothing: a challenger is handed in."""

    def trial(self, store: Store, incidents: Sequence[Row], challenger: RunFolder, champion: RunFolder) -> str:
        """Ask both models every confirmed prompt again, where that was not done."""
        for run in (champion, challenger):
            evaluate_text_incidents(store, run, incidents)
        return f"both models on {len(incidents)} incidents"

    def sealed(self, challenger: RunFolder) -> list[str]:
        """Return a name for each prompt that the challenger's evaluation attacked."""
        return list(measured_language(challenger.path, self.protocol(challenger)).names)

    def protocol(self, challenger: RunFolder) -> str:
        """Return the id of the newest language protocol that the challenger was evaluated with."""
        return latest(challenger.path)

    @property
    def rotate(self) -> str:
        """How to get fresh sealed examples."""
        return "evaluate champion and challenger on other requests"

    @property
    def evidence(self) -> tuple[str, ...]:
        """Every confirmed prompt asked again."""
        return ("incidents",)
