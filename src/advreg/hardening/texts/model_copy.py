"""Copying a language model's run folder into a workspace."""

from __future__ import annotations

import shutil
from pathlib import Path

from advreg.documents import check_links
from advreg.errors import RunError
from advreg.hardening.gate.language import latest_protocol, weights_identity
from advreg.hardening.workspace import Workspace
from advreg.runs import RunFolder

_EXCLUDED = ("checkpoint.pt", "*.tmp", "incidents.json", "decision.json")
"""Files that only a resumed training needs, and files that the workspace makes afresh."""


def copy_model(run: str | Path, workspace: Workspace, place: str) -> str:
    """Copy a run into a workspace and return the SHA-256 of its weights.

    Args:
        run: run folder of an evaluated language model.
        workspace: where to copy it.
        place: the run's name in the workspace, such as ``models/base``; an interrupted copy there is replaced.

    Raises:
        RunError: the folder cannot be read, or the copy cannot be written.
    """
    source, target = RunFolder.open(run), workspace.folder / place
    check_links(source.path)
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source.path, target, ignore=shutil.ignore_patterns(*_EXCLUDED))
    except (OSError, shutil.Error) as error:
        raise RunError(f"cannot copy {source.path} into {workspace.folder.path}: {error}") from error
    copy = RunFolder.at(target)
    if not (target / "model.json").is_file():
        copy.write_json("model.json", {"schema": "advreg/model@1", "name": _evaluated_name(source)})
    weights = weights_identity(copy)
    copy.write_json("model.json", {**copy.read_json("model.json"), "sha256": weights})
    return weights


def _evaluated_name(source: RunFolder) -> str | None:
    """Return the model's name in its newest evaluation."""
    name: str | None = source.read_json(f"evaluation/{latest_protocol(source.path)}/results.json").get("model")
    return name
