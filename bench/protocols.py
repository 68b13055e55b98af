"""Protocols side by side in every norm: robust accuracy, passes and processor time beside pyautoattack's.

    python bench/protocols.py [--case wk17/l2:1.5 ...] [--program quick strong standard pyautoattack] [--n N] [--threads T]

A case is a network of `robust_networks` and a threat. Every program gets the same first test images and runs once on each
case, in float32. Rows are appended to the file as they come (by default ``runs/bench/protocols.jsonl``, the tables in a
``.md`` beside it), and what the file holds is not run again. Our protocols are known by id, so a new version adds a row and
the older ones stay; ``strong@2`` names a version. `advreg.evaluate` verifies our points, `advreg.verify` the peer's: labels
on the original network, distances in float64. Only pyautoattack needs the peers' environment.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

import advreg
import networks
import peers
import robust_networks
from advreg.errors import AdvregError, ConfigError
from advreg.evaluation.protocols import resolve
from advreg.runs.files import append_lines, read_lines, write_atomic
from competitors import Count, counted
from evaluation import Case, Row, measured, ours, peer, pyautoattack

REFERENCE = "pyautoattack"
PROGRAMS = (REFERENCE, "standard", "strong", "quick")
CASES = {
    "wk17/l2:1.5": 200,
    "wk17/l1:6": 200,
    "wk17/l2:1": 200,
    "wk17/l1:4": 200,
    "mnist-l2/l2:1.5": 200,
    "mnist-l1/l1:8": 200,
    "trades/l2:2": 200,
    "trades/l1:10": 200,
    "wk17/linf:0.1": 200,
    "cifar-linf/linf:8/255": 100,
    "cifar-l2/l2:0.5": 100,
    "cifar-l1/l1:12": 100,
    "trades/linf:0.3": 200,
}
"""Images of each case by default; the slowest come last."""

PERTURBED = re.compile(r"(\S+) - \d+/\d+ - (\d+) out of (\d+) successfully perturbed")


def case_of(text: str, n: int) -> Case:
    """Return the case of ``network/norm:eps`` with its first test images."""
    network, _, threat = text.partition("/")
    if network not in robust_networks.NETWORKS:
        raise ConfigError(
            f"case is {text!r}; write network/norm:eps, network one of {', '.join(robust_networks.NETWORKS)}"
        )
    x, y = robust_networks.images(network, n)
    return Case(text, robust_networks.load(network), x, y, advreg.ThreatModel.parse(threat))


def program_id(program: str, threat: advreg.ThreatModel) -> str:
    """Return what rows call a program: ``pyautoattack``, or a protocol's id, of its current version if none is named.

    Example: ``strong`` at l2 1.5 is ``l2-1.5-strong@2``.
    """
    if program == REFERENCE:
        return program
    name, _, version = program.partition("@")
    current = resolve(name, threat.norm)
    return replace(current, version=int(version) if version else current.version).id(threat)


def work_of(program: str, threat: advreg.ThreatModel) -> Callable[[Case], Row]:
    """Return what runs a program on a case."""
    if program == REFERENCE:
        return reference
    name = program.partition("@")[0]
    current = resolve(name, threat.norm).id(threat)
    if program_id(program, threat) != current:
        raise ConfigError(f"{program} is not in the file and no longer runs; the current version is {current}")
    return partial(ours, protocol=name, precision="float32")


def reference(case: Case) -> Row:
    """Run pyautoattack's standard version, and read what each of its attacks did from its log."""
    stages: dict[str, Row] = {}

    def attack(case: Case) -> Tensor:
        with counted(case.model) as count, logged(stages, count):
            return pyautoattack(case)

    return {**peer(case, attack), "stages": stages}


@contextlib.contextmanager
def logged(stages: dict[str, Row], count: Count) -> Iterator[None]:
    """Collect for each attack in pyautoattack's log: examples tried and broken, forwards and backwards."""
    handler, log = StageHandler(stages, count), logging.getLogger("auto-attack")
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


class StageHandler(logging.Handler):
    """Adds a finished batch of an attack to that attack's row, with the passes since the batch before it."""

    def __init__(self, stages: dict[str, Row], count: Count) -> None:
        super().__init__()
        self.stages, self.count, self.before = stages, count, Count()

    def emit(self, record: logging.LogRecord) -> None:
        """Read one line of the log; a line about anything else is ignored."""
        found = PERTURBED.match(record.getMessage())
        if found is None:
            return
        row = self.stages.setdefault(found[1], {"tried": 0, "broken": 0, "forwards": 0, "backwards": 0})
        row["tried"] += int(found[3])
        row["broken"] += int(found[2])
        row["forwards"] += self.count.forwards - self.before.forwards
        row["backwards"] += self.count.backwards - self.before.backwards
        self.before = Count(self.count.forwards, self.count.backwards)


