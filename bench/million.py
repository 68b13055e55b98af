"""Evaluate a million examples with a tiny network: throughput of the ledger, memory, resuming after a kill, results.json.

    python bench/million.py --n 1000000

The network costs next to nothing, so the figures are those of ledger, order and figures. Three processes: one is killed in the
middle, one resumes and finishes, one opens the finished folder again. Time is processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advreg import ThreatModel, attacks, evaluate
from advreg.evaluation import Protocol, ProtocolStage
from advreg.evaluation.evaluate import EvaluationProgress

PROTOCOL = Protocol("million", 1, (ProtocolStage("pgd", partial(attacks.pgd, steps=1)),))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def points(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, network()(x).argmax(1)


def peak() -> float:
    """Return the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(n: int, out: Path, stop: int) -> None:
    """Evaluate, and die after ``stop`` examples; print the figures of this process."""
    model, data = network(), points(n)
    began, marks = time.process_time(), []

    def watch(at: EvaluationProgress) -> None:
        if not marks:
            print(json.dumps({"first batch after s": round(time.process_time() - began, 2)}), flush=True)
        if len(marks) < at.done * 4 // n + 1:
            marks.append((at.done, round(peak())))
        if stop and at.done >= stop:
            print(json.dumps({"killed at": at.done, "memory": marks}), flush=True)
            os._exit(9)

    found = evaluate(model, data, ThreatModel("linf", 0.02), protocol=PROTOCOL, out=out, on_progress=watch)
    record = {"n": found.n, "robust": found.robust_accuracy, "processor s": round(time.process_time() - began, 1)}
    print(json.dumps(record | {"memory": [*marks, ("end", round(peak()))]}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--stop", type=int, default=-1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stop >= 0:
        run(given.n, given.out, given.stop)
        return
    out = given.out or Path(tempfile.mkdtemp()) / "run"
    for title, stop in (("killed at 60%", given.n * 6 // 10), ("resumed", 0), ("opened again", 0)):
        print(title, flush=True)
        command = [sys.executable, __file__, "--n", str(given.n), "--out", str(out), "--stop", str(stop)]
        subprocess.run(command, check=False)
    ledger = next(out.rglob("ledger.jsonl"))
    print(f"ledger: {ledger.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
