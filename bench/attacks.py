"""PGD timed against torchattacks, foolbox and the Adversarial Robustness Toolbox, from images to judged verdicts.

    python bench/attacks.py [--quick] [--repeats R] [--case mnist|resnet] [--out FILE.json]

Every round takes the next test images that the network gets right and lets every competitor attack them in turn; ratios
are taken round by round. A peer's time includes one `advreg.verify` of its points, because ours returns verdicts; its time
without it is shown too. The peers live in ``.venv-peers``, made at first use. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peers
from advreg import runtime, verify
from advreg.runs.files import write_atomic
from compare import interleaved, ratios, spread, timed
from competitors import OURS, PEERS, Competitor, counted
from networks import CASES, Case

AGREE = 0.5  # points of robust accuracy within which attacks count as equally strong
QUICK = 16
Record = dict[str, Any]


@dataclass(frozen=True)
class Shot:
    """One competitor in one round: seconds of the attack and of the verdict after it, and who was broken."""

    attack: float
    verdict: float
    broken: list[bool]

    @property
    def seconds(self) -> float:
        """From images to verdicts."""
        return self.attack + self.verdict


def shoot(case: Case, competitor: Competitor, number: int) -> Shot:
    """Let one competitor do one round; one that judges its own points is judged once more, outside its time."""
    x, y = case.batch(number)
    seconds, x_adv = timed(lambda: competitor.attack(x, y, number))
    verdict, broken = timed(lambda: verify(case.model, x, x_adv, y, case.threat))
    return Shot(seconds, 0.0 if competitor.judges else verdict, broken.tolist())


def measure(case: Case, rounds: int) -> Record:
    """Warm everybody up, counting what they ask; then let everybody do all rounds."""
    rows, ready = {}, {}
    for name, make in {**OURS, **PEERS}.items():
        setup, competitor = timed(partial(make, case))
        rows[name] = {"setup_seconds": setup, **cost(case, competitor)}
        ready[name] = partial(shoot, case, competitor)
    shots = interleaved(ready, rounds)
    for name, row in rows.items():
        row.update(summary(shots[name]))
    return {**described(case, rounds), "competitors": rows, "ratios": compared(shots)}


def cost(case: Case, competitor: Competitor) -> Record:
    """Return the forwards and backwards an example cost on average in the warm-up, a peer's verdict left out."""
    x, y = case.batch(0)
    with counted(*competitor.asked) as count:
        competitor.attack(x, y, 0)
    return {"forwards": count.forwards / len(x), "backwards": count.backwards / len(x)}


def summary(shots: Sequence[Shot]) -> Record:
    """Return a competitor's seconds a round, and its robust accuracy over all rounds."""
    broken = [b for shot in shots for b in shot.broken]
    return {
        "seconds": [shot.seconds for shot in shots],
        "attack_seconds": [shot.attack for shot in shots],
        "robust_accuracy": 1 - sum(broken) / len(broken),
    }


def described(case: Case, rounds: int) -> Record:
    """Return what was asked for."""
    return {
        "case": case.name,
        "n": case.n,
        "rounds": rounds,
        "threat": str(case.threat),
        "steps": case.steps,
        "step_size": case.step_size,
        "clean_accuracy": case.clean_accuracy,
    }


def compared(shots: dict[str, list[Shot]]) -> Record:
    """Return for each peer and each of our ways how many times longer the peer took, to the verdict and without it."""

    def times(name: str, of: Callable[[Shot], float]) -> list[float]:
        return [of(shot) for shot in shots[name]]

    def pair(peer: str, ours: str) -> Record:
        fast = times(ours, lambda shot: shot.seconds)
        to_verdict = ratios(times(peer, lambda shot: shot.seconds), fast)
        attack_only = ratios(times(peer, lambda shot: shot.attack), fast)
        return {"to_verdict": asdict(to_verdict), "attack_only": asdict(attack_only)}

    return {peer: {ours: pair(peer, ours) for ours in OURS} for peer in PEERS}


