"""Types of recipes, and the steps that recipes share: search for the worst case, one forward, comparison of predictions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, ParamSpec, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from advreg.attacks.input_limits import reject_limits, reject_radii
from advreg.attacks.inputs import into_box_once, read_inputs, read_pair, read_targets
from advreg.attacks.model import query_model, widen
from advreg.attacks.outputs import reject_classes, reject_logits
from advreg.config.compatibility import WITH_TASKS
from advreg.config.registry import call_with_options
from advreg.errors import ConfigError
from advreg.module_modes import eval_mode
from advreg.objectives import Objective, cross_entropy
from advreg.tasks import CLASSES, Task, as_task
from advreg.threat import ThreatModel

P = ParamSpec("P")


class InnerResult(Protocol):
    """The part of an attack's result that recipes read."""

    @property
    def x_adv(self) -> Tensor:
        """The attacked inputs ``(B, ...)``."""


Attack = Callable[..., InnerResult]
"""``(model, x, y, threat, *, objective, seed) -> result`` with ``x_adv``: any attack, its other options bound.

`advreg.attacks.craft` spends no passes on verification; recipes disable the early stop of `advreg.pgd` and others.
"""

Recipe = Callable[[nn.Module, Tensor, Tensor, Attack, ThreatModel], Tensor]
"""``(model, x, y, attack, threat) -> loss``, a scalar to call ``backward`` on."""

Smoothing = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Forwards = Literal["one", "two"]
"""Whether clean and attacked inputs pass through the network together or apart; BatchNorm tells the difference."""


def check_loss(make: Callable[P, Recipe]) -> Callable[P, Recipe]:
    """Return the recipe's factory with checks: of its options by their annotations, and of every batch.

    Args:
        make: factory of a recipe; its annotated options are validated.

    Returns:
        The factory; its recipes take batches as `on_pairs` describes.

    Raises:
        ConfigError: the factory is called with a task, and its recipe is for classes.
    """

    @functools.wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Recipe:
        if "task" in kwargs and "task" not in inspect.signature(make).parameters:
            raise ConfigError(f"recipe {make.__name__!r} is for classes; with task=: {', '.join(WITH_TASKS)}")
        options = inspect.signature(make).bind_partial(*args).arguments | kwargs
        recipe = call_with_options("recipe", make.__name__, make, options)
        is_classes = as_task(options.get("task", CLASSES)) is CLASSES
        return on_pairs(recipe, read_pair if is_classes else read_target_pair) if inspect.isfunction(recipe) else recipe

    return made


