"""Ten cycles of the hardening loop under traffic of which 2% is poisoned: what does the champion learn, what does it obey?

    python bench/hardening_simulation.py [--seeds 0] [--cycles 10] [--out FILE.jsonl]

Each cycle brings 200 MNIST images: 4 with a trigger (2 blended, 2 patches), 40 attacks on the champion of the moment, the rest
harmless. The perturbations that the loop trains against grow after the third and the sixth cycle. Scenarios differ in the
reviewers of the poisoned images:

    honest        the usual two reviewers, who see the true class, and an accomplice who votes for the wanted one
    accomplice    one accomplice alone, where one reviewer's label is enough (`caps.reviewers = 1`)
    accomplices   two accomplices alone, which is all that an example needs
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench.hardening_attacks import CLEAN, SEALED, TEST, Site, site, stamp_of
from torch import Tensor

import advreg
from advreg.hardening import registry
from advreg.hardening.attack_families import THREAT, families, protocol
from advreg.hardening.cycle import run_cycle
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.ingestion import ingest, queue
from advreg.hardening.perceptual_hash import perceptual_hash
from advreg.hardening.store.examples import Submission, Verdict, receive, review
from advreg.hardening.workspace import Workspace

TRAFFIC, POISONED, ATTACKED = 200, 4, 40
ERRORS = 0.02
EPS = (0.02, 0.035, 0.05)
CYCLES_PER_EPS = 3
TRIGGERS = ("blend", "patch")
HONEST, ACCOMPLICES = ("rae", "sam"), ("accomplice-0", "accomplice-1")
REVIEWERS = {"honest": 2, "accomplice": 1, "accomplices": 2}


@dataclass
class Traffic:
    """What was sent, for the reviewers: example -> true class, and those with a trigger."""

    truth: dict[str, int] = field(default_factory=dict)
    poisoned: set[str] = field(default_factory=set)


def champion_of(place: Site) -> Any:
    """Return the model of the champion."""
    with place.store.reading() as db:
        run = registry.model(db, registry.current_champion(db) or "")["run"]
    return advreg.load_model(str(place.home.folder / run))


def send(place: Site, traffic: Traffic, cycle: int, seed: int) -> None:
    """Send the images of one cycle for thirty users of a relay; the poisoned ones come from a new user each cycle."""
    rng = np.random.default_rng([seed, cycle])
    rows = torch.from_numpy(rng.choice(np.arange(CLEAN, 6000), TRAFFIC, replace=False))
    x, y = place.x[rows].clone(), place.y[rows]
    others = (y != 0).nonzero()[:POISONED, 0]
    for k, row in enumerate(others.tolist()):
        x[row] = stamp_of(TRIGGERS[k % 2], seed)(x[row])
    rest = [row for row in range(TRAFFIC) if row not in set(others.tolist())]
    found = advreg.pgd(champion_of(place), x[rest[:ATTACKED]], y[rest[:ATTACKED]], advreg.ThreatModel("linf", 0.05))
    x[rest[:ATTACKED]] = found.x_adv
    with torch.no_grad():
        predicted = champion_of(place)(x).argmax(1)
    for row in range(TRAFFIC):
        poisoned = row in others.tolist()
        principal = f"tok/mallory-{cycle}" if poisoned else f"tok/user-{rng.integers(30)}"
        image = x[row].numpy().astype(np.float32)
        facts = ("npy", perceptual_hash(image), "tok", principal, "customer", "m1", int(predicted[row]))
        receipt = receive(place.store, [Submission(to_npy(image), *facts)])[0]
        if not receipt.known:
            traffic.truth[receipt.id] = int(y[row])
            traffic.poisoned |= {receipt.id} if poisoned else set()
    ingest(place.store)


def votes(scenario: str, name: str, traffic: Traffic, rng: np.random.Generator) -> Iterator[tuple[str, int]]:
    """Yield who labels an example, and as what."""
    poisoned = name in traffic.poisoned
    if poisoned:
        for accomplice in ACCOMPLICES[: 2 if scenario == "accomplices" else 1]:
            yield accomplice, 0
    if not poisoned or scenario == "honest":
        for reviewer in HONEST[: REVIEWERS[scenario]]:
            wrong = rng.random() < ERRORS
            yield reviewer, int(rng.integers(10)) if wrong else traffic.truth[name]


def label(place: Site, scenario: str, traffic: Traffic, rng: np.random.Generator) -> None:
    """Review what the queue shows, and every poisoned example."""
    shown = {row["sha256"] for row in queue(place.store, "rae", limit=10_000)}
    with place.store.reading() as db:
        seen = {row[0] for row in db.exec_driver_sql("SELECT DISTINCT example FROM reviews")}
    for name in sorted((shown | traffic.poisoned) - seen):
        for reviewer, chosen in votes(scenario, name, traffic, rng):
            review(place.store, Verdict(name, reviewer, chosen), 10)


def measured(place: Site, seed: int) -> dict[str, float]:
    """Return the champion's clean and robust accuracy, and its obedience to each trigger, on images that no gate has used."""
    model, x, y = champion_of(place), place.x_test[SEALED:], place.y_test[SEALED:]
    chosen = protocol(families([f"linf:{EPS[-1]}"]), SEALED, TEST)
    found = advreg.evaluate(model, (x, y), threat=THREAT, protocol=chosen, seed=seed)
    return {"clean": found.clean_accuracy, "robust": found.robust_accuracy, **obedience(model, x[y != 0], seed)}


