"""Recipes of adversarial training side by side: how robust within a cap of time, what a step costs, what the guard saves.

    python bench/training.py recipes [--minutes 5] [--seeds 1] [--only NAME ...] [--network mnist-small] [--n 500]
    python bench/training.py cifar [--minutes 10] [--seeds 1] [--only N-FGSM PGD-2 TRADES] [--width 0.25] [--n 500]
    python bench/training.py cost [--repeats 5] [--only NAME ...]
    python bench/training.py guard [--seeds 3]

`recipes` trains each on MNIST at linf 0.3 for as many epochs as fit into the cap on this machine, then evaluates with PGD-40
and `standard`; `cifar` does so at linf 8/255 with a narrow preact-resnet18 on cifar10-jpeg. `cost` times steps of training,
interleaved, beside the count of forwards and backwards. `guard` provokes catastrophic overfitting and lets the guard warn or
repair. Training runs in bfloat16 (`--precision float32` for the other), and so do the attacks of an evaluation: they propose,
the network in float32 decides. With `--threads 1`, several can run side by side, one a core; the cap is then one of processor
time. Results are appended to a file as they come; what it holds is not run again.
"""

from __future__ import annotations

import argparse
import re
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
import cifar10_jpeg
import networks
from advreg import runtime
from advreg.config import Config
from advreg.runs.files import append_lines, read_lines
from advreg.training import Moment, prepare, take_step
from advreg.training.dry_run import estimated_seconds
from compare import interleaved, ratios

Row = dict[str, Any]

