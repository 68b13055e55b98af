"""The objects of a training run, built from its configuration before anything is written."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from advreg import data, models, runtime
from advreg.config import AttackConfig, Config, OptimizerConfig
from advreg.config.compatibility import UNATTACKED
from advreg.config.task import configured_task
from advreg.config.threat import configured_threat
from advreg.data import Batches, Dataset, StreamingDataset, Table
from advreg.distributed import Ranks
from advreg.errors import ConfigError, ModelError
from advreg.models.initialisation import initialise_for_intervals
from advreg.models.split_batchnorm import merge_batchnorm, split_batchnorm
from advreg.tasks import CLASSES, Task
from advreg.threat import ThreatModel
from advreg.trainer import averaging, schedules
from advreg.trainer.averaging import AveragedWeights
from advreg.trainer.optimization import parameter_groups, trainable_parameters
from advreg.training import inner, policies, recipes
from advreg.training.inner.escalation import EscalatingAttack
from advreg.training.loss_module import RecipeLoss
from advreg.training.overfitting_monitor import EXAMPLES, Guard
from advreg.training.policies import Policy
from advreg.training.recipes import Attack, Recipe
from advreg.training.validation import hold_out

_REESTIMATED = 20  # batches: some thousand images, a few hundredths of an epoch


@dataclass(frozen=True)
class TrainState:
    """The objects of a run; training changes the state of model, optimizer, scheduler and `stateful_parts`.

    Attributes:
        config: configuration of the run.
        task: what an output is worth.
        model: the network that is trained.
        outputs: number of logits; the data may have fewer classes.
        compiled_model: the network as training evaluates it, compiled where ``train.compile`` is true.
        loss_module: the recipe's loss as a module around it, which `fit` wraps for several processes.
        validation_set: held-out training examples, None where there are none.
        average: averaged weights, None where there are none.
        ranks: rank of this process.
    """

    config: Config
    task: Task
    device: torch.device
    model: nn.Module
    outputs: int
    compiled_model: nn.Module
    loss_module: nn.Module
    recipe: Recipe
    attack: EscalatingAttack
    policy: Policy
    threat: ThreatModel
    average: AveragedWeights | None
    batches: Batches
    validation_set: Dataset | Table | None
    optimizer: Optimizer
    scheduler: LambdaLR
    guard: Guard
    ranks: Ranks

    @property
    def adversary(self) -> ThreatModel | None:
        """Threat model of the validation; None where training has no attack."""
        return None if self.config.recipe.name == "standard" else self.threat

    @property
    def steps(self) -> int:
        """Number of optimizer steps in an epoch."""
        return len(self.batches) * self.replays

    @property
    def replays(self) -> int:
        """Number of steps on every batch."""
        return recipes.replays_of(self.recipe)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and saved: the averaged one, where there is an average."""
        return self.model if self.average is None else self.average.model

    @property
    def saved_model(self) -> nn.Module:
        """The network that is saved: the evaluated one, with the BatchNorms of one route where they are split."""
        route = self.config.model.split
        return self.eval_model if route == "none" else merge_batchnorm(self.eval_model, route)

    @property
    def reestimated_batches(self) -> int:
        """Number of batches on which the BatchNorm statistics of the average are measured after an epoch."""
        given, config = self.config.average.reestimate, self.config
        if self.average is None or given == 0 or not self.average.has_own_statistics:
            return 0
        usable = config.recipe.name != "free" and not config.train.freeze_batchnorm
        return given if given != "auto" else _REESTIMATED if usable else 0

    @property
    def stateful_parts(self) -> dict[str, object]:
        """Objects that may have state besides model and optimizer."""
        parts = {"attack": self.attack, "recipe": self.recipe, "policy": self.policy, "guard": self.guard}
        return parts if self.average is None else {**parts, "average": self.average}

    def compiled(self, mode: str) -> TrainState:
        """Return the state with its network compiled by ``torch.compile`` in this mode, whatever ``train.compile`` is.

        Args:
            mode: ``"default"``, ``"reduce-overhead"`` (with CUDA graphs) or ``"max-autotune"``.
        """
        network: nn.Module = torch.compile(self.model, mode=mode)  # type: ignore[assignment]  # it is a module
        return replace(self, compiled_model=network, loss_module=RecipeLoss(network, self.recipe))

    def clone_for_dry_run(self) -> TrainState:
        """Return a state that trains copies, in this process alone, so that a dry run leaves this state unchanged."""
        parts = (self.model, self.attack, self.recipe, self.policy, self.average)
        model, attack, recipe, policy, average = copy.deepcopy(parts)
        optimizer, scheduler = _optimizer_and_scheduler(self.config, model, self.steps)
        compiled_model = _compiled(self.config, model)
        return replace(
            self,
            model=model,
            compiled_model=compiled_model,
            loss_module=RecipeLoss(compiled_model, recipe),
            attack=attack,
            recipe=recipe,
            policy=policy,
            average=average,
            optimizer=optimizer,
            scheduler=scheduler,
        )


