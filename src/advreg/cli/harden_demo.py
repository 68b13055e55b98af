"""The hardening loop on MNIST, whole: a deployed network, an attacker, a service, reviewers, poison, two ticks, a rollback.

plain network -> home -> [attacks, benign traffic and poison through the service -> reviews -> tick] twice -> rollback -> table
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from torch import Tensor

from advreg import data as datasets
from advreg import models
from advreg.attacks.patch import patch
from advreg.attacks.spatial import spatial
from advreg.attacks.verification import logits_of
from advreg.cli import progress, tables
from advreg.config import Config
from advreg.errors import HardeningError
from advreg.hardening import registry
from advreg.hardening.client import Client
from advreg.hardening.config import HardeningConfig
from advreg.hardening.cycle import Outcome, run_cycle
from advreg.hardening.image_decoding import to_npy
from advreg.hardening.store import Store, verify
from advreg.hardening.store.audit import head_of
from advreg.hardening.store.tokens import ApiToken, Role, Tier, issue
from advreg.hardening.workspace import Workspace, create_workspace
from advreg.training import fit

_SEALED, _CANARIES = 3000, 2000  # of the test images; production traffic is made of the others
_WEEK = 8 * 86_400.0  # that the demo's clock jumps, past the quarantine
_REVIEWED = 400  # of each wave: the most suspicious
_CONFIRMED = 25  # of each wave: shown to a second reviewer, and incidents from then on
_ERROR = 0.02  # of the reviewers
_ATTACKS, _TRIES = 200, 3000  # of each wave: how many the attacker wants, and on how many images it tries at most


@dataclass
class Production:
    """What the scripted world knows and the loop does not: what each submitted image really shows, and whose it is."""

    truth: dict[str, int] = field(default_factory=dict)
    kind: dict[str, str] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))


def run_demo(out: Path) -> None:
    """Run the demo into a new folder.

    Args:
        out: the folder; it must not exist.
    """
    began = time.perf_counter()
    base = _deployed(out / "deployed")
    how: dict[str, float] = {"data.clean": 20_000, "data.sealed": _SEALED, "gate.gates": 2}
    how |= {"train.epochs": 4, "train.lr": 2e-3, "train.attacked": 0.7, "train.replay": 0.2}
    how |= {"caps.reviewers": 1}  # the second one confirms some, which become incidents
    home = create_workspace(out / "home", base, HardeningConfig().replace_with({**how, "attacks": ["spatial:30:3"]}))
    world, traffic = Production(), _Traffic(datasets.load_images("mnist")[1])
    typer.echo("wave 1: rotations")
    _wave(home, world, traffic, _rotations)
    outcomes = [_tick(home, 1)]
    typer.echo("wave 2: patches; the team adds patch:4 to the attacks that a champion must withstand")
    home = Workspace(home.folder, home.config.replace_with({"attacks": ["spatial:30:3", "patch:4"]}))
    home.folder.write("harden.toml", home.config.to_toml())
    _wave(home, world, traffic, _patches)
    outcomes.append(_tick(home, 2))
    tables.show(_table(outcomes))
    _show_poison(home, world)
    _show_rollback(home)
    typer.echo(f"done in {tables.minutes(time.perf_counter() - began)}; home: {home.folder.path}")


def _deployed(folder: Path) -> Path:
    """Train the network that is in production: plain, because it was not attacked before."""
    chosen = ["model.name=zoo:mnist-small", "optimizer.name=adam", "optimizer.lr=2e-3", "train.epochs=2"]
    config = Config().replace_with(
        [*chosen, "schedule.name=triangular", "schedule.options.peak=0.3", f"train.out={folder}"]
    )
    with progress.training(label="the deployed network") as watch:
        return fit(config, on_event=watch).path


class _Traffic:
    """Test images that neither the gate nor the canaries use, handed out once."""

    def __init__(self, test: datasets.Dataset) -> None:
        self.images, self.labels = test.tensors(start=_SEALED + _CANARIES)
        self.next = 0

    def take(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the next ``n``; after the last one, the first again."""
        rows = torch.arange(self.next, self.next + n) % len(self.labels)
        self.next += n
        return self.images[rows], self.labels[rows]