def read_target_pair(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Return a training batch of another task than classification as tensors of equal length.

    Raises:
        DataError: wrong types, unequal lengths, or targets that are not finite.
    """
    x = read_inputs(x)
    return x, read_targets(y, x)


def on_pairs(recipe: Recipe, read: Callable[[Any, Any], tuple[Tensor, Tensor]] = read_pair) -> Recipe:
    """Return the recipe for batches of any form: it gets tensors of equal length, labels as int64.

    Args:
        recipe: any recipe.
        read: makes tensors that fit each other of a batch.

    Returns:
        A recipe that checks each batch first.

    Raises:
        DataError: when called with an empty batch, or with inputs and labels that do not fit each other.
    """

    @functools.wraps(recipe)
    def loss(model: nn.Module, x: Tensor, y: Tensor, attack: Attack, threat: ThreatModel) -> Tensor:
        x, y = read(x, y)
        if threat is not None:  # recipes without an attack need none
            reject_radii(x, threat)
            reject_limits(x, threat)
        return recipe(model, x, y, attack, threat)

    return loss


def label_loss(z: Tensor, y: Tensor, label_smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits ``(B, K)``; examples labelled -100 do not count.

    Args:
        z: logits.
        y: labels ``(B,)`` or probabilities ``(B, K)``.
        label_smoothing: share of each label that is spread evenly over all classes.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar; ``(B,)`` with ``reduction="none"``.

    Raises:
        DataError: a label that the model does not have.
        ModelError: an output that is not logits.

    Example:
        >>> label_loss(torch.zeros(2, 4), torch.tensor([0, -100])).item()  # log 4; the second example does not count
        1.3862943649291992
    """
    try:
        y = y.to(z.dtype) if y.is_floating_point() else y
        return F.cross_entropy(z, y, label_smoothing=label_smoothing, reduction=reduction)
    except (IndexError, RuntimeError, TypeError):  # a check beforehand would synchronise the device at every step
        reject_logits(z, len(y))
        reject_classes(y, z.shape[1], ignored=True)
        raise


def run_attack_in_eval(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: ThreatModel,
    objective: Objective = cross_entropy,
    *,
    task: Task = CLASSES,
) -> InnerResult:
    """Return the attack's result with the model in eval mode; weights, their gradients and modes do not change.

    The attack's seed is drawn from torch's generator: a new random start at every step, the same in a repeated run.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``, or probabilities where the objective takes them.
        attack: search for the worst case.
        threat: norm, eps and box.
        objective: ``(logits, y) -> (B,)``, which the attack maximises.
        task: what an output is worth; the attack must take ``task`` where it is not classification.

    Returns:
        The attack's result; its ``x_adv`` are the attacked inputs.

    Raises:
        DataError: inputs outside the threat's box.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> run_attack_in_eval(model, x, y, advreg.attacks.craft, ThreatModel("linf", 0.1)).x_adv.shape
        torch.Size([2, 4])
        >>> model.training
        True
    """
    x = into_box_once(x, threat.box)
    with eval_mode(model):
        options = {} if task is CLASSES else _task_option(attack, task)
        return disable_early_stop(attack)(model, x, y, threat, objective=objective, seed=draw_seed(), **options)


def _task_option(attack: Attack, task: Task) -> dict[str, Task]:
    """Return the option of an attack that takes tasks."""
    parameters = inspect.signature(attack).parameters.values()
    if not any(p.name == "task" or p.kind is p.VAR_KEYWORD for p in parameters):
        name = getattr(attack, "func", attack).__name__
        raise ConfigError(
            f"attack {name} is for classes; task {task.name} needs one with task=, such as advreg.attacks.craft"
        )
    return {"task": task}


def disable_early_stop(attack: Attack) -> Attack:
    """Return the attack without early stop, unless the caller has bound ``early_stop``.

    An evaluation is done with an example once it is broken; training needs the worst point of every example.

    Args:
        attack: any attack, or a ``functools.partial`` of one.

    Returns:
        The attack with ``early_stop=False``; unchanged if it has no such option.

    Example:
        >>> from advreg.attacks import pgd
        >>> disable_early_stop(pgd).keywords, disable_early_stop(functools.partial(pgd, early_stop=True)).keywords
        ({'early_stop': False}, {'early_stop': True})
    """
    bound = attack.keywords if isinstance(attack, functools.partial) else {}
    if "early_stop" in bound or "early_stop" not in inspect.signature(attack).parameters:
        return attack
    return functools.partial(attack, early_stop=False)


def worst_case(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    threat: ThreatModel,
    objective: Objective = cross_entropy,
    *,
    task: Task = CLASSES,
) -> Tensor:
    """Return the attacked inputs ``(B, ...)`` without gradient: ``argmax_{x'} objective(f(x'), y)`` in the threat model.

    The attack runs in eval mode, with a new random start at every step.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.
        y: labels ``(B,)``, or probabilities where the objective takes them.
        attack: search for the worst case.
        threat: norm, eps and box.
        objective: ``(logits, y) -> (B,)``, which the attack maximises.
        task: what an output is worth; the attack must take ``task`` where it is not classification.

    Returns:
        Tensor ``(B, ...)`` of attacked inputs.

    Raises:
        DataError: inputs outside the threat's box.

    Example:
        >>> import advreg
        >>> model, x, y = nn.Linear(4, 3), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> x_adv = worst_case(model, x, y, advreg.attacks.craft, ThreatModel("linf", eps=0.1))
        >>> bool((x_adv - x).abs().max() <= 0.1001), x_adv.requires_grad
        (True, False)
    """
    return run_attack_in_eval(model, x, y, attack, threat, objective, task=task).x_adv.detach()


def probabilities(model: nn.Module, x: Tensor) -> Tensor:
    """Return the probabilities ``(B, K)`` in eval mode, without gradient.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.

    Returns:
        Probabilities ``(B, K)``.
    """
    with eval_mode(model):
        return query_model(model, x).softmax(1).detach()  # not under no_grad: torch < 2.10's autocast caches that


def perturbed_reference(model: nn.Module, x: Tensor, threat: ThreatModel) -> Tensor:
    """Return the probabilities ``(B, K)`` in eval mode at a distance of eps / 32 from ``x``, in a random direction.

    The divergence from the prediction at ``x`` has a zero gradient at ``x``, so an attack that starts there would never move.
    The direction is the same for every example, so that it does not depend on the rest of the batch.

    Args:
        model: the network.
        x: inputs ``(B, ...)``.
        threat: norm, eps and box.

    Returns:
        Probabilities ``(B, K)``.
    """
    return probabilities(model, beside(x, threat))


def beside(x: Tensor, threat: ThreatModel) -> Tensor:
    """Return points ``(B, ...)`` at a distance of eps / 32 from ``x``, in a random direction that is equal for all examples.

    Args:
        x: inputs ``(B, ...)``.
        threat: norm, eps and box.

    Returns:
        Points ``(B, ...)``.
    """
    x = widen(x)
    same_ids = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return x + (threat.random_start(x, same_ids, draw_seed()) - x) / 32


def clean_and_adversarial_logits(
    model: nn.Module, x: Tensor, x_adv: Tensor, forwards: Forwards = "one"
) -> tuple[Tensor, Tensor]:
    """Return the logits of clean and of attacked inputs.

    From one forward, BatchNorm normalises both together, with the statistics that it has in use; from two, as in the code of
    most papers, each by itself. Networks without BatchNorm return the same.

    Args:
        model: the network.
        x: clean inputs ``(B, ...)``.
        x_adv: attacked inputs ``(B, ...)``.
        forwards: ``"one"`` for both together, or ``"two"``.

    Returns:
        Logits ``(B, K)`` of clean inputs, and of attacked ones.
    """
    if forwards == "two":
        return query_model(model, x), query_model(model, x_adv)
    z, z_adv = query_model(model, torch.cat([x, x_adv])).chunk(2)
    return z, z_adv


def divergence(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return ``KL(softmax(z) || softmax(z_adv))`` for each example, finite where probabilities are 0 or 1 too.

    Classes that both mask with -inf add nothing.

    Args:
        z: logits ``(B, K)`` of the reference.
        z_adv: logits ``(B, K)`` of attacked inputs.

    Returns:
        Divergences ``(B,)``.
    """
    least = torch.finfo(z.dtype).min / 4  # finite, so that its difference to itself is 0
    log_p, log_q = (logits.log_softmax(1).clamp_min(least) for logits in (z, z_adv))
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def pairing(z: Tensor, z_adv: Tensor) -> Tensor:
    """Return the mean squared difference of logits; classes that both mask with -inf add nothing.

    Args:
        z: logits ``(B, K)`` of clean inputs.
        z_adv: logits ``(B, K)`` of attacked inputs.

    Returns:
        A scalar.
    """
    masked = torch.isneginf(z) & torch.isneginf(z_adv)
    return F.mse_loss(z_adv.masked_fill(masked, 0.0), z.masked_fill(masked, 0.0))


def bind_ids(attack: Attack, ids: Tensor) -> Attack:
    """Return the attack with its random draws bound to example ids; a recipe that attacks a part of the batch attacks the last.

    Args:
        attack: an attack that takes ``ids``.
        ids: example ids of the whole batch ``(B,)``.

    Returns:
        The attack with ``ids`` bound and without early stop.

    Example:
        >>> import advreg
        >>> bound = bind_ids(advreg.pgd, torch.tensor([7, 8]))
        >>> model, x, y = nn.Linear(4, 3).eval(), torch.full((2, 4), 0.5), torch.tensor([0, 1])
        >>> bound(model, x, y, ThreatModel("linf", 0.1), steps=2).x_adv.shape
        torch.Size([2, 4])
    """
    whole = disable_early_stop(attack)

    def attacked(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, **options: object) -> InnerResult:
        return whole(model, x, y, threat, ids=ids[len(ids) - len(x) :], **options)

    return attacked


def draw_seed() -> int:
    """Return a seed from torch's generator."""
    return int(torch.randint(2**31, ()))
