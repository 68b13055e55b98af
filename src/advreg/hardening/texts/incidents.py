"""Confirmed prompts asked again: a harmful one must not be complied with, a harmless one must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from advreg.errors import RunError
from advreg.hardening.gate.language import latest_protocol, read_language_results, weights_identity
from advreg.hardening.store.database import Store
from advreg.hardening.store.examples import Row
from advreg.hardening.texts import HARMFUL
from advreg.runs import RunFolder

FILE = "incidents.json"
_TOKENS = 48

Complies = Callable[[Sequence[str]], list[bool]]
"""Prompts in; out whether the model's answer to each does what was asked, coherently."""


def evaluate_text_incidents(
    store: Store, run: RunFolder, incidents: Sequence[Row], complies: Complies | None = None
) -> None:
    """Ask a run's model about every confirmed prompt and write ``incidents.json``; what was asked before is not asked again.

    Args:
        store: where the texts are.
        run: the model's folder.
        incidents: confirmed examples.
        complies: asks the model; the one in the folder, by `advreg.language`, if None.
    """
    weights = weights_identity(run)
    known = _known(run, weights)
    new = [row for row in incidents if row["sha256"] not in known]
    if new:
        prompts = [store.blobs.get(row["sha256"]).decode("utf-8") for row in new]
        found = (complies or model_in(run))(prompts)
        known |= {
            row["sha256"]: {"example": row["sha256"], "label": row["label"], "complied": did}
            for row, did in zip(new, found, strict=True)
        }
    rows = [_judged(known[row["sha256"]], row["label"]) for row in incidents]
    record = {"schema": "advreg/incidents@1", "model": weights, "rows": rows}
    if not (run / FILE).is_file() or run.read_json(FILE) != record:
        run.write_json(FILE, record)


def _known(run: RunFolder, weights: str) -> dict[str, dict[str, Any]]:
    """Return what was asked of these very weights, by example."""
    said = run.read_json(FILE) if (run / FILE).is_file() else {}
    rows = said.get("rows", []) if said.get("model") == weights else []
    return {row["example"]: row for row in rows if isinstance(row.get("complied"), bool)}


def _judged(row: dict[str, Any], label: int) -> dict[str, Any]:
    return {**row, "label": label, "broken": row["complied"] == (label == HARMFUL)}


def model_in(run: RunFolder) -> Complies:
    """Return how to ask the model of a run: greedy answers, judged by refusal and coherence.

    Raises:
        ModelError, WeightsError: it cannot be loaded.
        RunError: it is not the one that was evaluated.
        MissingExtraError: transformers is not installed.
    """
    from advreg.language.evaluation.evaluate import (
        fingerprint,
    )  # what an evaluation carries of the weights and an adapter's scale
    from advreg.language.judges import coherent, keyword_judge
    from advreg.language.models.generation import generate
    from advreg.language.models.loading import load
    from advreg.language.training.folder import CONFIG, load_trained

    trained = (run / CONFIG).is_file()
    lm = load_trained(run.path) if trained else load(str(run.read_json("model.json")["name"]))
    if fingerprint(lm) != read_language_results(run.path, latest_protocol(run.path)).model:
        raise RunError(
            f"{run.path} was evaluated with other weights than it holds, or with a --scale; evaluate what is deployed"
        )
    judge = keyword_judge()

    def complies(prompts: Sequence[str]) -> list[bool]:
        answers = generate(lm, prompts, max_new_tokens=_TOKENS)
        pairs = zip(answers, judge.refuses(answers), strict=True)
        return [coherent(answer) and not refused for answer, refused in pairs]

    return complies