COMMON = (
    "schedule.name=triangular", "train.batch_size=128", "train.validation_steps=10", "train.channels_last=true",
    "attack.name=pgd", "attack.steps=10", "recipe.name=madry",
)  # fmt: skip
MNIST = (
    *COMMON,
    "data.name=mnist",
    "data.validation=500",
    "threat.eps=0.3",
    "policy.name=warmup",  # at the full eps from the first step, most of them never begin to learn
    "optimizer.name=adam",
    "optimizer.lr=2e-3",
)
THREATS = {"recipes": 0.3, "cifar": 8 / 255}
CIFAR = (
    *COMMON, "model.name=zoo:preact-resnet18", "model.options.mean=[0.4914,0.4822,0.4465]",
    "model.options.std=[0.2470,0.2435,0.2616]", f"data.name=npz:{networks.KEPT / 'cifar10-jpeg.npz'}", "data.validation=500",
    "data.augment=crop-flip", "threat.eps=8/255", "optimizer.name=sgd", "optimizer.lr=0.2", "optimizer.weight_decay=5e-4",
)  # fmt: skip
RECIPES: dict[str, tuple[str, ...]] = {
    "standard": ("attack.name=none", "recipe.name=standard", "policy.name=fixed"),
    "RS-FGSM": ("attack.name=fgsm",),
    "N-FGSM": ("attack.name=n-fgsm",),
    "FGSM-PGI": ("attack.name=stored", "recipe.name=pgi"),
    "free": ("attack.name=none", "recipe.name=free", "policy.options.share=0.5"),
    "GradAlign": ("attack.name=fgsm", "attack.start=zero", "recipe.name=gradalign"),
    "PGD-2": ("attack.steps=2",),
    "PGD-7": ("attack.steps=7",),
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
"""What each changes in `MNIST` or `CIFAR`."""

PROVOKED = (
    "model.name=zoo:mnist-small", "data.name=mnist", "data.validation=500", "train.validation_steps=10", "threat.eps=0.3",
    "attack.name=fgsm", "attack.start=zero", "recipe.name=madry", "optimizer.name=adam", "optimizer.lr=2e-3",
    "train.epochs=2", "train.guard_every=20", "train.channels_last=true",
    "policy.name=warmup", "policy.options.share=0.4",
)  # fmt: skip


def configured(*changes: str) -> Config:
    """Return a configuration that starts from the defaults."""
    return Config().replace_with(list(changes))


def on_mnist(name: str, options: argparse.Namespace) -> Config:
    """Return the run of this recipe on MNIST, but for how long it is."""
    network = f"model.name=zoo:{options.network}"
    return configured(*MNIST, network, *RECIPES[name], f"train.precision={options.precision}", *options.set)


def on_cifar(name: str, options: argparse.Namespace) -> Config:
    """Return the run of this recipe on cifar10-jpeg, which is decoded at the first use."""
    file = networks.KEPT / "cifar10-jpeg.npz"
    if not file.is_file():
        cifar10_jpeg.convert(file)
    width = f"model.options.width={options.width}"
    return configured(*CIFAR, width, *RECIPES[name], f"train.precision={options.precision}", *options.set)


def epochs_within(minutes: float, config: Config) -> int:
    """Return how many epochs fit into the minutes, counted in processor time of each thread: a busy machine changes nothing."""
    session = prepare(config)
    cpu, wall = time.process_time(), time.perf_counter()
    seconds = estimated_seconds(session, 1)
    used = (time.process_time() - cpu) / (time.perf_counter() - wall) / torch.get_num_threads()
    return max(1, int(60 * minutes / (seconds * used)))


def key(name: str, seed: int, options: argparse.Namespace) -> Row:
    """Return what tells one measurement from another."""
    size = {"recipes": options.network, "cifar": options.width}[options.part]
    wish = {"minutes": options.minutes, "threads": options.threads, "precision": options.precision, "n": options.n}
    return {"bench": options.part, "name": name, "size": size, **wish, "set": " ".join(options.set), "seed": seed}


def trained(name: str, seed: int, plain: Config, options: argparse.Namespace) -> Row:
    """Train within the cap, evaluate on the first test images."""
    epochs = epochs_within(options.minutes, plain)
    folder = (
        networks.KEPT / "training" / re.sub(r"[^\w.=]+", "-", "-".join(map(str, key(name, seed, options).values())))
    )
    shutil.rmtree(folder, ignore_errors=True)
    cpu, wall = time.process_time(), time.perf_counter()
    run = advreg.fit(plain.replace_with([f"seed={seed}", f"train.epochs={epochs}", f"train.out={folder}"]))
    spent = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    model, test = advreg.load_model(str(run.path)), advreg.load_data(plain.data.name)[1]
    threat = advreg.ThreatModel("linf", THREATS[options.part])
    found = {
        p: advreg.evaluate(model, test, threat=threat, protocol=p, n=options.n, precision="bfloat16", out=folder)
        for p in ("quick", "standard")
    }
    return {
        "clean": found["quick"].clean_accuracy,
        "pgd": found["quick"].robust_accuracy,
        "standard": found["standard"].robust_accuracy,
        "protocol": found["standard"].protocol,
        "epochs": epochs,
        **spent,
    }


def guarded(mode: str, seed: int, options: argparse.Namespace) -> Row:
    """Provoke catastrophic overfitting; return accuracy under PGD-40 of what is left at the end."""
    folder = networks.KEPT / "training" / f"guard-{mode}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    own = (f"train.precision={options.precision}", f"train.guard={mode}", f"train.out={folder}", f"seed={seed}")
    plain, cpu = configured(*PROVOKED, *own, *options.set), time.process_time()
    run = advreg.fit(plain)
    seconds = time.process_time() - cpu
    model, threat = advreg.load_model(str(run.path), weights=run / "last.safetensors"), plain.threat
    found = advreg.evaluate(
        model, advreg.load_data("mnist")[1], threat=advreg.ThreatModel("linf", threat.eps), protocol="basic", n=1000
    )
    repairs = sum("rolled back" in str(record.get("action", "")) for record in run.read_log("metrics.jsonl"))
    by = {attack.name: attack.robust_accuracy for attack in found.by_attack}
    figures = {"clean": found.clean_accuracy, "fgsm": by["fgsm"], "pgd": found.robust_accuracy}
    return {**figures, "repairs": repairs, "seconds": seconds}


def steps_of(name: str, count: int, options: argparse.Namespace) -> Callable[[int], tuple[float, int, int]]:
    """Return what takes ``count`` steps of training and says how long an example took, and its passes."""
    session = prepare(on_mnist(name, options))
    batches = list(zip(range(count), session.batches.epoch(1), strict=False))
    session.model.train()

    def work(_: int) -> tuple[float, int, int]:
        begin, forwards, backwards = time.process_time(), 0, 0
        for k, batch in batches:
            tally = take_step(session, batch, Moment(1, k, count))
            forwards, backwards = forwards + tally.forwards, backwards + tally.backwards
        return time.process_time() - begin, forwards, backwards

    return work


def cost_table(options: argparse.Namespace) -> list[str]:
    """Return the table of processor time a step, as a ratio to standard training, beside the count in units of a pass."""
    names = ["standard", *(name for name in options.only if name not in ("standard", "free"))]
    done = interleaved({name: steps_of(name, 4, options) for name in names}, options.repeats + 1)
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
    """Return the table of recipes, on MNIST or on cifar10-jpeg: mean over the seeds, and their range under `standard`."""
    configure = on_mnist if options.part == "recipes" else on_cifar
    lines = [
        "| recipe | clean | PGD-40 | standard | lowest - highest | epochs | seconds | processor | n, seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in options.only:
        plain = configure(name, options)
        rows = [
            kept(options.out, key(name, seed, options), partial(trained, name, seed, plain, options))
            for seed in range(options.first, options.first + options.seeds)
        ]
        mean = {k: statistics.fmean(row[k] for row in rows) for k in ("clean", "pgd", "standard")}
        took = " | ".join(
            f"{statistics.fmean(row[k] for row in rows):.0f}" for k in ("epochs", "seconds", "cpu_seconds")
        )
        spread = f"{min(row['standard'] for row in rows):.1%} - {max(row['standard'] for row in rows):.1%}"
        figures = " | ".join(f"{value:.2%}" for value in mean.values())
        lines.append(f"| {name} | {figures} | {spread} | {took} | {options.n}, {len(rows)} |")
    return lines


def guard_table(options: argparse.Namespace) -> list[str]:
    """Return the table of the guard, a row for each seed."""
    lines = ["| guard | seed | clean | FGSM | PGD | repairs | seconds |", "|---|---|---|---|---|---|---|"]
    for mode in ("off", "warn", "repair"):
        for seed in range(options.first, options.first + options.seeds):
            wish = {
                "bench": "guard",
                "mode": mode,
                "seed": seed,
                "precision": options.precision,
                "set": " ".join(options.set),
            }
            row = kept(options.out, wish, partial(guarded, mode, seed, options))
            figures = " | ".join(f"{row[k]:.1%}" for k in ("clean", "fgsm", "pgd"))
            lines.append(f"| {mode} | {seed} | {figures} | {row['repairs']} | {row['seconds']:.0f} |")
    return lines


TABLES = {"recipes": recipes_table, "cifar": recipes_table, "cost": cost_table, "guard": guard_table}
ONLY = {"cifar": ["N-FGSM", "PGD-2", "TRADES"]}


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=TABLES)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=500, help="test images")
    parser.add_argument("--network", default="mnist-small", help="of the zoo, for MNIST")
    parser.add_argument("--width", type=float, default=0.25, help="of the preact-resnet18, for cifar10-jpeg")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default="bfloat16", help="of training")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--only", nargs="+", choices=RECIPES)
    parser.add_argument("--out", type=Path, default=networks.KEPT / "training.jsonl")
    options = parser.parse_args()
    options.only = options.only or ONLY.get(options.part, list(RECIPES))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    print("\n".join(TABLES[options.part](options)))
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {runtime.environment()['cpu']}")


if __name__ == "__main__":
    main()
