"""A run folder like a real one: MNIST digits, a small linear model that is attacked exactly, plausible figures."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy.stats import beta

CONFIG = """\
seed = 0

[data]
name = "mnist"

[model]
name = "zoo:mnist-cnn"

[train]
recipe = "madry"
epochs = 12
batch_size = 128
optimizer = "sgd"
lr = 0.1
schedule = "cosine"

[threat]
norm = "linf"
eps = 0.1

[attack]
name = "pgd"
steps = 10
step_size = 0.025
"""
ENVIRONMENT = {"advreg": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "device": "cpu", "cores": 2}
CLEAN = (0.991, 0.988, 0.994, 0.99, 0.987, 0.985, 0.992, 0.981, 0.983, 0.979)
ROBUST = (0.981, 0.979, 0.964, 0.957, 0.951, 0.949, 0.97, 0.938, 0.931, 0.912)


@cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """The first 2,000 MNIST test images, (N, 1, 28, 28) float32 in [0, 1], and their labels."""
    folder = files("advreg.data") / "mnist"
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16 : 16 + 2000 * 784]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:2008]
    images = np.frombuffer(pixels, np.uint8).reshape(-1, 1, 28, 28)
    return images.astype(np.float32) / 255, np.frombuffer(labels, np.uint8).astype(np.int64)


@cache
def linear_model() -> np.ndarray:
    """Weights (784, 10) of a ridge regression onto the classes."""
    images, labels = digits()
    x = images.reshape(len(images), -1).astype(np.float64)
    return np.linalg.solve(x.T @ x + 30 * np.eye(784), x.T @ np.eye(10)[labels])


def confidences(images: np.ndarray) -> np.ndarray:
    scores = 8 * (images.reshape(len(images), -1) @ linear_model())
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def attacked(images: np.ndarray, labels: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """The strongest linf step towards the nearest other class: exact for a linear model."""
    scores = confidences(images)
    scores[np.arange(len(labels)), labels] = -1
    towards = linear_model()[:, scores.argmax(axis=1)] - linear_model()[:, labels]
    step = np.sign(towards).T.reshape(images.shape) * eps[:, None, None, None]
    return np.clip(images + step, 0, 1).astype(np.float32)


def examples(count: int, eps: float) -> dict[str, np.ndarray]:
    images, labels = digits()
    clean, truth = images[:count], labels[:count]
    reach = np.where(np.arange(count) % 3 == 0, eps / 8, eps)
    adversarial = attacked(clean, truth, reach)
    before, after = confidences(clean), confidences(adversarial)
    broken = after.argmax(axis=1) != truth
    return {
        "clean": clean,
        "adversarial": adversarial,
        "ids": np.arange(count),
        "labels": truth,
        "clean_predicted": before.argmax(axis=1),
        "adversarial_predicted": after.argmax(axis=1),
        "clean_confidence": before.max(axis=1).astype(np.float32),
        "adversarial_confidence": after.max(axis=1).astype(np.float32),
        "distance": np.abs(adversarial.astype(np.float64) - clean).max(axis=(1, 2, 3)),
        "broken": broken.astype(np.uint8),
        "attack": np.where(broken, np.arange(count) % 2, -1),
    }


def interval(share: float, n: int) -> list[float]:
    """The exact 95% interval of a share."""
    hits = round(share * n)
    low = beta.ppf(0.025, hits, n - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, n - hits) if hits < n else 1.0
    return [float(low), float(high)]


def results(protocol: str, norm: str, eps: float, robust: float, n: int = 1000, clean: float = 0.986) -> dict:
    """results.json of a model that was right on `clean` and stayed right on `robust` of `n` images."""
    names = {"quick": ["pgd-40"], "standard": ["apgd-ce", "apgd-t", "fab-t", "square"]}
    by_attack, survivors, lost = [], round(clean * n), round((clean - robust) * n)
    attacks = names.get(protocol.split("-")[-1].split("@")[0], ["fgsm", "pgd-40"])
    for place, name in enumerate(attacks):
        broken = lost if place == len(attacks) - 1 else round(lost * 0.8)
        row = {"name": name, "tried": survivors, "broken": broken, "robust_accuracy": (survivors - broken) / n}
        cost = {"forwards": survivors * 101 * (place + 1), "backwards": survivors * 100, "seconds": 4.2 * (place + 1)}
        by_attack.append(row | cost)
        survivors, lost = survivors - broken, lost - broken
    return {
        "schema": "advreg/results@1",
        "protocol": protocol,
        "threat": {"norm": norm, "eps": eps, "box": [0.0, 1.0]},
        "n": n,
        "seed": 0,
        "clean_accuracy": clean,
        "clean_interval": interval(clean, n),
        "robust_accuracy": robust,
        "interval": interval(robust, n),
        "attack_success_rate": (clean - robust) / clean,
        "attack_success_interval": interval((clean - robust) / clean, round(n * clean)),
        "by_attack": by_attack,
        "forwards": sum(row["forwards"] for row in by_attack),
        "backwards": sum(row["backwards"] for row in by_attack),
        "seconds": sum(row["seconds"] for row in by_attack),
        "per_class": [
            {"class": str(k), "n": n // 10, "clean_accuracy": CLEAN[k], "robust_accuracy": ROBUST[k] * robust / 0.95}
            for k in range(10)
        ],
        "flags": {"randomised": False, "zero_gradients": 0},
        "verdict": None,
        "model": {"name": "zoo:mnist-cnn", "sha256": "5e" * 32},
        "data": {"name": "mnist", "split": "test", "n": 10000, "sha256": "a1" * 32, "classes": list("0123456789")},
        "environment": ENVIRONMENT,
    }


def curve(norm: str, eps: list[float], fall: float, n: int = 1000, clean: float = 0.986) -> dict:
    """curve.json of an accuracy that falls like a logistic curve centred at `fall`."""
    shares = [round(n * clean / (1 + np.exp(14 * (e / fall - 1)))) / n for e in eps]
    points = [{"eps": e, "robust_accuracy": s, "interval": interval(s, n)} for e, s in zip(eps, shares, strict=True)]
    return {"schema": "advreg/curve@1", "norm": norm, "attack": "pgd-40", "n": n, "seed": 0, "points": points}


def write_evaluation(run: Path, record: dict, line: dict | None = None, shown: int = 60) -> Path:
    folder = run / "evaluation" / record["protocol"]
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(record))
    if line is not None:
        (folder / "curve.json").write_text(json.dumps(line))
    if shown:
        save_file(examples(shown, record["threat"]["eps"]), folder / "examples.safetensors")
    return folder


def write_training(run: Path, epochs: int = 12) -> None:
    run.mkdir(parents=True, exist_ok=True)
    lines: list[dict] = []
    for k in range(1, epochs + 1):
        rise = 1 - np.exp(-k / 2.2)
        accuracy = {"train_accuracy": 0.955 * rise, "clean_accuracy": 0.9 + 0.087 * rise}
        accuracy["robust_accuracy"] = 0.7 + 0.255 * rise - 0.004 * (k % 3)
        rate = 0.05 * (1 + np.cos(np.pi * (k - 1) / epochs))
        lines.append({"epoch": k, "step": 430 * k, "loss": 0.9 / k, "lr": rate, "seconds": 9.5, **accuracy})
        if k == 7:
            lines.append({"event": "resumed", "epoch": 7})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "run.toml").write_text(CONFIG)
    (run / "model.json").write_text(json.dumps({"name": "zoo:mnist-cnn", "parameters": 166_406, "input": [1, 28, 28]}))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))


def write_run(run: Path) -> Path:
    """A whole run: training, a standard and a quick linf evaluation, and a quick l2 one."""
    write_training(run)
    grid = [round(0.025 * k, 3) for k in range(13)]
    standard = results("linf-0.1-standard@1", "linf", 0.1, 0.947) | {"verdict": "TRUSTED"}
    write_evaluation(run, standard, curve("linf", grid, 0.19))
    write_evaluation(run, results("linf-0.1-quick@2", "linf", 0.1, 0.953), curve("linf", grid, 0.19))
    far = [0.25 * k for k in range(13)]
    write_evaluation(run, results("l2-1.5-quick@2", "l2", 1.5, 0.871), curve("l2", far, 2.1), shown=0)
    return run
