"""Print the SHA-256 of every file that a fixed small run writes: proof that a refactoring changes no byte.

    python bench/fixed_run.py [--out FOLDER] > before.txt    # change the code, run again, and diff

Trains, evaluates (three norms), measures a curve and distances, diagnoses, compares two runs, writes the report, trains and
evaluates a language model of a few thousand weights. Times, memory and versions are blanked before hashing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import advreg

ROOT = Path(os.environ.get("ADVREG_ROOT", Path(__file__).resolve().parents[1]))
TIMED = re.compile(
    rb'"(seconds|started|finished|written|created|date|time|'
    rb'peak_memory|memory|seconds_per_step|examples_per_second|advreg|commit)": '
    rb'("[^"]*"|-?[0-9.e+-]+|null)'
)
SPOKEN = re.compile(
    rb"(?:[0-9.]+ min )?[0-9.]+(?:e[+-][0-9]+)? ?(?:s|ms|min|seconds|minutes)\b"
    rb"|20[0-9]{2}-[0-9]{2}-[0-9]{2}[T ]?[0-9:.+Z]*"
)
TIMES = re.compile(r"\.out$|^times\.jsonl$|^checkpoint\.pt$|^\.lock$")
"""Files that hold times in a form that cannot be blanked."""

RUN = """seed = 0
[model]
name = "zoo:mnist-small"
[data]
name = "npz:images.npz"
validation = 200
[threat]
norm = "linf"
eps = 0.05
[attack]
name = "pgd"
steps = 2
[recipe]
name = "madry"
[train]
epochs = 4
batch_size = 50
out = "run"
"""


def steps() -> list[list[str]]:
    """Return the commands, in order."""
    own = ["zoo:mnist-small", "--weights", "run/model.safetensors", "--data", "mnist", "--device", "cpu"]
    return [
        ["train", "run.toml"],
        ["evaluate", "run", "--protocol", "quick", "--n", "48", "--curve", "0,0.05,0.1", "--distances"],
        ["evaluate", "run", "--protocol", "strong", "--n", "48"],
        ["evaluate", *own, "--threat", "l2:1", "--protocol", "strong", "--n", "24", "--out", "l2"],
        ["evaluate", *own, "--threat", "l1:4", "--protocol", "standard", "--n", "12", "--out", "l1"],
        ["evaluate", *own, "--threat", "linf:0.05", "--protocol", "blackbox", "--n", "6", "--out", "blackbox"],
        ["diagnose", "run", "--n", "24"],
        ["report", "run"],
        ["compare", "run", "run"],
        ["harden", "gate", "run", "run", "--protocol", "linf-0.05-strong@3"],
        ["language", "train", "language.toml", "--trust-code"],
    ]


def run(folder: Path) -> None:
    """Run every command in the folder; what they print is kept beside what they write."""
    (folder / "run.toml").write_text(RUN)
    _images(folder)
    _language(folder)
    own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "COLUMNS": "120"}
    for k, words in enumerate(steps()):
        print(f"{k:2d} advreg {' '.join(words)}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "advreg", *words], cwd=folder, env=own, capture_output=True, text=True, check=False
        )
        (folder / f"{k:02d}-{words[0]}.out").write_text(f"{done.stdout}\nstatus {done.returncode}\n")
        if done.returncode > 1:
            print(done.stderr[-2000:], file=sys.stderr)


def _images(folder: Path) -> None:
    """Write 1,200 training and 100 test images."""
    (x, y), (x_test, y_test) = (
        part.tensors(n=n) for part, n in zip(advreg.load_data("mnist"), (1200, 100), strict=True)
    )
    as_bytes = [(images * 255).round().to(torch.uint8).numpy() for images in (x, x_test)]
    np.savez(folder / "images.npz", x=as_bytes[0], y=y.numpy(), x_test=as_bytes[1], y_test=y_test.numpy())


def _language(folder: Path) -> None:
    """Write the configuration and data of a language run of six steps."""
    sys.path[:0] = [str(ROOT)]
    from tests.language import lessons

    lessons.write_data(folder)
    config = lessons.config(folder, folder / "language")
    (folder / "language.toml").write_text(config.to_toml())


def fingerprint(folder: Path, file: Path) -> str:
    """Return the hash of a file without its times, and its name."""
    content = file.read_bytes().replace(str(folder).encode(), b"FOLDER")
    if file.suffix in {".json", ".jsonl", ".out", ".html", ".md", ".csv", ".xml"}:
        content = SPOKEN.sub(b"TIME", TIMED.sub(b"TIME", content))
    return f"{hashlib.sha256(content).hexdigest()[:16]}  {file.relative_to(folder)}"


def main() -> None:
    """Read the command line, run, print the hashes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the files here; a temporary folder by default")
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    run(folder.resolve())
    for file in sorted(path for path in folder.resolve().rglob("*") if path.is_file() and not TIMES.search(path.name)):
        print(fingerprint(folder.resolve(), file))
    if options.out is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
