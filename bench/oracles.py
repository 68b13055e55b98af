"""Evaluations of networks that others trained and published figures of, against those figures; resumes what was interrupted.

python bench/oracles.py [--only NAME ...] [--n N] [--out FOLDER]

certified   mnist_wk17a_linf0.1: exact robust accuracy 95.62% on 10,000 images by mixed-integer programming (Tjeng, Xiao,
            Tedrake, ICLR 2019): no attack may go below it, and `strong` should come within 0.08 points
strong      mnist_trades_smallcnn at linf 0.3: best known attack 92.46%, AutoAttack 92.81%: `strong` should be at or below 92.81
standard    the same network: `standard` should be at 92.81 +- 0.1; hours on a processor, so give it a folder and time
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import advreg
import networks
from advreg import runtime
from advreg.evaluation.evaluate import EvaluationProgress


@dataclass(frozen=True)
class Oracle:
    """A network, a protocol, and the bounds that published figures put on all 10,000 test images."""

    network: str
    weights: str
    eps: float
    protocol: str
    low: float
    high: float


ORACLES = {
    "certified": Oracle("zoo:mnist-small", "mnist_wk17a_linf0.1.pth", 0.1, "strong", 0.9562, 0.9570),
    "strong": Oracle("zoo:mnist-trades", "mnist_trades_smallcnn.pt", 0.3, "strong", 0.0, 0.9281),
    "standard": Oracle("zoo:mnist-trades", "mnist_trades_smallcnn.pt", 0.3, "standard", 0.9271, 0.9291),
}


def measured(name: str, oracle: Oracle, n: int, out: Path) -> str:
    """Evaluate one network and return its row of the table."""
    model = advreg.load_model(oracle.network, weights=networks.SHARED / "checkpoints" / oracle.weights)
    model.to(device := runtime.choose_device())
    threat, test = advreg.ThreatModel("linf", oracle.eps), advreg.load_data("mnist")[1]
    found = advreg.evaluate(
        model, test, threat=threat, protocol=oracle.protocol, n=n, out=out / f"{name}-{n}", on_progress=_say
    )
    low, high = found.interval
    within = "-" if n < len(test) else "yes" if oracle.low <= round(found.robust_accuracy, 4) <= oracle.high else "NO"
    span = f"{oracle.low:.2%} to {oracle.high:.2%}"
    passes = f"{found.forwards:,} | {found.backwards:,} | {found.seconds:,.0f}"
    return (
        f"| {name} | {found.protocol} | {n:,} | {found.clean_accuracy:.2%} | {found.robust_accuracy:.2%} "
        f"[{low:.2%}, {high:.2%}] | {span} | {within} | {passes} ({device}) |"
    )


def _say(at: EvaluationProgress) -> None:
    print(f"\r{at.stage}: {at.done:,} of {at.total:,}, robust {at.robust_accuracy:.2%}  ", end="", file=sys.stderr)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ORACLES, default=["certified", "strong"])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=networks.KEPT / "oracles")
    options = parser.parse_args()
    rows = [measured(name, ORACLES[name], options.n, options.out) for name in options.only]
    head = "| oracle | protocol | n | clean | robust | published | within | forwards | backwards | seconds |"
    print("\n".join([head, "|" + "---|" * 10, *rows]))
    print(f"\ntorch {torch.__version__}, {torch.get_num_threads()} threads, {runtime.environment()['cpu']}")


if __name__ == "__main__":
    main()