def prepare(config: Config, ranks: Ranks = Ranks()) -> TrainState:  # noqa: B008  # frozen
    """Load and check the objects of a run; the initial weights depend on the seed alone.

    Args:
        config: configuration of the run.
        ranks: rank of this process.

    Raises:
        ConfigError, DataError, ModelError, ThreatError: the configuration cannot be used.
    """
    _check_seed(config.seed)
    device = runtime.choose_device(config.train.device)
    threat = configured_threat(config, _load(config) if config.features else ())
    task = configured_task(config)
    recipe = _recipe(config, task)
    _check_ranks(config, ranks)
    train, held = split_data(config)
    batches = _batches(config, train, device, ranks)
    attack = EscalatingAttack(config.attack, _attacks(config, batches))
    policy = policies.POLICIES.build(config.policy.name, _with_examples(config, len(train)))
    model = _model(config, device)
    guard = _guard(config, train, device, threat, task)
    outputs = _count_outputs(model, guard, train)
    compiled_model = _compiled(config, model)
    optimizer, scheduler = _optimizer_and_scheduler(config, model, len(batches) * recipes.replays_of(recipe))
    return TrainState(
        config=config,
        task=task,
        device=device,
        model=model,
        outputs=outputs,
        compiled_model=compiled_model,
        loss_module=RecipeLoss(compiled_model, recipe),
        recipe=recipe,
        attack=attack,
        policy=policy,
        threat=threat,
        average=_average(config, model),
        batches=batches,
        validation_set=None if held is None else held.to(device),
        optimizer=optimizer,
        scheduler=scheduler,
        guard=guard,
        ranks=ranks,
    )


def initial_parts(session: TrainState) -> tuple[nn.Module, dict[str, object]]:
    """Return the network and the stateful parts as they were before the first step, but for the guard.

    Args:
        session: the run.

    Raises:
        ModelError, WeightsError: the weights that the run started from are no longer there.
    """
    config, examples = session.config, len(session.batches.dataset)
    model, average = _model(config, session.device), session.average
    parts = {
        "attack": EscalatingAttack(config.attack, session.attack.make),
        "recipe": _recipe(config, session.task),
        "policy": policies.POLICIES.build(config.policy.name, _with_examples(config, examples)),
    }
    return model, parts if average is None else {**parts, "average": _average(config, model)}


def _check_seed(seed: int) -> None:
    if not -(2**63) <= seed < 2**64:  # what torch's generators take
        raise ConfigError(f"seed is {seed}; allowed: from -2^63 to 2^64 - 1")


def _check_ranks(config: Config, ranks: Ranks) -> None:
    if ranks.world_size > 1 and config.recipe.name == "free":
        raise ConfigError(
            "recipe.name is 'free', whose perturbation belongs to positions in the batch; train in one process"
        )


def _recipe(config: Config, task: Task) -> Recipe:
    """Return the recipe, with the task where it is not classification."""
    options = dict(config.recipe.options) if task is CLASSES else {**config.recipe.options, "task": task}
    return recipes.RECIPES.build(config.recipe.name, options)


def _count_outputs(model: nn.Module, guard: Guard, train: Examples) -> int:
    """Return the number of outputs of a network that fits the data."""
    if guard.task is CLASSES:
        return models.check_model(model, guard.x, len(train.classes))
    return models.check_model(model, guard.x, task=guard.task, y=train.labels.to(guard.x.device))


Examples = Dataset | Table | StreamingDataset


def split_data(config: Config) -> tuple[Examples, Examples | None]:
    """Return the training set and the held-out training examples.

    Args:
        config: configuration of the run.

    Returns:
        Two data sets; the second is None where ``data.validation`` is 0.

    Raises:
        DataError, ConfigError: the data cannot be used.
    """
    section = config.data
    if section.stream:
        return hold_out(data.stream(section.name)[0], section.validation, config.seed)
    train = _load(config)[0]
    if isinstance(train, Table):
        _check_table(config, train)
        return hold_out(train, section.validation, config.seed)
    return hold_out(train, section.validation, config.seed)


def _load(config: Config) -> tuple[Dataset | Table, Dataset | Table]:
    """Return training set and test set, with targets of any shape where the task is not classification."""
    return data.load(config.data.name) if config.task.name == "classes" else data.load_targets(config.data.name)


