"""One step of training, and what it tells about the model on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advreg import runtime
from advreg.data import Batch
from advreg.training.recipes import for_examples
from advreg.training.session import Session


def take_step(session: Session, batch: Batch) -> tuple[Tensor, Tensor]:
    """Move the weights once, down the recipe's loss on this batch.

    Returns:
        The loss, and how many examples the model got right as it was trained on them: scalars on the device.
    """
    x = batch.x.to(memory_format=torch.channels_last) if session.config.train.channels_last else batch.x
    attack = for_examples(session.attack, batch.ids)
    with runtime.autocast(session.device, session.config.train.precision), _watched(session.model) as seen:
        loss = session.recipe(session.model, x, batch.y, attack, session.threat)
    session.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if session.config.train.gradient_clip:
        nn.utils.clip_grad_norm_(session.model.parameters(), session.config.train.gradient_clip)
    session.optimizer.step()
    session.scheduler.step()
    return loss.detach(), (seen[-1][-len(batch.y) :].argmax(1) == batch.y).sum()


@dataclass(frozen=True)
class Tally:
    """Sums over the examples of an epoch so far, kept on the device until somebody looks; and the last step's lr."""

    losses: Tensor | float = 0.0
    hits: Tensor | int = 0
    count: int = 0
    lr: float = 0.0

    def plus(self, loss: Tensor, hits: Tensor, *, count: int, lr: float) -> Tally:
        """Return the tally with one more step: its mean loss, its hits, its examples, its learning rate."""
        return Tally(self.losses + loss * count, self.hits + hits, self.count + count, lr)

    @property
    def loss(self) -> float:
        """Mean loss of the examples."""
        return float(self.losses) / self.count

    @property
    def accuracy(self) -> float:
        """Share of the examples that the model got right as it was trained on them."""
        return int(self.hits) / self.count


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the logits of forwards in train mode: the recipe's own, not the attack's."""
    seen: list[Tensor] = []

    def look(module: nn.Module, _: object, logits: Tensor) -> None:
        if module.training:
            seen.append(logits.detach())

    handle = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
