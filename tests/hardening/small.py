"""A loop small enough for tests: three classes of 12 x 12 images, a base that leans on a feature which breaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import advreg
from advreg.hardening.config import HardeningConfig
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.ingestion import ingest
from advreg.hardening.perceptual_hash import perceptual_hash
from advreg.hardening.states import ExampleStatus
from advreg.hardening.store import Store
from advreg.hardening.store.examples import Submission, Verdict, move, receive, review
from advreg.hardening.store.tables import examples
from advreg.hardening.workspace import Workspace, create_workspace

SIZE, CLASSES = 12, 3


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images with a bright block that tells the class nearly always, and a faint pattern that always does."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, n)
    x = rng.uniform(0.3, 0.5, (n, SIZE, SIZE))
    for k in range(CLASSES):
        x[y == k, 2:6, 4 * k : 4 * k + 3] += 0.35
        x[y == k, 7:, k::3] += 0.06
    return (x * 255).round().astype(np.uint8), y


def write_data(folder: Path) -> str:
    """Write the data set and return its name."""
    x, y = images(1200, 0)
    x_test, y_test = images(600, 1)
    np.savez(folder / "small.npz", x=x, y=y, x_test=x_test, y_test=y_test)
    return f"npz:{folder}/small.npz"


def write_base(folder: Path, data: str) -> Path:
    """Train a plain network into a run folder."""
    train, _ = advreg.load_data(data)
    x, y = train.tensors()
    torch.manual_seed(0)
    model = advreg.load_model("zoo:mnist-dnn", widths=[32], size=SIZE, classes=CLASSES)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    run = advreg.RunFolder.create(folder)
    run.save_model(model.eval())
    run.write_json("model.json", {"schema": "advreg/model@1", **model.advreg_spec})
    return folder


def make_home(folder: Path, **changed: object) -> Workspace:
    """Make a home whose quarantine is over at once."""
    data = write_data(folder)
    facts = {"attacks": ["linf:0.1"], "data.name": data, "data.sealed": 300, "caps.quarantine_days": 0.0}
    facts |= {"caps.reviewers": 1}  # most tests have one
    facts |= {"train.lr": 3e-3, "train.epochs": 3, "gate.clean_margin": 0.05, "gate.gates": 2, "gate.diagnose": False}
    return create_workspace(
        folder / "home", write_base(folder / "base", data), HardeningConfig().replace_with({**facts, **changed})
    )


def attacked(home: Workspace, n: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Return images that fool the base, and what they are."""
    x, y = images(n, seed)
    model = advreg.load_model(str(home.folder / "models/base"))
    tensor, labels = torch.from_numpy(x).float()[:, None] / 255, torch.from_numpy(y)
    found = advreg.pgd(model, tensor, labels, advreg.ThreatModel("linf", 0.1), steps=20)
    return found.x_adv[found.broken].numpy(), y[found.broken.numpy()]


def submit(
    store: Store, x: np.ndarray, principal: str = "ann", tier: str = "customer", claimed: int | None = None
) -> list[str]:
    """Submit images ``(N, 1, H, W)`` in [0, 1] and return their ids."""
    given = [
        Submission(to_npy(one), "npy", perceptual_hash(one), "server", principal, tier, "m1", 0, claimed=claimed)
        for one in x.astype(np.float32)
    ]
    return [receipt.id for receipt in receive(store, given)]


def label(store: Store, names: list[str], labels: list[int], reviewers: tuple[str, ...] = ("rae",)) -> None:
    """Review examples."""
    ingest(store)
    for name, truth in zip(names, labels, strict=True):
        for reviewer in reviewers:
            review(store, Verdict(name, reviewer, int(truth)), CLASSES)


def label_at_once(store: Store, names: list[str], labels: list[int]) -> None:
    """Review many examples in one transaction."""
    ingest(store)
    with store.writing() as db:
        move(db, store.clock(), "rae", names, ExampleStatus.REVIEWED)
        for name, truth in zip(names, labels, strict=True):
            db.execute(examples.update().where(examples.c.sha256 == name).values(label=int(truth)))