def _check_table(config: Config, train: Table) -> None:
    """Raise where the data has another box than the threat model, or the configuration is one for images."""
    low, high = config.threat.box
    fits = train.declared in (None, (low, high)) and low <= train.span[0] and train.span[1] <= high
    if not fits and not config.features:  # features have boxes of their own
        least, most = train.declared or train.span
        raise ConfigError(
            f"threat.box is [{low:g}, {high:g}], {train.name} has [{least:.6g}, {most:.6g}]; "
            f"set threat.box = [{least:.6g}, {most:.6g}]"
        )
    if train.kind != "image" and (config.data.augment != "none" or config.data.cutmix):
        raise ConfigError(f"{train.name} holds no images; set data.augment = 'none' and data.cutmix = false")


def _batches(config: Config, train: Examples, device: torch.device, ranks: Ranks) -> Batches:
    augment = data.augmentation(config.data.augment)
    return Batches(
        train,
        config.train.batch_size,
        config.seed,
        augment=augment,
        device=device,
        part=(ranks.rank, ranks.world_size),
        workers=config.data.workers,
        crop=config.data.crop,
        drop_last=config.train.drop_last,
        balanced=config.data.balanced,
    )


def _attacks(config: Config, batches: Batches) -> Callable[[AttackConfig], Attack]:
    """Return the function that builds the attack of a section: a repair changes the section."""
    eps = 0.0 if config.threat.norm == "snr" else config.threat.eps  # a ratio has no length to compare steps with
    examples = len(batches.dataset)

    def make(section: AttackConfig) -> Attack:
        return inner.from_section(section, eps, examples=examples, augment=batches.augment, seed=batches.seed)

    return make


def _with_examples(config: Config, examples: int) -> dict[str, object]:
    """Return the options of the policy, with the number of examples for a policy with per-example state."""
    make = policies.POLICIES.get(config.policy.name)
    if make is None or "examples" not in inspect.signature(make).parameters:
        return dict(config.policy.options)
    given = config.policy.options.get("examples")
    if isinstance(given, int) and 0 < given < examples:
        raise ConfigError(
            f"policy.options.examples is {given}, but {examples} images are trained on; leave it out: it is counted"
        )
    return {"examples": examples, **config.policy.options}


def _compiled(config: Config, model: nn.Module) -> nn.Module:
    return torch.compile(model) if config.train.compile else model  # type: ignore[return-value]  # it is a module


def _average(config: Config, model: nn.Module) -> AveragedWeights | None:
    if config.average.name == "none":
        return None
    return averaging.AVERAGES.build(config.average.name, config.average.options, model)


def _guard(config: Config, train: Examples, device: torch.device, threat: ThreatModel, task: Task) -> Guard:
    """Return the guard with examples spread over the training set, because folders are sorted by class."""
    x, y = train.select(torch.linspace(0, len(train) - 1, min(EXAMPLES, len(train))).long()).tensors()
    attacked = None if config.recipe.name in UNATTACKED else threat  # bounds do not overfit to an attack
    return Guard(config.train.guard, config.train.guard_every, x.to(device), y.to(device), attacked, task)


def _model(config: Config, device: torch.device) -> nn.Module:
    runtime.seed_everything(config.seed)
    model = models.load_with(config.model.name, config.model.weights or None, config.model.options)
    if config.model.init == "interval":
        initialise_for_intervals(_without_weights(config, model))
    if config.model.split != "none":
        model = split_batchnorm(model, config.model.predictor, config.model.split)
    if config.train.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # in place; torch omits its type
    return model.to(device)


def _without_weights(config: Config, model: nn.Module) -> nn.Module:
    """Return the network, unless it has weights that an initialisation would overwrite."""
    if config.model.weights:
        raise ConfigError(
            "model.init is 'interval' and model.weights names a file; new weights would replace it: give one"
        )
    return model


def _optimizer_and_scheduler(config: Config, model: nn.Module, steps_an_epoch: int) -> tuple[Optimizer, LambdaLR]:
    """Return the optimizer and its schedule."""
    factor = schedules.SCHEDULES.build(config.schedule.name, config.schedule.options)
    optimizer = _optimizer(config.optimizer, model)
    return optimizer, schedules.scheduler(optimizer, factor, config.train.epochs * steps_an_epoch)


def _optimizer(section: OptimizerConfig, model: nn.Module) -> Optimizer:
    weights = trainable_parameters(model)
    if not len(weights):
        raise ModelError(
            "no weight of the network requires a gradient, so nothing can be trained; unfreeze some of them"
        )
    lr, decay = section.lr, section.weight_decay
    grouped = section.decay != "all" or section.layer_decay != 1
    params = parameter_groups(model, lr, decay, section.decay, section.layer_decay) if grouped else weights
    if section.name == "sgd":
        momentum, nesterov = section.momentum, section.nesterov
        return SGD(params, lr=lr, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    return (Adam if section.name == "adam" else AdamW)(params, lr=lr, weight_decay=decay)