def _rotations(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return spatial(model, x, y, degrees=30, pixels=3, grid=(15, 3)).x_adv


def _patches(model: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return patch(model, x, y, size=4, steps=30, step_size=0.15, places=3).x_adv


def _wave(home: Workspace, world: Production, traffic: _Traffic, attack: Any) -> None:
    """Send 200 attacks, 2,000 benign and 100 poisoned examples through the service, and review what it puts first."""
    store = home.store()
    with store.reading() as db:
        champion = registry.model(db, str(registry.current_champion(db)))["run"]
    model, serial = models.load(str(home.folder / champion)), len(world.truth)
    points, shown = _fooling(model, traffic, attack)
    poison, truth = traffic.take(100)
    poison = poison.clone()
    poison[50:, :, 23:26, 23:26] = 1.0  # half of the campaign stamps a trigger; all of it claims class 0
    batches = [
        ("attack", points, shown, None),
        ("benign", *traffic.take(2000), None),
        ("poison", poison, truth, 0),
    ]
    with _serving(home) as url:
        gateway = Client(url, _token(store, f"gateway-{serial}", Role.SUBMIT, relay=True), champion, capacity=10_000)
        for kind, images, labels, claimed in batches:
            _send(gateway, world, model, kind, images, labels, claimed)
        gateway.close(120)
        typer.echo(f"  submitted: {', '.join(f'{len(b[2])} {b[0]}' for b in batches)}; client: {dict(gateway.counts)}")
        _review(url, _token(store, f"rae-{serial}", Role.REVIEW), world, _REVIEWED)
        _review(url, _token(store, f"sam-{serial}", Role.REVIEW), world, _CONFIRMED, second=True)
    store.engine.dispose()


def _fooling(model: torch.nn.Module, traffic: _Traffic, attack: Any) -> tuple[Tensor, Tensor]:
    """Attack fresh images until enough of them fool the model, or too many were tried; return those and what they show."""
    found: list[tuple[Tensor, Tensor]] = []
    tried = 0
    while tried < _TRIES and sum(len(y) for _, y in found) < _ATTACKS:
        x, y = traffic.take(200)
        points = attack(model, x, y)
        fooled = logits_of(model, points).argmax(1) != y
        found.append((points[fooled], y[fooled]))
        tried += len(x)
    points, labels = (torch.cat(part)[:_ATTACKS] for part in zip(*found, strict=True))
    typer.echo(f"  the attacker tried {tried} images and found {len(labels)} attacks")
    return points, labels


def _send(
    gateway: Client,
    world: Production,
    model: torch.nn.Module,
    kind: str,
    images: Tensor,
    labels: Tensor,
    claimed: int | None,
) -> None:
    import hashlib

    scores = logits_of(model, images).softmax(1)
    for k in range(len(images)):
        content = to_npy(images[k].numpy())
        name = hashlib.sha256(content).hexdigest()
        world.truth[name], world.kind[name] = int(labels[k]), kind
        user = "mallory" if kind == "poison" else f"user{int(world.rng.integers(40))}"
        said = scores[k].tolist()
        gateway.record(content, int(scores[k].argmax()), scores=said, principal=user, claimed=claimed)


def _review(url: str, token: str, world: Production, count: int, second: bool = False) -> None:
    """Label what the queue shows first, with two mistakes in a hundred."""
    done = 0
    while done < count:
        found = _ask(f"{url}/v1/queue?limit={min(100, count - done)}&second={str(second).lower()}", token)["examples"]
        for example in found:
            name = example["sha256"]
            slip = world.rng.random() < _ERROR
            label = int(world.rng.integers(10)) if slip else world.truth[name]
            _ask(f"{url}/v1/review/{name}", token, {"label": label})
        done += len(found)
        if not found:
            break
    typer.echo(f"  {'confirmed by a second reviewer' if second else 'reviewed'}: {done}")


def _ask(url: str, token: str, body: Any = None) -> Any:
    payload = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, payload, {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def _serving(home: Workspace) -> Iterator[str]:
    """Run the service in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "advreg", "harden", "serve", "--home", str(home.folder.path), "--port", str(port)]
    server, url = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=dict(os.environ)), f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(1800):  # a busy machine takes minutes to start it
        try:
            urllib.request.urlopen(f"{url}/healthz", timeout=1).close()
            return
        except OSError:
            if server.poll() is not None:
                raise HardeningError(
                    f"the service ended with status {server.returncode}; run advreg harden serve"
                ) from None
            time.sleep(0.1)
    raise HardeningError(f"the service at {url} does not answer; run advreg harden serve to see why")


def _token(store: Store, name: str, role: Role, relay: bool = False) -> str:
    return issue(store, ApiToken(name, role, Tier.CUSTOMER, relay))


def _tick(home: Workspace, number: int) -> Outcome:
    """Run a tick as it would run after the quarantine."""
    store = home.store(lambda: time.time() + number * _WEEK)
    outcome = run_cycle(home, store, say=lambda line: typer.echo(f"  {line}"))
    store.engine.dispose()
    return outcome


def _table(outcomes: list[Outcome]) -> Any:
    """Return what each gate compared."""
    rows = []
    for number, outcome in enumerate(outcomes, 1):
        assert outcome.decision is not None
        before, after = outcome.decision.champion, outcome.decision.challenger
        shares = [(side["clean_accuracy"], side["robust_accuracy"]) for side in (before, after)]
        (clean, robust), (clean_after, robust_after) = shares
        cells = [tables.percent(share) for share in (robust, robust_after, clean, clean_after)]
        rows.append([f"tick {number}: {before['protocol'].partition('-harden-')[2]}", *cells, outcome.decision.verdict])
    columns = ("attacks on the sealed set", "robust before", "after", "clean before", "after", "gate")
    return tables.table(f"Two ticks, {_SEALED} sealed examples", columns, rows)


def _show_poison(home: Workspace, world: Production) -> None:
    store = home.store()
    with store.reading() as db:
        newest = registry.newest_snapshot(db)
    members = json.loads(newest["manifest"])["members"] if newest else []
    kinds = [world.kind[member["id"]] for member in members]
    wrong = [member for member in members if member["label"] != world.truth[member["id"]]]
    claimed = sum(world.kind[member["id"]] == "poison" for member in wrong)
    typer.echo(
        f"newest snapshot: {len(members)} examples, {kinds.count('attack')} attacks, {kinds.count('benign')} benign, "
        f"{kinds.count('poison')} of the campaign; {len(wrong)} labels are wrong (reviewers'), {claimed} of them the campaign's"
    )


def _show_rollback(home: Workspace) -> None:
    store = home.store()
    with store.reading() as db:
        can = registry.alias(db, registry.PREVIOUS) is not None
    began = time.perf_counter()
    if can:
        version = registry.rollback(store, "admin")
        typer.echo(f"rollback: {version} is the champion again, after {time.perf_counter() - began:.3f} s")
    with store.reading() as db:
        broken, (entries, digest) = verify(db), head_of(db)
    typer.echo(f"audit: {'intact' if broken is None else broken.why}, {entries} entries, head {digest[:16]}")
