"""Reading a run's results: per-example outcomes from the ledger, checked against results.json."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advreg.documents import check_links, parse_json
from advreg.errors import RunError
from advreg.hardening.gate.certificates import Unproved, read_certificates
from advreg.results.ledger_rows import Row, score_of, worst_rows
from advreg.results.reading import LEDGER, read_ledger
from advreg.runs import RunFolder
from advreg.runs.files import explain_os_error

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One axis of a language model's behaviour: ids of the prompts, and of those with a bad outcome."""

    ids: frozenset[str]
    wrong: frozenset[str]

    @property
    def bad(self) -> float:
        """Share of the prompts with a bad outcome."""
        return len(self.wrong) / max(len(self.ids), 1)


@dataclass(frozen=True)
class GateResults:
    """One run's results under one protocol.

    Attributes:
        run: the run folder.
        protocol: id of the protocol; results are compared only if protocol, data, n and seed are equal.
        data: SHA-256 of the data.
        n: number of examples.
        seed: seed of the attacks.
        model: SHA-256 of the evaluated weights.
        labels: example id -> label.
        wrong: ids that the model gets wrong without an attack.
        broken: ids that are wrong or were broken by an attack.
        verdicts: file of a diagnosis -> ``TRUSTED``, ``SUSPECT`` or ``UNRELIABLE``.
        incidents: example -> whether the model gets it wrong; None if the run has no incidents.json.
        probes: name -> (passed, line with the numbers).
        conduct: name -> axis of a language model that must not get worse; empty for images.
        names: SHA-256 of the attacked prompts of a language evaluation.
        clean_scores, scores: clean and lowest score of each example; empty where an example is right or broken.
        certificates: protocol and data of a certification -> examples that it left unproved.
        stale: error line if the results belong to other weights than those in the folder; else empty.
    """

    run: str
    protocol: str
    data: str
    n: int
    seed: int
    model: str
    labels: Mapping[int, int]
    wrong: frozenset[int]
    broken: frozenset[int]
    verdicts: Mapping[str, str] = field(default_factory=dict)
    incidents: Mapping[str, bool] | None = None
    probes: Mapping[str, tuple[bool, str]] = field(default_factory=dict)
    conduct: Mapping[str, Axis] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    stale: str = ""
    certificates: Mapping[str, Unproved] = field(default_factory=dict)
    clean_scores: Mapping[int, float] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the summary that a decision records."""
        kept = ("run", "protocol", "data", "n", "seed", "model")
        shares = {name: axis.bad if name == "over-refusal" else 1 - axis.bad for name, axis in self.conduct.items()}
        shares = shares or {"clean_accuracy": 1 - len(self.wrong) / self.n}
        shares["robust_accuracy"] = 1 - len(self.broken) / self.n
        if self.scores:
            shares = {"clean_accuracy": _mean(self.clean_scores), "robust_accuracy": _mean(self.scores)}
        return {**{key: getattr(self, key) for key in kept}, **shares, "verdicts": dict(self.verdicts)}


def protocols_of(run: str | Path) -> list[str]:
    """Return the ids of the protocols that a run was evaluated with.

    Args:
        run: the run folder.

    Raises:
        RunError: there is no run folder, or no evaluation in it.
    """
    folder = RunFolder.open(run)
    found = sorted(file.parent.name for file in folder.path.glob("evaluation/*/results.json"))
    if not found:
        raise RunError(f"{folder.path} has no evaluation; run `advreg evaluate {folder.path}` first")
    return found


def read_results(run: str | Path, protocol: str) -> GateResults:
    """Return a run's results under a protocol.

    Args:
        run: the run folder.
        protocol: id of the protocol.

    Raises:
        RunError: there are no results, a file is damaged, or the ledger contradicts results.json.
    """
    folder = RunFolder.open(run)
    check_links(folder.path)
    place = f"evaluation/{protocol}"
    results = folder.read_json(f"{place}/results.json")
    ledger = folder / place / LEDGER
    contents = read_ledger(ledger)
    head, rows = contents.header, contents.rows
    try:
        facts = {key: head[key] for key in ("protocol", "data", "n", "seed", "model")}
        clean = contents.clean
        labels = {int(row["id"]): -1 if row["label"] is None else int(row["label"]) for row in clean}
        wrong = frozenset(int(row["id"]) for row in clean if row["broken"])
        broken = frozenset(int(row["id"]) for row in rows if row["broken"])
        claimed = {key: results[key] for key in ("protocol", "n", "clean_accuracy", "robust_accuracy")}
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{ledger} or the results.json beside it lacks {error}; evaluate again") from error
    n = len(labels)
    found = {"protocol": protocol, "n": n, "clean_accuracy": 1 - len(wrong) / max(n, 1)}
    found["robust_accuracy"] = 1 - len(broken) / max(n, 1)
    with_scores = any("score" in row for row in rows)
    clean_scores, scores = (_scores(some) if with_scores else {} for some in (clean, rows))
    if with_scores:
        found |= {"clean_accuracy": _mean(clean_scores), "robust_accuracy": _mean(scores)}
    if any(not _equal(claimed[key], found[key]) for key in found) or facts["n"] != n or facts["protocol"] != protocol:
        raise RunError(f"{ledger} and the results.json beside it do not agree; evaluate again in another folder")
    return GateResults(
        run=str(run),
        **facts,
        labels=labels,
        wrong=wrong,
        broken=broken,
        verdicts=_verdicts(folder, place, results),
        incidents=incidents_in(folder),
        probes=_probes(folder),
        stale=_stale(folder, facts["model"]),
        certificates=read_certificates(folder.path, facts["model"]),
        clean_scores=clean_scores,
        scores=scores,
    )


def _scores(rows: Iterable[Row]) -> dict[int, float]:
    """Return each example's lowest score by id."""
    return {i: score_of(row) for i, row in worst_rows(rows).items()}


