"""Planted masks and honest networks, diagnosed: which check says what, and what adaptive attacks reach.

    python bench/diagnosis.py [--n N] [--quick] [--case WORDS ...] [--out FOLDER]

Networks are trained at first use, in seconds. Each case leaves a JSON file in the folder, and is not run again while it is
there; the tables at the end are made of those files and are what docs/diagnose.md shows.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import advreg
from advreg.evaluation import evaluate
from advreg.runs.files import write_atomic

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the planted cases are the tests'

from tests.diagnosis import planted  # noqa: E402

from networks import SHARED  # noqa: E402

MARKS = {"pass": "", "suspect": "!", "fail": "x", "skipped": "-"}
Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A network to diagnose; ``protocol`` evaluates it first, and its figure is the one that is questioned."""

    name: str
    make: Callable[[], nn.Module]
    threat: advreg.ThreatModel
    kind: str
    bare: Callable[[], nn.Module] | None = None
    protocol: str = ""


def published(name: str, file: str) -> nn.Module:
    """Return a network that others trained."""
    return advreg.load_model(name, weights=SHARED / "checkpoints" / file)


def cases() -> list[Case]:
    """Return every case: the tests', and networks that others trained where they are there."""
    found = [Case(c.name, c.make, c.threat, "planted", c.bare) for c in planted.PLANTED]
    found += [Case(c.name, c.make, c.threat, "honest") for c in planted.HONEST]
    found += [Case("PGD-trained, at twice its eps", planted.robust, planted.BROAD, "honest")]
    if (SHARED / "checkpoints").is_dir():
        for label, name, file, eps in (
            ("certified (Wong and Kolter)", "zoo:mnist-small", "mnist_wk17a_linf0.1.pth", 0.1),
            ("TRADES", "zoo:mnist-trades", "mnist_trades_smallcnn.pt", 0.3),
        ):
            threat = advreg.ThreatModel("linf", eps)
            for protocol in ("", "strong"):
                word = f"{label}, figure of `{protocol}`" if protocol else label
                found.append(Case(word, lambda n=name, f=file: published(n, f), threat, "honest", None, protocol))
    return found


def measured(case: Case, n: int, quick: bool, folder: Path) -> Record:
    """Diagnose a case, or read what an earlier run said of it."""
    file = folder / f"{''.join(c if c.isalnum() else '-' for c in case.name)}.json"
    if file.is_file():
        return json.loads(file.read_text())
    print(case.name, file=sys.stderr, flush=True)
    train, test = planted.mnist()
    data = test.tensors(n=n)
    torch.manual_seed(0)
    model = case.make()
    out = folder / "runs" / file.stem if case.protocol else None
    if out is not None:
        evaluate(model, data, threat=case.threat, protocol=case.protocol, out=out)
    began = time.process_time()  # what else the machine does weighs less on it
    advreg.diagnose(model, data, case.threat, n, quick=quick, out=out)
    spent = time.process_time() - began
    torch.manual_seed(0)
    found = advreg.diagnose(model, data, case.threat, n, quick=quick, adapt=True, train=train, out=out)
    record = {
        **found.record(),
        "pictures": {},
        "case": case.name,
        "kind": case.kind,
        "cpu_seconds": spent,
        "truth": worth(case, data),
    }
    write_atomic(file, json.dumps(record))
    return record


def worth(case: Case, data: tuple[torch.Tensor, torch.Tensor]) -> float | None:
    """Return what the same weights are worth without the mask; None where the mask is in the weights."""
    if case.bare is None or case.bare is planted.signed:
        return None
    return evaluate(case.bare(), data, threat=case.threat, protocol="strong").robust_accuracy


def summary(records: Sequence[Record]) -> str:
    """Return the table of cases: verdict, cause, first failing check, figures, seconds of a diagnosis without adapting."""
    columns = (
        "case",
        "verdict",
        "cause",
        "first check that names it",
        "figure",
        "adaptive",
        "no mask",
        "by",
        "CPU s",
    )
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in records:
        bad = [c for c in r["checks"] if c["verdict"] in ("fail", "suspect") and c["name"] != "adaptive"]
        cause = (r["causes"] or ["-"])[0]
        first = next((c["name"] for c in sorted(bad, key=lambda c: (c["cause"] != cause, c["verdict"] != "fail"))), "-")
        truth = "-" if r["truth"] is None else f"{r['truth']:.1%}"
        cells = (
            r["case"],
            r["verdict"],
            cause,
            first,
            f"{r['robust_accuracy']:.1%}",
            f"{r['adapted']['robust_accuracy']:.1%}",
        )
        rows.append(f"| {' | '.join(cells)} | {truth} | {r['adapted']['means'] or '-'} | {r['cpu_seconds']:.0f} |")
    return "\n".join(rows)


def matrix(records: Sequence[Record]) -> str:
    """Return the table of cases x checks: measured values, ``!`` where suspect, ``x`` where failed, ``-`` where skipped."""
    names = list(dict.fromkeys(f"{c['group']} {c['name']}" for r in records for c in r["checks"]))
    rows = [
        "| check | " + " | ".join(str(k + 1) for k in range(len(records))) + " |",
        "|---" * (len(records) + 1) + "|",
    ]
    for name in sorted(names):
        cells = []
        for r in records:
            check = next((c for c in r["checks"] if f"{c['group']} {c['name']}" == name), None)
            cells.append("-" if check is None or check["measured"] is None else _cell(check))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(check: Record) -> str:
    value = f"{check['measured']:.1%}" if check["interval"] else f"{check['measured']:.2g}"
    return f"{value}{MARKS[check['verdict']]}"


def main() -> None:
    """Run the cases and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200, help="test images")
    parser.add_argument("--quick", action="store_true", help="the short diagnosis")
    parser.add_argument("--case", nargs="*", default=[], help="only cases whose name holds one of these words")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "diagnosis")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = [c for c in cases() if not given.case or any(word in c.name for word in given.case)]
    records = [measured(case, given.n, given.quick, given.out) for case in chosen]
    print(summary(records))
    print("\n" + "\n".join(f"{k + 1}. {r['case']}" for k, r in enumerate(records)) + "\n")
    print(matrix(records))


if __name__ == "__main__":
    main()
