"""One GPU in a few minutes: agreement with the CPU, synchronisations, speed beside plain loops, and training to 45%.

    python bench/gpu.py [--only ceilings,agree,syncs,train,speed,evaluate] [--out FILE.jsonl]
    python bench/gpu.py --device cpu --small        # the script itself, on any machine

Every row is printed and appended as soon as it is measured, so that a run that is cut off keeps what it has. Rates are medians
of ``--rounds`` runs, the candidates interleaved, beside the card's own ceilings measured in the same process.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import advreg
import cifar10_jpeg
import networks
import speedrun
from advreg import runtime
from advreg.runs.files import append_lines, write_atomic
from advreg.training import Moment, TrainState, take_step

Row = dict[str, Any]
WEIGHTS = "gpu-resnet18.safetensors"
MEASURED = ("strong:bfloat16:10000", "strong:float32:1000")
EPS, STEP = 8 / 255, 2 / 255
ATTACKS: dict[str, Row] = {
    "pgd": {}, "apgd": {"steps": 30}, "fmn": {"steps": 30}, "fab": {"steps": 10, "restarts": 1}, "ddn": {"steps": 30},
    "deepfool": {}, "square": {"queries": 200},
}  # fmt: skip


def ceilings(o: argparse.Namespace) -> Iterator[Row]:
    """Yield the rate of a large bfloat16 matrix product and of a copy on this device."""
    size = 256 if o.small else 8192
    a = torch.randn(size, size, device=o.device, dtype=torch.bfloat16)
    seconds = median(o, {"product": lambda: a @ a})["product"]
    yield {"product_tflops": 2 * size**3 / seconds / 1e12}
    big = torch.empty(2**20 if o.small else 2**30, device=o.device)
    seconds = median(o, {"copy": big.clone})["copy"]
    yield {"copy_tb_s": 2 * 4 * big.numel() / seconds / 1e12}


def agree(o: argparse.Namespace) -> Iterator[Row]:
    """Yield, for each attack and norm, how many of the verdicts on the device equal those on the CPU."""
    n = 16 if o.small else 64
    x, y = advreg.load_data("mnist")[1].tensors(n=n)
    model = advreg.load_model("zoo:mnist-trades", weights=networks.TRADES).eval()
    for norm, eps in (("linf", 0.3), ("l2", 2.0), ("l1", 10.0)):
        threat = advreg.ThreatModel(norm, eps)
        for name, options in ATTACKS.items():
            attack = partial(getattr(advreg.attacks, name), **options)
            try:
                cpu = attack(model.cpu(), x, y, threat)
                here = attack(model.to(o.device), x.to(o.device), y.to(o.device), threat)
            except Exception as error:  # one attack that fails is a finding, not the end
                yield {"attack": name, "norm": norm, "error": str(error)[:80]}
                continue
            same = (cpu.broken == here.broken.cpu()).sum().item()
            difference = (cpu.x_adv - here.x_adv.cpu()).abs().flatten(1).amax(1)
            yield {
                "attack": name, "norm": norm, "n": n, "same_verdict": same, "broken_cpu": int(cpu.broken.sum()),
                "broken_here": int(here.broken.sum()), "median_difference": float(difference.median()),
            }  # fmt: skip
    for protocol in ("quick", "strong"):
        for device in ("cpu", o.device):
            begin = time.perf_counter()
            found = advreg.evaluate(model.to(device), (x, y), "linf:0.3", protocol=protocol)
            seconds = time.perf_counter() - begin
            yield {
                "protocol": protocol,
                "device": str(device),
                "robust": found.robust_accuracy,
                "forwards": found.forwards,
                "seconds": seconds,
            }
    begin = time.perf_counter()
    found = advreg.diagnose(model.to(o.device), (x, y), "linf:0.3", quick=True)
    flagged = [check.name for check in found.checks if check.verdict not in ("pass", "skipped")]
    yield {"diagnosis": found.verdict, "flagged": flagged, "seconds": time.perf_counter() - begin}


def syncs(o: argparse.Namespace) -> Iterator[Row]:
    """Yield how often each attack waits for the device, in all and for each further step, and the lines that wait."""
    x, y = advreg.load_data("mnist")[1].tensors(n=64)
    model, x, y = advreg.load_model("zoo:mnist-small").to(o.device).eval(), x.to(o.device), y.to(o.device)
    for norm, eps in (("linf", 0.1), ("l2", 1.0), ("l1", 5.0)):
        threat = advreg.ThreatModel(norm, eps)
        for name in ("pgd", "apgd", "fmn", "square"):
            attack, key = getattr(advreg.attacks, name), "queries" if name == "square" else "steps"
            counts = [waits(partial(attack, model, x, y, threat, **{key: steps})) for steps in (20, 40)]
            extra = sum(counts[1].values()) - sum(counts[0].values())
            yield {
                "attack": name,
                "norm": norm,
                "at_20": sum(counts[0].values()),
                "a_step": extra / 20,
                "where": counts[1].most_common(8),
            }


def waits(work: Callable[[], object]) -> Counter[str]:
    """Return how often each line waited for the device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    where = [w for w in caught if "synchroniz" in str(w.message)]
    return Counter(f"{'/'.join(Path(w.filename).parts[-2:])}:{w.lineno}" for w in where)