def _mean(scores: Mapping[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _equal(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float | int) and isinstance(b, float | int) and abs(a - b) < 1e-9)


def _verdicts(folder: RunFolder, place: str, results: Mapping[str, Any]) -> dict[str, str]:
    """Return the verdicts of all diagnoses in the run folder."""
    found = {"results.json": results["verdict"]} if results.get("verdict") else {}
    for name in ("diagnosis.json", f"{place}/diagnosis.json"):
        if (folder / name).is_file():
            found[name] = str(folder.read_json(name).get("verdict"))
    return found


def incidents_in(folder: RunFolder) -> dict[str, bool] | None:
    """Return for each confirmed example whether the run's model gets it wrong; None without incidents.json.

    Args:
        folder: the run folder.

    Returns:
        Whether the model fails, by example id; or None.

    Raises:
        RunError: the file is damaged.
    """
    if not (folder / "incidents.json").is_file():
        return None
    try:
        rows = folder.read_json("incidents.json").get("rows", [])
        return {str(row["example"]): bool(row["broken"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'incidents.json'} is damaged ({error}); evaluate the incidents again") from error


def _probes(folder: RunFolder) -> dict[str, tuple[bool, str]]:
    if not (folder / "probes.json").is_file():
        return {}
    try:
        rows = folder.read_json("probes.json")["checks"]
        return {str(row["name"]): (row["passed"] is True, str(row["says"])) for row in rows}
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / 'probes.json'} is damaged ({error}); evaluate the probes again") from error


def _stale(folder: RunFolder, model: str) -> str:
    """Return an error line if a file of the folder belongs to other weights than the evaluated ones; else an empty text."""
    names = [name for name in ("diagnosis.json", "incidents.json", "probes.json") if (folder / name).is_file()]
    found = {name: _model(folder.read_json(name)) for name in names}
    if (folder / "model.safetensors").is_file():
        found["model.safetensors"] = weights_sha256(folder / "model.safetensors")
    others = [name for name, sha256 in found.items() if sha256 != model]
    return f"{others[0]} is of other weights than those that were evaluated ({model[:12]})" if others else ""


def _model(record: Mapping[str, Any]) -> Any:
    model = record.get("model")
    return model.get("sha256") if isinstance(model, Mapping) else model


def weights_sha256(file: Path) -> str:
    """Return the SHA-256 of a safetensors file's names, types, shapes and values, as evaluations record it.

    Args:
        file: the safetensors file.

    Raises:
        RunError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with explain_os_error("read", file):
        content = file.read_bytes()
    try:
        (size,) = struct.unpack("<Q", content[:8])
        tensors = parse_json(content[8 : 8 + size])
        tensors.pop("__metadata__", None)
        for name, facts in sorted(tensors.items()):
            digest.update(f"{name} torch.{_TYPES[facts['dtype']]} {tuple(facts['shape'])}\n".encode())
            first, last = facts["data_offsets"]
            digest.update(content[8 + size + first : 8 + size + last])
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise RunError(f"{file} is not a whole safetensors file; restore it") from error
    return digest.hexdigest()
