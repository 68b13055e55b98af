"""Training of a challenger: always from the trusted base, so that poison cannot accumulate over challengers.

    loss = (1 - s) mixed(attacked)(clean batch, own fresh attacks) + s CE(accepted examples, attacks around them)

The share ``s`` is the sum of the examples' shares in the snapshot, and each example is drawn in proportion to its own: the
expected share of the loss of every principal, class, tier and reviewer is the one that the snapshot states.
Training is deterministic and short: after a kill it starts again and ends with the same weights.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import models, runtime
from advreg.attacks.model import query_model
from advreg.data import Batches, Dataset
from advreg.errors import ModelError
from advreg.hardening.attack_families import THREAT, Family, mixture
from advreg.hardening.config import RetrainConfig
from advreg.runs import RunFolder
from advreg.training import eval_mode, recipes

_DRAWN = 8  # one example is drawn for this many clean ones; its loss is weighted, so the number changes no share


@dataclass(frozen=True, eq=False)
class Accepted:
    """The examples of a snapshot.

    Attributes:
        x: pixels float32 in [0, 1] ``(N, C, H, W)``.
        y: the reviewers' labels ``(N,)``.
        shares: each example's share of the training loss ``(N,)`` float64.
    """

    x: Tensor
    y: Tensor
    shares: Tensor

    @property
    def share(self) -> float:
        """The share of the loss of all examples together."""
        return float(self.shares.sum())

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return ``count`` examples drawn at random with replacement, in proportion to their shares."""
        generator = torch.Generator().manual_seed(seed)
        rows = torch.multinomial(self.shares, count, replacement=True, generator=generator)
        return self.x[rows], self.y[rows]


def retrain(
    base: RunFolder,
    out: RunFolder,
    clean: Dataset,
    accepted: Accepted,
    families: Sequence[Family],
    how: RetrainConfig,
    seed: int,
) -> str:
    """Train a challenger into a run folder and return the SHA-256 of its weights; a finished training is not repeated.

    Args:
        base: run folder of the trusted base.
        out: run folder to write; files of an interrupted training are deleted.
        clean: the trusted training images.
        accepted: the snapshot's examples; may be empty.
        families: the attacks of the training.
        how: epochs per family, batch size, learning rate, shares.
        seed: of the order, the draws and the attacks.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModelError: the loss became infinite or NaN.
    """
    if (out / "model.json").is_file():
        return models.state_sha256(models.load(str(out.path)))
    for left in out.path.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    device = runtime.choose_device(how.device)
    model = models.load(str(base.path)).to(device)
    with runtime.deterministic():
        runtime.seed_everything(seed)
        for epoch, loss in enumerate(_epochs(model, clean, accepted, families, how, seed, device), 1):
            if not math.isfinite(loss):
                raise ModelError(
                    f"training the challenger diverged: the loss is {loss}; lower train.lr (now {how.lr:g})"
                )
            out.append("metrics.jsonl", {"epoch": epoch, "loss": loss})
    out.save_model(model.cpu())
    out.write_json(
        "model.json", base.read_json("model.json") | {"sha256": models.state_sha256(model)}
    )  # written last, so the file marks a finished training
    return models.state_sha256(model)


def _epochs(
    model: nn.Module,
    clean: Dataset,
    accepted: Accepted,
    families: Sequence[Family],
    how: RetrainConfig,
    seed: int,
    device: torch.device,
) -> Iterator[float]:
    """Train epoch after epoch and yield the mean loss of each."""
    attack, recipe = mixture(families), recipes.mixed(how.attacked)
    batches = Batches(clean, how.batch_size, seed, device=device)
    optimizer = torch.optim.Adam(model.parameters(), lr=how.lr)
    epochs = how.epochs * max(len(families), 1)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    share = accepted.share
    count = max(how.batch_size // _DRAWN, 1)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for k, batch in enumerate(batches.epoch(epoch)):
            loss = (1 - share) * recipe(model, batch.x, batch.y, attack, THREAT)
            if share:
                draw = runtime.derived_seed(seed, "replay", epoch * len(batches) + k)
                x, y = (tensor.to(device) for tensor in accepted.draw(count, draw))
                with eval_mode(model):
                    around = attack(model, x, y, THREAT, seed=draw % 2**31).x_adv.detach()
                loss = loss + share * F.cross_entropy(query_model(model, torch.cat([x, around])), torch.cat([y, y]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        yield total / len(batches)
    model.eval()