def table(measured: Record) -> str:
    """Return a case as text: who took how long, and how many times longer than each of our ways."""
    rows, n = measured["competitors"], measured["n"] * measured["rounds"]
    lines = [
        f"\n{measured['case']}, {measured['threat']}: {measured['rounds']} rounds of {measured['n']} images "
        f"that the network gets right (it does {measured['clean_accuracy']:.2%})",
        f"{'':18}{'seconds: median (min-max)':>28}{'robust':>9}{'forwards':>10}{'backwards':>11}",
    ]
    for name, row in rows.items():
        seconds = f"{spread(row['seconds']):.3f}"
        passes = f"{row['forwards']:10.1f}{row['backwards']:11.1f}"
        lines.append(f"{name:18}{seconds:>28}{row['robust_accuracy']:9.2%}{passes}")
    lines.append(f"{'times slower than':18}" + "".join(f"{ours:>24}" for ours in OURS))
    for peer in PEERS:
        for kind, label in (("to_verdict", peer), ("attack_only", "  attack alone")):
            cells = "".join(f"{_cell(measured['ratios'][peer][ours][kind]):>24}" for ours in OURS)
            lines.append(f"{label:18}{cells}")
    return "\n".join([*lines, *verdict(rows, measured["ratios"], n)])


def verdict(rows: Record, against: Record, n: int) -> list[str]:
    """Return what the figures say: are the attacks equally strong, and how far is the fastest peer behind."""
    robust = {name: 100 * row["robust_accuracy"] for name, row in rows.items()}
    low, high = min(robust, key=robust.__getitem__), max(robust, key=robust.__getitem__)
    gap = robust[high] - robust[low]
    agree = f"within {AGREE}" if gap <= AGREE else f"MORE than {AGREE}: these attacks are not equally strong"
    fastest = min(PEERS, key=lambda peer: spread(rows[peer]["seconds"]).median)
    faster = ", ".join(f"{ours} is {_cell(against[fastest][ours]['to_verdict'])} as fast" for ours in OURS)
    return [
        f"robust accuracy differs by {gap:.2f} points on {n} images ({low} lowest, {high} highest), {agree}",
        f"fastest peer: {fastest}; {faster}",
    ]


def _cell(ratio: Record) -> str:
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f}-{ratio['high']:.2f})"


def run(names: Sequence[str], rounds: int, n: int | None) -> Record:
    """Measure the named cases, print a table for each, and return everything measured."""
    machine = runtime.environment()
    versions = {name: version(name) for name in (spec.partition("==")[0] for spec in peers.PEERS)}
    against = ", ".join(f"{name} {number}" for name, number in versions.items())
    print(f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}; {against}")
    cases = []
    for name in names:
        cases.append(measure(CASES[name]() if n is None else CASES[name](n), rounds))
        print(table(cases[-1]), flush=True)
    return {"schema": "advreg/bench-attacks@1", "environment": machine, "versions": versions, "cases": cases}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time PGD against three peers, on equal work and equal verdicts.")
    parser.add_argument("--quick", action="store_true", help=f"one round of {QUICK} images: does it run, not how fast")
    parser.add_argument("--repeats", type=int, default=10, help="rounds after the warm-up (default 10)")
    parser.add_argument("--case", choices=tuple(CASES), action="append", help="default: all")
    parser.add_argument("--out", type=Path, help="write everything measured to this JSON file")
    given = parser.parse_args()
    if given.repeats < 1:
        parser.error(f"--repeats is {given.repeats}; give 1 or more")
    if given.out and not given.out.absolute().parent.is_dir():
        parser.error(f"--out is {given.out}, in a folder that does not exist; make it first")
    peers.enter()
    report = run(given.case or list(CASES), 1 if given.quick else given.repeats, QUICK if given.quick else None)
    if given.out:
        write_atomic(given.out, json.dumps(report, indent=1) + "\n")
        print(f"written to {given.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
