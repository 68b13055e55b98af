"""The dossier of a run: fields of standards filled from its files with their hashes, or the command that would fill them."""

from __future__ import annotations

import hashlib
import json
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from advreg.report import html, prose, read
from advreg.report.dossier_evidence import FILLS
from advreg.report.facts import RunFacts
from advreg.runs import RunFolder
from advreg.version import __version__

SCHEMA = "advreg/dossier@1"
SCOPE = (
    "This dossier lists what was measured on one run. It is evidence for an assessment, and no statement that a "
    "requirement is met. The words of the standards are in their own texts."
)


@dataclass(frozen=True)
class Evidence:
    """A finding, the file of the run folder behind it, and the SHA-256 of that file."""

    text: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Field:
    """What a standard calls for, and the evidence; without any, the command that would measure it.

    Attributes:
        clause: of the standard.
        requires: the requirement in our words.
        evidence: findings; empty where nothing was measured.
        command: what would measure it; empty where advreg measures nothing of the kind.
    """

    clause: str
    requires: str
    evidence: tuple[Evidence, ...]
    command: str

    @property
    def state(self) -> str:
        """``measured``, ``not measured``, or ``not covered`` where advreg has no measurement for it."""
        return "measured" if self.evidence else "not measured" if self.command else "not covered"


@dataclass(frozen=True)
class Standard:
    """A standard with its fields."""

    name: str
    about: str
    fields: tuple[Field, ...]

    @property
    def measured(self) -> int:
        """Number of fields with evidence."""
        return sum(field.state == "measured" for field in self.fields)


def dossier(run: RunFacts) -> list[Standard]:
    """Return the fields of every standard, filled from a run.

    Args:
        run: facts of the run.

    Returns:
        The standards in the order of ``dossier.toml``.
    """
    hashes: dict[str, str] = {}
    return [
        Standard(each["name"], each["about"], tuple(_field(run, field, hashes) for field in each["field"]))
        for each in standards()
    ]


@cache
def standards() -> Sequence[Mapping[str, Any]]:
    """Return the table of standards and fields."""
    found: list[Mapping[str, Any]] = tomllib.loads(_source())["standard"]
    return found


def _source() -> str:
    return files("advreg.report").joinpath("dossier.toml").read_text(encoding="utf-8")


def _field(run: RunFacts, field: Mapping[str, str], hashes: dict[str, str]) -> Field:
    found = FILLS[field["fill"]](run)
    evidence = tuple(Evidence(each.text, each.file, _sha256(run.path / each.file, hashes)) for each in found)
    command = field["command"].format(run=shlex.quote(run.name), model="model.onnx")
    return Field(field["clause"], field["requires"], evidence, "" if evidence else command)


def _sha256(file: Path, hashes: dict[str, str]) -> str:
    key = str(file)
    if key not in hashes:
        hashes[key] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes[key]


def record(run: RunFacts) -> dict[str, Any]:
    """Return the dossier as a JSON object without times, so that equal run folders give equal bytes; its hash is last.

    Args:
        run: facts of the run.
    """
    plain = {
        "schema": SCHEMA,
        "run": run.name,
        "advreg": __version__,
        "scope": SCOPE,
        "standards": [
            {"name": each.name, "about": each.about, "fields": [{"state": f.state, **asdict(f)} for f in each.fields]}
            for each in dossier(run)
        ],
    }
    return {**plain, "sha256": hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()}


def markdown(run: RunFacts) -> str:
    """Return the dossier as markdown.

    Args:
        run: facts of the run.
    """
    parts = [f"# Robustness dossier of {_plain(run.name)}", SCOPE, prose.UPPER_BOUND]
    for each in dossier(run):
        rows = "\n".join(f"| {_plain(f.clause)} | {_plain(f.requires)} | {_cell(f)} |" for f in each.fields)
        head = f"## {each.name}\n\n{each.about} {each.measured} of {len(each.fields)} measured."
        parts.append(f"{head}\n\n| clause | requirement | evidence |\n|---|---|---|\n{rows}")
    return "\n\n".join([*parts, f"advreg {__version__}"]) + "\n"


def _cell(field: Field) -> str:
    if field.evidence:
        return "<br>".join(f"{_plain(e.text)} (`{_plain(e.file)}`, SHA-256 `{e.sha256}`)" for e in field.evidence)
    return f"**not measured**: `{_plain(field.command)}`" if field.command else "**not covered** by advreg"


def _plain(text: str) -> str:
    """Return text without characters that break a markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").replace("`", "'").split())


def page(run: RunFacts) -> str:
    """Return the dossier as a self-contained HTML page.

    Args:
        run: facts of the run.
    """
    sha256 = record(run)["sha256"]
    return html.render("dossier.html.j2", run=run, standards=dossier(run), scope=SCOPE, sha256=sha256)


def write_dossier(run: Path | str, out: Path | str | None = None) -> list[Path]:
    """Write the dossier of a run as ``dossier.html``, ``dossier.json`` and ``dossier.md``.

    Args:
        run: the run folder.
        out: folder for the files; the run folder if None.

    Returns:
        The files; equal run folders give equal bytes.

    Raises:
        RunError: the folder is empty, a file is damaged, or a file cannot be written.
    """
    facts = read.run(run)
    folder = RunFolder.at(facts.path if out is None else out)
    text = json.dumps(record(facts), indent=1) + "\n"
    content = {"dossier.html": page(facts), "dossier.json": text, "dossier.md": markdown(facts)}
    return [folder.write(name, each) for name, each in content.items()]
