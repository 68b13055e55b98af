"""Everything one training run works with, made from its configuration before anything is written."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from advreg import data, models, runtime
from advreg.config import Config, OptimizerSection
from advreg.data import Batches, Dataset
from advreg.threat import ThreatModel
from advreg.training import inner, recipes, schedules
from advreg.training.recipes import Attack, Recipe
from advreg.training.validation import hold_out


@dataclass(frozen=True)
class Session:
    """The parts of a run; what changes during training is the state of model, optimizer and scheduler."""

    config: Config
    device: torch.device
    model: nn.Module
    recipe: Recipe
    attack: Attack
    threat: ThreatModel
    batches: Batches
    held: Dataset | None
    optimizer: Optimizer
    scheduler: LambdaLR

    @property
    def adversary(self) -> ThreatModel | None:
        """What to validate against: the threat model, or None where training has no adversary."""
        return None if self.config.attack.name == "none" else self.threat

    def rehearsal(self) -> Session:
        """Return a session that trains a copy of the model, so that trying it out leaves this one as it is."""
        model = copy.deepcopy(self.model)
        optimizer, scheduler = _movers(self.config, model, len(self.batches))
        return replace(self, model=model, optimizer=optimizer, scheduler=scheduler)


def prepare(config: Config) -> Session:
    """Load and check everything; the initial weights depend on the seed alone.

    Raises:
        ConfigError, DataError, ModelError, ThreatError: something cannot be used as the configuration says.
    """
    device = runtime.choose_device(config.train.device)
    threat = ThreatModel(config.threat.norm, config.threat.eps)  # type: ignore[arg-type]  # it checks its norm
    recipe = recipes.named(config.recipe.name, config.recipe.options)
    attack = inner.from_section(config.attack, config.threat.eps)
    train, held = hold_out(data.load(config.data.name)[0], config.data.validation, config.seed)
    augment = data.augmentation(config.data.augment)
    batches = Batches(train, config.train.batch_size, config.seed, augment=augment, device=device)
    model = _model(config, device)
    models.check_model(model, train.tensors(n=8)[0].to(device), len(train.classes))
    optimizer, scheduler = _movers(config, model, len(batches))
    return Session(
        config=config,
        device=device,
        model=model,
        recipe=recipe,
        attack=attack,
        threat=threat,
        batches=batches,
        held=held and held.to(device),
        optimizer=optimizer,
        scheduler=scheduler,
    )


def _model(config: Config, device: torch.device) -> nn.Module:
    runtime.seed_everything(config.seed)
    model = models.load(config.model.name, config.model.weights or None, **config.model.options)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place; torch omits its type
    return model.to(device)


def _movers(config: Config, model: nn.Module, steps_an_epoch: int) -> tuple[Optimizer, LambdaLR]:
    """Return what moves the weights, and what sets how far."""
    factor = schedules.named(config.schedule.name, config.schedule.options)
    optimizer = _optimizer(config.optimizer, model)
    return optimizer, schedules.scheduler(optimizer, factor, config.train.epochs * steps_an_epoch)


def _optimizer(section: OptimizerSection, model: nn.Module) -> Optimizer:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lr, decay = section.lr, section.weight_decay
    if section.name == "sgd":
        momentum, nesterov = section.momentum, section.nesterov
        return SGD(weights, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    return (Adam if section.name == "adam" else AdamW)(weights, lr=lr, weight_decay=decay)
