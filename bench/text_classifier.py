"""Refusals told from answers by an encoder: plain training, FreeLB, SMART and ALUM side by side, clean and under attack.

    python bench/text_classifier.py [--methods plain freelb smart] [--leave-out gpt4 ...] [--seeds 1] [--eps 0.5] [--n 60]

The texts are `xstest_safe_completions.csv`: answers of five models with human labels, full or partial refusal against full
compliance. The answers of one model at a time are left out for testing, so a figure says how a classifier meets a model that
it has never seen. Rows are appended to a file as they come; what it holds is not measured again.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from advreg.language.classifiers.attacks import classifier_embedding_pgd
from advreg.language.classifiers.model import TextClassifier, load_classifier, predict
from advreg.language.classifiers.training import ClassifierTraining, fit_classifier
from advreg.language.classifiers.word_substitution import substitute
from advreg.runs.files import append_lines, read_lines
from advreg.runtime import environment

Row = dict[str, Any]
BESIDE = Path(__file__).resolve().parents[2] / "shared"
FILE = Path(os.environ.get("ADVREG_SHARED", BESIDE)) / "data" / "language" / "xstest_safe_completions.csv"
TOKENS = 32
RADII = (0.05, 0.1, 0.2)
"""Of the attack on embeddings, relative to their mean norm."""


@dataclass(frozen=True)
class Split:
    """Answers of the other models to train on, and those of one model to test on."""

    train: list[tuple[str, int]]
    test: list[tuple[str, int]]


def split(left_out: str, file: Path = FILE) -> Split:
    """Return the answers with label 1 for a refusal, full or partial."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["completion"].strip()]
    models = sorted({row["model"] for row in rows})
    if left_out not in models:
        raise SystemExit(f"--leave-out was given {left_out!r}; allowed: {', '.join(models)}")
    named = [(row["model"] == left_out, (row["completion"], int("refusal" in row["label"]))) for row in rows]
    return Split([pair for test, pair in named if not test], [pair for test, pair in named if test])


def balanced(pairs: list[tuple[str, int]], n: int) -> list[tuple[str, int]]:
    """Return up to ``n`` pairs, half of each label where there are as many, spread over the list."""
    chosen = []
    for label in (0, 1):
        own = [pair for pair in pairs if pair[1] == label]
        chosen += own[:: max(1, len(own) // (n // 2))][: n // 2]
    return chosen


def measured(fitting: ClassifierTraining, left_out: str, n: int) -> Row:
    """Train on four models, test on the fifth: clean on all its answers, under attack on ``n`` of them."""
    data = split(left_out)
    classifier = load_classifier("minilm", seed=fitting.seed, tokens=TOKENS)
    texts, labels = map(list, zip(*data.train, strict=True))
    paces: list[float] = []
    clock = [time.process_time()]

    def tick(step: int, steps: int, loss: float) -> None:
        paces.append(time.process_time() - clock[0])
        clock[0] = time.process_time()

    fit_classifier(classifier, texts, labels, fitting, tick)
    return {
        **_clean(classifier, data.test),
        **_attacked(classifier, balanced(data.test, n)),
        "steps_taken": len(paces),
        "cpu_seconds_a_step": round(sorted(paces)[len(paces) // 2], 3),
    }


def _clean(classifier: TextClassifier, pairs: list[tuple[str, int]]) -> Row:
    texts, labels = zip(*pairs, strict=True)
    right = predict(classifier, texts).argmax(1) == torch.tensor(labels)
    of_refusals = right[torch.tensor(labels) == 1]
    return {"n": len(right), "accuracy": _mean(right), "of_refusals": _mean(of_refusals), "refusals": len(of_refusals)}


def _attacked(classifier: TextClassifier, pairs: list[tuple[str, int]]) -> Row:
    texts, labels = zip(*pairs, strict=True)
    row: Row = {"n_attacked": len(texts)}
    for eps in RADII:
        row[f"embedding_{eps}"] = _mean(~classifier_embedding_pgd(classifier, texts, labels, eps=eps))
    found = substitute(classifier, texts, labels)
    row["substitution"] = 1 - sum(one.broken for one in found) / len(found)
    row["forwards_a_text"] = sum(one.forwards for one in found) / len(found)
    return {**row, "clean_attacked": _mean(predict(classifier, texts).argmax(1) == torch.tensor(labels))}


def _mean(values: torch.Tensor) -> float:
    return round(float(values.float().mean()), 4)


def plans(given: argparse.Namespace) -> Iterator[tuple[ClassifierTraining, str]]:
    """Yield what is to be measured, all methods on one split before the next."""
    base = ClassifierTraining(epochs=given.epochs, lr=given.lr, eps=given.eps, weight=given.weight)
    for seed, left_out, method in product(range(given.seeds), given.leave_out, given.methods):
        steps = 2 if method == "freelb" else 1
        yield replace(base, method=method, seed=seed, steps=steps), left_out


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare ways to train a refusal classifier.")
    parser.add_argument("--methods", nargs="+", default=["plain", "freelb", "smart"])
    parser.add_argument("--leave-out", nargs="+", default=["gpt4", "llama2new", "llama2orig", "mistralguard"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--eps", type=float, default=0.5)
    parser.add_argument("--weight", type=float, default=1.0)
    parser.add_argument("-n", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("bench-text-classifier.jsonl"))
    given = parser.parse_args()
    for fitting, left_out in plans(given):
        key = {**asdict(fitting), "left_out": left_out, "n_asked": given.n}
        known = [row for row in read_lines(given.out) if row["key"] == key]
        row = known[0] if known else {"key": key, **measured(fitting, left_out, given.n), "environment": environment()}
        if not known:
            append_lines(given.out, [row])
        shown = {name: value for name, value in row.items() if name not in ("key", "environment")}
        print(fitting.method, left_out, fitting.seed, shown, flush=True)


if __name__ == "__main__":
    main()