def median(
    o: argparse.Namespace, candidates: dict[str, Callable[[], object]], rounds: int | None = None
) -> dict[str, float]:
    """Return the median seconds of each candidate; rounds are interleaved, the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range((rounds or o.rounds) + 1):
        for name, work in candidates.items():
            runtime.synchronize(o.device)
            begin = time.perf_counter()
            work()
            runtime.synchronize(o.device)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(each[1:]) for name, each in seconds.items()}


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, cast: bool) -> Tensor:
    """Return the points of a bare PGD-10 loop: no checks, no verification, no best iterate."""
    adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(10):
        adv = adv.detach().requires_grad_()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=cast):
            loss = F.cross_entropy(model(adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, adv)
        adv = (adv.detach() + STEP * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    return adv


def speed(o: argparse.Namespace) -> Iterator[Row]:
    """Yield images a second of PGD-10 on preact-resnet18, and its share of the card's measured rate."""
    n = 16 if o.small else 4096
    images = cifar10_jpeg.load_part("test", n)
    x, _ = (t.to(o.device) for t in images.tensors())
    net = trained_network(o)
    with torch.no_grad():
        y = torch.cat([net(part).argmax(1) for part in x.split(512)])
    threat = advreg.ThreatModel("linf", EPS)
    flops = step_flops(net, x[:1])
    frozen = {p: advreg.freeze(net, x[:64], precision=p) for p in ("float32", "bfloat16")}
    last = copy.deepcopy(net).to(memory_format=torch.channels_last).requires_grad_(False)
    compiled = torch.compile(last)
    options: Row = {"steps": 10, "step_size": STEP, "early_stop": False}
    for batch in o.batches:
        xs, ys = x[:batch], y[:batch]
        runs: dict[str, Callable[[], object]] = {
            "plain float32": lambda xs=xs, ys=ys: plain_pgd(net, xs, ys, False),
            "plain bfloat16 channels_last": lambda xs=xs, ys=ys: plain_pgd(last, xs, ys, True),
            "ours float32": lambda xs=xs, ys=ys: advreg.pgd(
                frozen["float32"], xs, ys, threat, batch_size=len(xs), **options
            ),
            "ours bfloat16": lambda xs=xs, ys=ys: advreg.pgd(
                frozen["bfloat16"], xs, ys, threat, batch_size=len(xs), **options
            ),
        }
        if o.device.type == "cuda":
            runs["plain compiled"] = lambda xs=xs, ys=ys: plain_pgd(compiled, xs, ys, True)
        for name, seconds in median(o, runs).items():
            rate = len(xs) / seconds
            yield {"pgd10": name, "batch": len(xs), "images_s": rate, "tflops": rate * 10 * flops / 1e12}
        if o.small:
            return


