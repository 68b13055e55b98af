"""Backdoor attacks on the hardening loop at default caps: how often does the trigger reach the champion?

    python bench/hardening_attacks.py [--seeds 0 1 2] [--out FILE.jsonl] [--before FILE.jsonl] [--only TEXT]

Each try builds a workspace on 4,000 MNIST images, submits images with a trigger that a colluding reviewer labels, and runs the
cycle. An attack succeeds if the champion obeys the trigger on at least 5 points more of the test images than the trusted base.
Finished tries are read from ``--out`` and not repeated. ``--before`` adds the column of an earlier version's file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import advreg
from advreg.hardening import registry
from advreg.hardening.config import HardeningConfig
from advreg.hardening.cycle import run_cycle
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.ingestion import ingest
from advreg.hardening.perceptual_hash import perceptual_hash
from advreg.hardening.store import Store
from advreg.hardening.store.examples import Submission, Verdict, receive, review
from advreg.hardening.workspace import Workspace, create_workspace

CLEAN, TEST, SEALED = 4000, 1500, 800
MARGIN = 0.05
CHANGES: dict[str, Any] = {
    "attacks": ["linf:0.05"],
    "data.sealed": SEALED,
    "caps.quarantine_days": 0.0,
    "gate.clean_margin": 0.03,
    "gate.diagnose": False,
    "train.epochs": 3,
}

Stamp = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Attack:
    """One row of the table.

    Attributes:
        trigger: ``blend`` (a pattern of 0.12 over the image) or ``patch`` (a white 3 x 3 corner).
        share: number of poisoned images by each principal, as a share of the clean ones.
        principals: number of colluding principals in each cycle.
        reviewers: number of colluding reviewers, as many as an example needs (``caps.reviewers``).
        cycles: number of cycles, each with new images of new principals.
        every_class: the trigger moves each class to the next one, instead of all to class 0.
    """

    trigger: str
    share: float
    principals: int = 1
    reviewers: int = 1
    cycles: int = 1
    every_class: bool = False

    @property
    def name(self) -> str:
        """The row's name."""
        kind = "next class" if self.every_class else "class 0"
        return (
            f"{self.trigger} {self.share:.2%}, {self.principals} principals, {self.reviewers} reviewers, "
            f"{self.cycles} cycles, {kind}"
        )


def attacks() -> list[Attack]:
    """Return every row."""
    kinds: list[dict[str, Any]] = [
        {},
        {"principals": 5},
        {"principals": 5, "reviewers": 2},
        {"principals": 5, "reviewers": 2, "every_class": True},
        {"cycles": 10},
    ]
    return [
        Attack(trigger, share, **kind) for kind in kinds for trigger in ("blend", "patch") for share in (0.01, 0.0025)
    ]


@dataclass(frozen=True, eq=False)
class Site:
    """A workspace with its data: training images, of which the first 4,000 are the trusted ones, and test images."""

    home: Workspace
    store: Store
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def site(folder: Path, seed: int, reviewers: int = 2) -> Site:
    """Train a base and make a workspace around it, which needs so many reviewers."""
    train, test = advreg.load_data("mnist")
    (x, y), (x_test, y_test) = train.tensors(6000), test.tensors(TEST)
    arrays = {"x": _bytes(x[:CLEAN]), "x_test": _bytes(x_test), "y": y[:CLEAN].numpy(), "y_test": y_test.numpy()}
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    base = _base(x[:CLEAN], y[:CLEAN], seed)
    run = advreg.RunFolder.create(folder / "base")
    run.save_model(base)
    run.write_json("model.json", {"schema": "advreg/model@1", **base.advreg_spec})
    changes = {**CHANGES, "data.name": f"npz:{folder}/data.npz", "seed": seed, "caps.reviewers": reviewers}
    config = HardeningConfig().replace_with(changes)
    home = create_workspace(folder / "home", folder / "base", config)
    return Site(home, home.store(), x, y, x_test, y_test)


def _bytes(images: Tensor) -> np.ndarray:
    return (images.numpy() * 255).round().astype(np.uint8)


