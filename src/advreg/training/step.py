"""One optimizer step of training, and its loss, accuracy and cost."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advreg import distributed, runtime
from advreg.data import DataBatch
from advreg.module_modes import frozen_weights
from advreg.pass_counting import count_passes
from advreg.threat import ThreatModel
from advreg.trainer.moment import Moment
from advreg.trainer.optimization import take_optimizer_step
from advreg.training.cutmix import cutmix
from advreg.training.recipes import Attack, InnerResult, bind_ids
from advreg.training.setup import TrainState
from advreg.training.task_scores import score_sum
from advreg.training.weight_perturbation import once, perturb_weights


@dataclass(frozen=True)
class Tally:
    """Sums over the examples of an epoch so far, kept on the device until read, and the last learning rate.

    Attributes:
        losses, hits, count: summed loss, correct predictions (or scores) and number of the training examples, attacked as they
            were.
        forwards, backwards: example-forwards and example-backwards, attack included.
    """

    losses: Tensor | float = 0.0
    hits: Tensor | float = 0
    count: int = 0
    forwards: int = 0
    backwards: int = 0
    lr: float = 0.0

    def plus(self, more: Tally) -> Tally:
        """Return the sum of two tallies, with the later learning rate.

        Args:
            more: the later tally.
        """
        sums = {name: getattr(self, name) + getattr(more, name) for name in _SUMS}
        return replace(more, **sums)

    def of_all(self, device: torch.device) -> Tally:
        """Return the tally of all processes together, in plain numbers.

        Args:
            device: of this process.
        """
        values = distributed.sum_values(*(float(getattr(self, name)) for name in _SUMS), device=device)
        losses, hits, count, forwards, backwards = values
        return Tally(losses, hits, int(count), int(forwards), int(backwards), self.lr)

    @property
    def loss(self) -> float:
        """Mean loss of the examples."""
        return float(self.losses) / self.count

    @property
    def accuracy(self) -> float:
        """Accuracy, or mean score, on the training examples, attacked as they were."""
        return float(self.hits) / self.count


_SUMS = ("losses", "hits", "count", "forwards", "backwards")


def take_step(session: TrainState, batch: DataBatch, moment: Moment) -> Tally:
    """Take one optimizer step on the recipe's loss of a batch, and return the tally of the batch.

    Args:
        session: the run, as `advreg.training.prepare` returns it; its model is in train mode.
        batch: inputs, labels and example ids, such as one of ``session.batches.epoch(1)``.
        moment: place of the step in the run, for policies and averages.

    Example:
        >>> from advreg.config import Config
        >>> from advreg.training import prepare
        >>> run = prepare(Config().replace_with(["model.name=zoo:mnist-dnn", "data.validation=59000", "recipe.name=standard"]))
        >>> _ = run.model.train()
        >>> take_step(run, next(iter(run.batches.epoch(1))), Moment(epoch=1, step=0, steps=run.steps)).count
        128
    """
    train = session.config.train
    if session.device.type == "cuda" and session.compiled_model is not session.model:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    with count_passes(session.compiled_model) as passes, ExitStack() as until_update:
        tally = take_optimizer_step(
            session.optimizer, lambda: _add_gradients(session, batch, moment, until_update), train.gradient_clip
        )
    session.scheduler.step()
    if session.average is not None:
        session.average.update(session.model, moment)
    return replace(tally, forwards=passes.forwards, backwards=passes.backwards)


def _add_gradients(session: TrainState, batch: DataBatch, moment: Moment, until_update: ExitStack) -> Tally:
    """Add the gradients of all parts of a batch; weights stay perturbed until ``until_update`` closes."""
    tally, parts = Tally(), batch.split(session.config.train.accumulate)
    for part in parts:
        task = _task(session, part, moment)
        if _perturbs(session, moment):
            until_update.enter_context(_perturbed(session, task, part.weight))
        with _without_sync(session.loss_module, part is not parts[-1]):
            tally = tally.plus(_learn(session, part, task))
    return tally


@dataclass(frozen=True)
class _Task:
    """Arguments of a recipe: inputs, labels, attack and threat model."""

    x: Tensor
    y: Tensor
    attack: Attack
    threat: ThreatModel


def _task(session: TrainState, part: DataBatch, moment: Moment) -> _Task:
    """Return the arguments of the recipe: inputs mixed by CutMix where configured, attack and threat of the policy."""
    config, x, y = session.config, part.x, part.y
    if config.train.channels_last:
        x = x.to(memory_format=torch.channels_last)
    if config.data.cutmix:
        seed = runtime.derived_seed(config.seed, "cutmix", moment.epoch)
        x, y = cutmix(x, y, part.ids, classes=session.outputs, seed=seed)
    threat = _limit_eps(session.threat, session.guard.eps_share(moment))
    with runtime.autocast(session.device, config.train.precision):
        attack, threat = session.policy(session.compiled_model, x, y, part.ids, session.attack, threat, moment)
    attack = _at_step(bind_ids(attack, part.ids), runtime.derived_seed(config.seed, "step", moment.step))
    if session.compiled_model is not session.model:
        attack = _without_weight_gradients(attack)
    return _Task(x, y, once(attack) if _perturbs(session, moment) else attack, threat)


def _limit_eps(threat: ThreatModel, share: float) -> ThreatModel:
    """Return the threat model with a share of its eps; itself for all of it, so that its bytes stay the same."""
    return threat if share == 1 else threat.with_eps(threat.eps * share)


def _at_step(attack: Attack, seed: int) -> Attack:
    """Return the attack with random draws by step and example, independent of the parts of a batch."""

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: Any) -> InnerResult:
        return attack(model, x, y, threat, **{**options, "seed": seed})

    return attacked


def _without_weight_gradients(attack: Attack) -> Attack:
    """Return the attack with weights that need no gradient: compiled code would compute theirs with the input's."""

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: Any) -> InnerResult:
        with frozen_weights(model):
            return attack(model, x, y, threat, **options)

    return attacked


def _perturbs(session: TrainState, moment: Moment) -> bool:
    """Return whether the weights are perturbed in this step."""
    train = session.config.train
    return train.awp > 0 and moment.progress >= train.awp_start


def _perturbed(session: TrainState, task: _Task, weight: float) -> AbstractContextManager[object]:
    """Return the context of adversarial weight perturbation."""
    config = session.config

    def loss() -> Tensor:
        with runtime.autocast(session.device, config.train.precision):
            return weight * session.recipe(session.compiled_model, task.x, task.y, task.attack, task.threat)

    return perturb_weights(session.model, loss, config.train.awp)


def _learn(session: TrainState, part: DataBatch, task: _Task) -> Tally:
    """Add the gradient of the recipe's loss on a part of a batch to the gradients of the weights."""
    lr = session.optimizer.param_groups[0]["lr"]
    with runtime.autocast(session.device, session.config.train.precision):
        loss, logits = session.loss_module(task.x, task.y, task.attack, task.threat)
    (loss * part.weight).backward()
    count = len(part.y) if part.weight else 0  # a part that only repeats examples does not count
    hits = score_sum(session.task, logits, part.y) * bool(count)
    return Tally(loss.detach() * count, hits, count, lr=lr)


def _without_sync(module: nn.Module, partial: bool) -> AbstractContextManager[None]:
    """Skip the reduction of gradients but for the last part, so that processes exchange them once a step."""
    return module.no_sync() if partial and isinstance(module, DistributedDataParallel) else nullcontext()