def rows_of(file: Path, case: str, n: int) -> list[Row]:
    """Return the rows of a case, in the order of measurement."""
    return [row for row in read_lines(file) if (row["case"], row["n"]) == (case, n)]


def table(rows: list[Row]) -> str:
    """Return the Markdown table of a case; passes are for each image, yields for each attack.

    ``over`` is robust accuracy minus that of our newest `standard`, in points; ``gained`` and ``missed`` count images that
    this program broke and pyautoattack did not, and the reverse; ``times fewer`` is pyautoattack's passes over this one's.
    """
    names = "robust", "over", "gained", "missed", "forwards", "backwards", "times fewer", "CPU s"
    head = " | ".join(["| program", *names, "attack: broken of tried, passes |"])
    base = _last(rows, lambda row: row["program"] == REFERENCE)
    standard = _last(rows, lambda row: "-standard@" in row["program"])
    return "\n".join([head, "|" + "---|" * 10, *(_line(row, base, standard) for row in rows)])


def _line(row: Row, base: Row | None, standard: Row | None) -> str:
    n, gained, missed, fewer, over = row["n"], "-", "-", "-", "-"
    if base:
        pairs = list(zip(row["broken"], base["broken"], strict=True))
        gained, missed = str(pairs.count((1, 0))), str(pairs.count((0, 1)))
        fewer = f"{_passes(base) / _passes(row):.1f}"
    if standard:
        over = f"{100 * (row['robust_accuracy'] - standard['robust_accuracy']):+.1f}"
    stages = ", ".join(
        f"{name}: {s['broken']} of {s['tried']}, {_passes(s) / n:,.0f}"
        for name, s in row["stages"].items()
        if s["tried"]
    )
    passes = f"{row['forwards'] / n:,.0f} | {row['backwards'] / n:,.0f}"
    return (
        f"| {row['program']} | {row['robust_accuracy']:.1%} | {over} | {gained} | {missed} | {passes} | {fewer} "
        f"| {row['cpu_seconds']:,.0f} | {stages} |"
    )


def _passes(row: Row) -> int:
    return int(row["forwards"] + row["backwards"])


def _last(rows: list[Row], wanted: Callable[[Row], bool]) -> Row | None:
    return next((row for row in reversed(rows) if wanted(row)), None)


def page(file: Path) -> str:
    """Return the tables of every case that the file holds."""
    known = dict.fromkeys((row["case"], row["n"]) for row in read_lines(file))
    parts = []
    for case, n in known:
        rows = rows_of(file, case, n)
        clean = rows[0]["clean_accuracy"]
        parts.append(f"## {case}, {n} images, clean {clean:.1%}\n\n{table(rows)}\n")
    return "\n".join(parts)


def clean_accuracy(case: Case) -> float:
    """Return the share of the images that the network classifies correctly."""
    with torch.no_grad():
        return float((case.model(case.x).argmax(1) == case.y).float().mean())


def main() -> None:
    """Read the command line, run what the file does not hold yet, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", default=list(CASES), help="network/norm:eps")
    parser.add_argument("--program", nargs="+", default=list(PROGRAMS), help=f"{REFERENCE} or protocols")
    parser.add_argument("--n", type=int, help="test images; 200 by default, 100 of cifar10-jpeg")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=networks.KEPT / "protocols.jsonl")
    parser.add_argument("--peers", type=Path, default=peers.FOLDER, help="environment of pyautoattack, made if absent")
    options = parser.parse_args()
    if REFERENCE in options.program:
        peers.enter(options.peers)
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        for text in options.case:
            run_case(text, options)
    except AdvregError as error:
        sys.exit(str(error))
    print(page(options.out))


def run_case(text: str, options: argparse.Namespace) -> None:
    """Run on one case what the file does not hold yet."""
    n = options.n or CASES.get(text, 200)
    threat = advreg.ThreatModel.parse(text.partition("/")[2])
    known = {row["program"] for row in rows_of(options.out, text, n)}
    missing = {program_id(program, threat): program for program in options.program}
    missing = {name: program for name, program in missing.items() if name not in known}
    case = case_of(text, n) if missing else None
    for name, program in missing.items():
        print(f"{name} on {text}, {n} images ...", file=sys.stderr, flush=True)
        row = measured(name, case, work_of(program, threat))
        append_lines(options.out, [{**row, "clean_accuracy": clean_accuracy(case)}])
        write_atomic(options.out.with_suffix(".md"), page(options.out).encode())


if __name__ == "__main__":
    main()
