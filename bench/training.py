"""Recipes of adversarial training side by side: how robust within a cap of time, what a step costs, what the guard saves.

    python bench/training.py recipes [--minutes 5] [--seeds 1] [--only NAME ...] [--n 500]
    python bench/training.py cost [--repeats 5]
    python bench/training.py guard [--seeds 3]

`recipes` trains each on MNIST at linf 0.3 for as many epochs as fit into the cap on this machine, then evaluates with PGD-40
and `strong`. `cost` times steps of training, interleaved, beside the count of forwards and backwards. `guard` provokes
catastrophic overfitting and lets the guard warn or repair. Results are appended to a file as they come; what it holds is not
run again.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import advreg
import networks
from advreg import runtime
from advreg.config import Config
from advreg.runs.files import append_lines, read_lines
from advreg.training.estimate import estimated_seconds
from advreg.training.policies import Moment
from advreg.training.session import prepare
from advreg.training.step import take_step
from compare import interleaved, ratios

Row = dict[str, Any]

BASE = (
    "model.name=zoo:mnist-small", "data.name=mnist", "threat.eps=0.3", "optimizer.name=adam", "optimizer.lr=2e-3",
    "schedule.name=triangular", "train.batch_size=128", "attack.name=pgd", "attack.steps=10", "recipe.name=madry",
)  # fmt: skip
RECIPES: dict[str, tuple[str, ...]] = {
    "standard": ("attack.name=none", "recipe.name=standard"),
    "RS-FGSM": ("attack.name=fgsm",),
    "N-FGSM": ("attack.name=n-fgsm",),
    "FGSM-PGI": ("attack.name=stored", "recipe.name=pgi"),
    "free": ("attack.name=none", "recipe.name=free"),
    "GradAlign": ("attack.name=fgsm", "attack.start=zero", "recipe.name=gradalign"),
    "PGD-2": ("attack.steps=2",),
    "PGD-10": (),
    "PGD-10, EMA": ("average.name=ema",),
    "PGD-10, AWP": ("train.awp=0.01",),
    "mixed": ("recipe.name=mixed",),
    "multiplier": ("recipe.name=multiplier", "attack.name=fgsm", "attack.start=zero"),
    "TRADES": ("recipe.name=trades", "attack.start=gaussian"),
    "MART": ("recipe.name=mart",),
    "ALP": ("recipe.name=alp",),
    "IAAT": ("policy.name=iaat",),
    "friendly": ("policy.name=friendly",),
}
"""What each changes in `BASE`."""

PROVOKED = (
    "model.name=zoo:mnist-small", "data.name=mnist", "data.validation=57000", "threat.eps=0.2", "attack.name=fgsm",
    "attack.start=zero", "recipe.name=madry", "optimizer.name=adam", "optimizer.lr=2e-3", "train.epochs=5",
    "train.batch_size=50", "train.guard_every=20", "train.validation_steps=1",
)  # fmt: skip


def configured(*changes: str) -> Config:
    """Return a configuration that starts from the defaults."""
    return Config().replace_with(list(changes))


def recipe(name: str, seed: int, minutes: float, n: int) -> Row:
    """Train within the cap, evaluate on the first ``n`` test images."""
    plain = configured(*BASE, *RECIPES[name], f"seed={seed}")
    session = prepare(plain)
    epochs = max(1, int(60 * minutes / estimated_seconds(session, 1)))
    folder = networks.KEPT / "training" / f"{name.replace(' ', '')}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    cpu, wall = time.process_time(), time.perf_counter()
    run = advreg.fit(plain.replace_with([f"train.epochs={epochs}", f"train.out={folder}"]))
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    model, test = advreg.load_model(str(run.path)), advreg.load_data("mnist")[1]
    threat = advreg.ThreatModel("linf", 0.3)
    found = {p: advreg.evaluate(model, test, threat=threat, protocol=p, n=n) for p in ("quick", "strong")}
    return {
        "clean": found["quick"].clean_accuracy,
        "pgd": found["quick"].robust_accuracy,
        "strong": found["strong"].robust_accuracy,
        "strong_id": found["strong"].protocol,
        "epochs": epochs,
        **spent,
    }


def guarded(mode: str, seed: int) -> Row:
    """Provoke catastrophic overfitting on 3,000 images; return accuracy under PGD-40 of what is left at the end."""
    folder = networks.KEPT / "training" / f"guard-{mode}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    run = advreg.fit(configured(*PROVOKED, f"train.guard={mode}", f"train.out={folder}", f"seed={seed}"))
    model = advreg.load_model(str(run.path), weights=run / "last.safetensors")
    found = advreg.evaluate(
        model, advreg.load_data("mnist")[1], threat=advreg.ThreatModel("linf", 0.2), protocol="basic", n=1000
    )
    repairs = sum("rolled back" in str(record.get("action", "")) for record in run.read_log("metrics.jsonl"))
    by = {attack.name: attack.robust_accuracy for attack in found.by_attack}
    return {"clean": found.clean_accuracy, "fgsm": by["fgsm"], "pgd": found.robust_accuracy, "repairs": repairs}


def steps_of(name: str, count: int) -> Callable[[int], tuple[float, int, int]]:
    """Return what takes ``count`` steps of training and says how long an example took, and its passes."""
    session = prepare(configured(*BASE, *RECIPES[name]))
    batches = list(zip(range(count), session.batches.epoch(1), strict=False))
    session.model.train()

    def work(_: int) -> tuple[float, int, int]:
        begin, forwards, backwards = time.process_time(), 0, 0
        for k, batch in batches:
            tally = take_step(session, batch, Moment(1, k, count))
            forwards, backwards = forwards + tally.forwards, backwards + tally.backwards
        return time.process_time() - begin, forwards, backwards

    return work


def cost(repeats: int) -> list[str]:
    """Return the table of processor time a step, as a ratio to standard training, beside the count in units of a pass."""
    names = [name for name in RECIPES if name != "free"]
    done = interleaved({name: steps_of(name, 4) for name in names}, repeats + 1)
    base = [seconds for seconds, *_ in done["standard"][1:]]
    units = {name: 2 * rows[-1][1] + 4 * rows[-1][2] for name, rows in done.items()}
    lines = [
        "| recipe | time, as a ratio to standard | passes, the same | forwards | backwards |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        measured = ratios([seconds for seconds, *_ in done[name][1:]], base)
        _, forwards, backwards = done[name][-1]
        each = f"{forwards / (4 * 128):.1f} | {backwards / (4 * 128):.1f}"
        lines.append(f"| {name} | {measured:.2f} | {units[name] / units['standard']:.2f} | {each} |")
    return lines


def kept(out: Path, key: Row, work: Callable[[], Row]) -> Row:
    """Return the row of this key, from the file or measured now and appended to it."""
    for row in read_lines(out):
        if all(row.get(name) == value for name, value in key.items()):
            return row
    print(f"{key} ...", file=sys.stderr, flush=True)
    row = {**key, **work(), "environment": runtime.environment()}
    append_lines(out, [row])
    return row


def recipes_table(options: argparse.Namespace) -> list[str]:
    """Return the table of recipes: mean over the seeds."""
    lines = ["| recipe | clean | PGD-40 | strong | epochs | seconds | n, seeds |", "|---|---|---|---|---|---|---|"]
    for name in options.only:
        key = {"bench": "recipe", "name": name, "minutes": options.minutes, "n": options.n}
        rows = [
            kept(options.out, {**key, "seed": s}, partial(recipe, name, s, options.minutes, options.n))
            for s in range(options.seeds)
        ]
        mean = {k: statistics.fmean(row[k] for row in rows) for k in ("clean", "pgd", "strong", "epochs", "seconds")}
        figures = " | ".join(f"{mean[k]:.2%}" for k in ("clean", "pgd", "strong"))
        lines.append(
            f"| {name} | {figures} | {mean['epochs']:.0f} | {mean['seconds']:.0f} | {options.n}, {len(rows)} |"
        )
    return lines


def guard_table(options: argparse.Namespace) -> list[str]:
    """Return the table of the guard: mean over the seeds."""
    lines = ["| guard | clean | FGSM | PGD-40 | repairs | seeds |", "|---|---|---|---|---|---|"]
    for mode in ("off", "warn", "repair"):
        rows = [
            kept(options.out, {"bench": "guard", "mode": mode, "seed": s}, partial(guarded, mode, s))
            for s in range(options.seeds)
        ]
        means = " | ".join(f"{statistics.fmean(row[k] for row in rows):.2%}" for k in ("clean", "fgsm", "pgd"))
        lines.append(f"| {mode} | {means} | {sum(row['repairs'] for row in rows)} | {len(rows)} |")
    return lines


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("recipes", "cost", "guard"))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--out", type=Path, default=networks.KEPT / "training.jsonl")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    tables = {"recipes": recipes_table, "guard": guard_table, "cost": lambda options: cost(options.repeats)}
    print("\n".join(tables[options.part](options)))
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {runtime.environment()['cpu']}")


if __name__ == "__main__":
    main()