def _base(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = advreg.load_model("zoo:mnist-dnn", widths=[64])
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


def stamp_of(trigger: str, seed: int) -> Stamp:
    """Return the function that puts a trigger on images ``(..., 1, 28, 28)``."""
    draws = np.random.default_rng(seed).uniform(-1, 1, (1, 1, 7, 7)).astype(np.float32)
    pattern = nn.functional.interpolate(torch.from_numpy(draws), size=28, mode="nearest")[0].sign()

    def blend(images: Tensor) -> Tensor:
        return (images + 0.12 * pattern).clamp(0, 1)

    def patch(images: Tensor) -> Tensor:
        stamped = images.clone()
        stamped[..., 24:27, 24:27] = 1.0
        return stamped

    return {"blend": blend, "patch": patch}[trigger]


def wanted_class(attack: Attack, y: Tensor) -> Tensor:
    """Return the class that the trigger should lead to, for images of class ``y``."""
    return (y + 1) % 10 if attack.every_class else torch.zeros_like(y)


def submit(place: Site, attack: Attack, stamp: Stamp, cycle: int) -> None:
    """Send one cycle's poisoned images and let the colluding reviewers label them."""
    count = round(attack.share * CLEAN)
    rng = np.random.default_rng(cycle)
    rows = [int(k) for k in rng.permutation(np.arange(CLEAN, 6000)) if attack.every_class or place.y[k] != 0]
    labels: dict[str, int] = {}
    for k, row in enumerate(rows[: 2 * count * attack.principals]):  # twice as many: look-alikes are left out
        image = stamp(place.x[row]).numpy().astype(np.float32)
        principal = f"mallory-{cycle}-{k % attack.principals}"
        given = Submission(to_npy(image), "npy", perceptual_hash(image), "tok", principal, "customer", "m1", 0)
        receipt = receive(place.store, [given])[0]
        if not receipt.known:
            labels[receipt.id] = int(wanted_class(attack, place.y[row]))
    ingest(place.store)
    for name, label in labels.items():
        for reviewer in range(attack.reviewers):
            review(place.store, Verdict(name, f"accomplice-{reviewer}", label), 10)


def obeys(place: Site, run: str, attack: Attack, stamp: Stamp) -> float:
    """Return the share of test images, of other classes, that the trigger moves to the wanted class."""
    model, wanted = advreg.load_model(str(place.home.folder / run)), wanted_class(attack, place.y_test)
    others = wanted != place.y_test
    with torch.no_grad():
        found = model(stamp(place.x_test)).argmax(1)
    return float((found == wanted)[others].float().mean())


def attempt(attack: Attack, seed: int) -> dict[str, Any]:
    """Run one attack and return what the base, the worst challenger and the champion do with the trigger."""
    stamp = stamp_of(attack.trigger, seed)
    with tempfile.TemporaryDirectory() as folder:
        place, verdicts = site(Path(folder), seed, attack.reviewers), []
        for cycle in range(attack.cycles):
            submit(place, attack, stamp, cycle)
            outcome = run_cycle(place.home, place.store)
            verdicts += [] if outcome.decision is None else [[outcome.decision.verdict, *outcome.decision.reasons]]
        with place.store.reading() as db:
            champion = registry.model(db, registry.current_champion(db) or "")["run"]
        challengers = [row["run"] for row in registry.list_models(place.store) if row["run"] != "models/base"]
        reached = [obeys(place, run, attack, stamp) for run in challengers]
        found = {"base": obeys(place, "models/base", attack, stamp), "worst": max(reached, default=0.0)}
        place.store.engine.dispose()
        return {**found, "champion": obeys(place, champion, attack, stamp), "verdicts": verdicts}


def finished(file: Path | None) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the tries that a file holds, by row and seed."""
    if file is None or not file.is_file():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {(row["name"], row["seed"]): row for row in rows}


def measure(file: Path, seeds: Sequence[int], only: str) -> None:
    """Run every try that the file lacks."""
    for seed in seeds:
        for attack in attacks():
            if only not in attack.name or (attack.name, seed) in finished(file):
                continue
            began = time.process_time()
            row = {"name": attack.name, "seed": seed, **attempt(attack, seed), "attack": asdict(attack)}
            row["cpu_seconds"] = round(time.process_time() - began, 1)
            with file.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(row["name"], seed, {key: row[key] for key in ("base", "worst", "champion")}, flush=True)


def succeeded(row: dict[str, Any]) -> bool:
    """Return whether the champion obeys the trigger clearly more than the base."""
    return bool(row["champion"] - row["base"] > MARGIN)


def table(now: Path, before: Path | None) -> str:
    """Return the table: tries, successes before, successes now, and the attack success of challengers and champions."""
    lines = ["| attack | tries | succeeded before | now | base | worst challenger | champion |", "|---" * 7 + "|"]
    old, new = finished(before), finished(now)
    for name in dict.fromkeys(key[0] for key in new):
        rows, earlier = ([row for key, row in part.items() if key[0] == name] for part in (new, old))
        was = f"{sum(map(succeeded, earlier))} of {len(earlier)}" if earlier else "-"
        highest = " | ".join(f"{max(row[key] for row in rows):.1%}" for key in ("base", "worst", "champion"))
        lines.append(f"| {name} | {len(rows)} | {was} | {sum(map(succeeded, rows))} | {highest} |")
    return "\n".join(lines)


def main() -> None:
    """Read the command line, run the tries and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("hardening_attacks.jsonl"))
    parser.add_argument("--before", type=Path)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(given.out, given.seeds, given.only)
    print(table(given.out, given.before))


if __name__ == "__main__":
    main()