def step_flops(net: nn.Module, x: Tensor) -> int:
    """Return the operations of a forward and of the gradient to the input, which costs as much, of one example."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return 2 * counter.get_total_flops()


def trained_network(o: argparse.Namespace) -> nn.Module:
    """Return the network that `train` left, or a fresh one: of that, attacks spend more on points near the boundary."""
    model = advreg.load_model("zoo:preact-resnet18", mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616])
    if (file := networks.KEPT / WEIGHTS).is_file():
        model.load_state_dict(load_file(file))
    return model.to(o.device).eval()


def train(o: argparse.Namespace) -> Iterator[Row]:
    """Yield the training of a tier with one seed."""
    given = argparse.Namespace(
        tier=o.tier, epochs=1 if o.small else o.epochs, images=512 if o.small else None, width=0.125 if o.small else 1.0,
        batch_size=o.batch_size, set=o.set,
    )  # fmt: skip
    session = advreg.training.prepare(speedrun.configured(0, given))
    mode = "none" if o.device.type == "cpu" else o.compile
    session = session if mode == "none" else session.compiled(mode)
    begin = time.perf_counter()
    seconds = speedrun.trained(session)
    yield {
        "tier": o.tier, "epochs": given.epochs, "batch_size": o.batch_size, "seconds": seconds, "compile": mode,
        "with_warm_up": time.perf_counter() - begin, "peak_gb": (runtime.peak_memory(o.device) or 0) / 2**30, "set": o.set,
    }  # fmt: skip
    if o.device.type == "cuda":
        yield {"waits_in_ten_steps": waits(partial(ten_steps, session)).most_common(8)}
    if not o.small:
        write_atomic(
            networks.KEPT / WEIGHTS, save({k: v.contiguous() for k, v in session.eval_model.state_dict().items()})
        )


def ten_steps(session: TrainState) -> None:
    """Take ten training steps."""
    for step, batch in zip(range(10), session.batches.epoch(1), strict=False):
        take_step(session, batch, Moment(1, step, session.steps))


def evaluate(o: argparse.Namespace) -> Iterator[Row]:
    """Yield what protocols leave of the trained network, and their seconds."""
    model, test = trained_network(o), cifar10_jpeg.load_part("test", o.n)
    for protocol, precision, n in o.measured:
        begin = time.perf_counter()
        found = advreg.evaluate(
            model, test, "linf:8/255", protocol=protocol, n=16 if o.small else int(n), precision=precision
        )
        yield {
            "protocol": found.protocol, "precision": precision, "n": found.n, "clean": found.clean_accuracy,
            "robust": found.robust_accuracy, "interval": found.interval, "forwards": found.forwards,
            "backwards": found.backwards, "seconds": time.perf_counter() - begin,
            "by_attack": [(a.name, round(a.seconds, 2)) for a in found.by_attack],
        }  # fmt: skip


SECTIONS = {"ceilings": ceilings, "agree": agree, "syncs": syncs, "train": train, "speed": speed, "evaluate": evaluate}


def report(o: argparse.Namespace, name: str) -> None:
    """Run a section; print and append its rows as they come, and the error that ends it early."""
    begin = time.perf_counter()
    try:
        for row in SECTIONS[name](o):
            print(name, json.dumps(row), flush=True)
            append_lines(o.out, [{"section": name, **row}])
    except Exception as error:  # the other sections still run
        print(f"{name} failed: {type(error).__name__}: {error}", flush=True)
        traceback.print_exc(limit=8)
    print(f"{name}: {time.perf_counter() - begin:.1f} s", flush=True)


def main() -> None:
    """Read the command line and run the sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--small", action="store_true", help="a miniature: it tests the script, its figures mean nothing"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tier", default="45")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--compile", default="default")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--n", type=int, default=10_000, help="test images that are decoded")
    parser.add_argument("--measured", nargs="*", default=MEASURED, metavar="PROTOCOL:PRECISION:N")
    parser.add_argument("--batches", nargs="*", type=int, default=(256, 1024, 4096))
    parser.add_argument("--out", type=Path, default=networks.KEPT / "gpu.jsonl")
    o = parser.parse_args()
    o.device = torch.device(o.device)
    o.measured = [item.split(":") for item in o.measured]
    o.out.parent.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = o.device.type == "cuda"
    print(json.dumps(runtime.environment()), flush=True)
    for name in o.only.split(","):
        report(o, name)


if __name__ == "__main__":
    main()
