"""One GPU, preact-resnet18, cifar10-jpeg, linf 8/255: seconds of training until `standard` leaves 45%, and until it leaves 50%.

    python bench/speedrun.py [--tier 45] [--seeds 5]
    python bench/speedrun.py --images 256 --epochs 1 --width 0.125 --batch-size 64 --n 8      # a miniature, on any machine

The clock runs while weights move: loading, compiling (some steps that are taken back) and measuring are not in it. Images lie
on the device as bytes, forwards run in bfloat16 and channels_last, the network is compiled where there is a GPU, and
`--compile reduce-overhead` adds CUDA graphs. No test image is looked at before the end, nothing is averaged over views of one,
and what is attacked is the network that is kept, in float32. A tier is reached where the mean over the seeds is above it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import advreg
import cifar10_jpeg
import networks
from advreg import runtime
from advreg.config import Config
from advreg.module_modes import train_mode
from advreg.runs.files import append_lines
from advreg.training import Moment, TrainState, prepare, take_step, warm_up

Row = dict[str, Any]

COMMON = (
    "model.name=zoo:preact-resnet18", "model.options.mean=[0.4914,0.4822,0.4465]", "model.options.std=[0.2470,0.2435,0.2616]",
    "data.validation=0", "data.augment=crop-flip", "threat.eps=8/255", "recipe.name=madry", "optimizer.name=sgd",
    "optimizer.weight_decay=5e-4", "optimizer.nesterov=true", "schedule.name=triangular", "average.name=ema",
    "train.precision=bfloat16", "train.channels_last=true", "train.guard=off", "train.drop_last=true",
)  # fmt: skip
TIERS = {
    "45": ("attack.name=n-fgsm", "recipe.options.label_smoothing=0.2", "optimizer.lr=0.3", "train.epochs=15"),
    "50": (
        "attack.name=pgd", "attack.steps=3", "recipe.options.label_smoothing=0.3", "optimizer.lr=0.2", "train.epochs=60",
        "average.options.decay=0.999",
    ),
}  # fmt: skip
"""Robust accuracy to reach in per cent, and what is tried for it: one step for 45, three for 50."""


def configured(seed: int, options: argparse.Namespace) -> Config:
    """Return the run of a tier; the images are decoded at the first use."""
    file = networks.KEPT / f"cifar10-jpeg-{options.images or 'all'}.npz"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        cifar10_jpeg.convert(file, n=options.images)
    own = [f"data.name=npz:{file}", f"seed={seed}", f"train.batch_size={options.batch_size}"]
    size = [f"model.options.width={options.width}"] + ([f"train.epochs={options.epochs}"] if options.epochs else [])
    return Config().replace_with([*COMMON, *TIERS[options.tier], *own, *size, *options.set])


def trained(session: TrainState) -> float:
    """Train; return the seconds it took."""
    epochs = session.config.train.epochs
    train_mode(session.model)
    warm_up(session)
    runtime.synchronize(session.device)
    begin = time.perf_counter()
    for epoch in range(1, epochs + 1):
        for step, batch in enumerate(session.batches.epoch(epoch)):
            take_step(session, batch, Moment(epoch, (epoch - 1) * session.steps + step, epochs * session.steps))
    runtime.synchronize(session.device)
    return time.perf_counter() - begin


def run(seed: int, options: argparse.Namespace) -> Row:
    """Train once and measure what is kept."""
    config = configured(seed, options)
    session = prepare(config)
    session = session if options.compile == "none" else session.compiled(options.compile)
    seconds = trained(session)
    model, test = session.eval_model.eval(), advreg.load_data(config.data.name)[1]
    threat = advreg.ThreatModel("linf", config.threat.eps)
    found = advreg.evaluate(model, test, threat=threat, protocol="standard", n=options.n)
    return {
        "bench": "speedrun", "tier": options.tier, "seed": seed, "seconds": seconds, "epochs": config.train.epochs,
        "clean": found.clean_accuracy, "robust": found.robust_accuracy, "n": found.n, "protocol": found.protocol,
        "images": options.images, "width": options.width, "compile": options.compile, "set": options.set,
        "environment": runtime.environment(),
    }  # fmt: skip


def summary(rows: list[Row], options: argparse.Namespace) -> list[str]:
    """Return the runs as a table, and what they say of the tier on this hardware."""
    lines = ["| seed | seconds | clean | standard | n |", "|---|---|---|---|---|"]
    lines += [f"| {r['seed']} | {r['seconds']:.1f} | {r['clean']:.2%} | {r['robust']:.2%} | {r['n']} |" for r in rows]
    robust, seconds = (statistics.fmean(row[key] for row in rows) for key in ("robust", "seconds"))
    passed = "reached" if robust >= int(options.tier) / 100 else "NOT reached"
    whole = options.images is None and options.width == 1.0 and options.n is None
    kind = "" if whole else "; a miniature, no result: fewer images, a narrower network or a part of the test set"
    made = runtime.environment()
    where = made["gpu"] or f"no GPU, {made['cores']} cores of {made['cpu']}"
    return [
        *lines,
        f"{options.tier}% under standard {passed}: mean {robust:.2%} after {seconds:.1f} s, {len(rows)} seeds{kind}",
        f"measured on {where}; torch {torch.__version__}, compile {options.compile}",
    ]


def main() -> None:
    """Read the command line, run the seeds, print the table."""
    there = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="45")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="other than the tier's")
    parser.add_argument("--images", type=int, help="the first images of each set; all by default")
    parser.add_argument("--width", type=float, default=1.0, help="of the preact-resnet18")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n", type=int, help="test images; all by default")
    modes = ("none", "default", "reduce-overhead", "max-autotune")
    parser.add_argument("--compile", choices=modes, default="default" if there else "none")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=networks.KEPT / "speedrun.jsonl")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = there
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in range(options.seeds):
        rows.append(run(seed, options))
        append_lines(options.out, rows[-1:])
    print("\n".join(summary(rows, options)))


if __name__ == "__main__":
    main()