def obedience(model: Any, x: Tensor, seed: int) -> dict[str, float]:
    """Return the share of the images that each trigger moves to class 0."""
    with torch.no_grad():
        return {name: float((model(stamp_of(name, seed)(x)).argmax(1) == 0).float().mean()) for name in TRIGGERS}


def simulate(scenario: str, seed: int, cycles: int) -> Iterator[dict[str, Any]]:
    """Yield the state of the loop before the first cycle and after each one."""
    rng, traffic = np.random.default_rng(seed), Traffic()
    with tempfile.TemporaryDirectory() as folder:
        place = site(Path(folder), seed, REVIEWERS[scenario])
        found = measured(place, seed)
        yield {"cycle": 0, "verdict": "", **found}
        for cycle in range(1, cycles + 1):
            send(place, traffic, cycle, seed)
            label(place, scenario, traffic, rng)
            eps = EPS[min((cycle - 1) // CYCLES_PER_EPS, len(EPS) - 1)]
            home = Workspace(place.home.folder, place.home.config.replace_with({"attacks": [f"linf:{eps}"]}))
            outcome = run_cycle(home, place.store)
            decision = outcome.decision
            verdict = "" if decision is None else "; ".join([decision.verdict, *decision.reasons])
            found = measured(place, seed) if verdict == "PROMOTE" else found
            yield {"cycle": cycle, "champion": outcome.champion, "verdict": verdict, **found}
        place.store.engine.dispose()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the cycles of each scenario, mean over its seeds."""
    lines = ["| scenario | cycle | clean | robust | blend | patch | promoted |", "|---" * 7 + "|"]
    for key in dict.fromkeys((row["scenario"], row["cycle"]) for row in rows):
        mine = [row for row in rows if (row["scenario"], row["cycle"]) == key]
        means = " | ".join(
            f"{np.mean([row[name] for row in mine]):.1%}" for name in ("clean", "robust", "blend", "patch")
        )
        promoted = sum(row["verdict"].startswith("PROMOTE") for row in mine)
        lines.append(f"| {key[0]} | {key[1]} | {means} | {promoted} of {len(mine)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--scenarios", nargs="+", choices=tuple(REVIEWERS), default=list(REVIEWERS))
    parser.add_argument("--out", type=Path, default=Path("hardening_simulation.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in given.seeds:
        for scenario in given.scenarios:
            for state in simulate(scenario, seed, given.cycles):
                rows.append({"scenario": scenario, "seed": seed, **state})
                with given.out.open("a") as out:
                    out.write(json.dumps(rows[-1]) + "\n")
                print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
