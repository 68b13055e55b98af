"""One PGD in seven makes: ours, from the plain way to the default one, and three peers'.

Everybody gets the same network, the same numbers and a uniform random start, and takes the batch whole. Making a competitor
is not part of its time: what happens there happens once for a network (folding, casting), or is nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

import advreg
from advreg import runtime
from advreg.models import freeze
from networks import Case


@dataclass(frozen=True)
class Competitor:
    """An attack that is ready to run.

    Attributes:
        attack: ``(x, y, seed) -> x_adv``.
        asked: every network it asks, so that the questions can be counted.
        judges: whether it has verified its points on the original network when it returns.
    """

    attack: Callable[[Tensor, Tensor, int], Tensor]
    asked: tuple[nn.Module, ...]
    judges: bool


def advreg_float32(case: Case) -> Competitor:
    """Attack the network as it is, all steps for all examples: the work of the peers and of the verification."""
    return _ours(case, case.model, early_stop=False)


def advreg_frozen(case: Case) -> Competitor:
    """Attack the frozen copy (BatchNorm folded, channels last) in float32, all steps for all examples."""
    return _ours(case, freeze(case.model, case.batch(0)[0]), early_stop=False)


def advreg_bfloat16(case: Case) -> Competitor:
    """Attack the frozen copy in bfloat16, verified in float32, all steps for all examples."""
    return _ours(case, freeze(case.model, case.batch(0)[0], precision="bfloat16"), early_stop=False)


def advreg_default(case: Case) -> Competitor:
    """Attack the frozen copy in bfloat16, verified in float32, with early stop, the usual setting."""
    return _ours(case, freeze(case.model, case.batch(0)[0], precision="bfloat16"), early_stop=True)


def _ours(case: Case, model: nn.Module, *, early_stop: bool) -> Competitor:
    def attack(x: Tensor, y: Tensor, seed: int) -> Tensor:
        return advreg.pgd(
            model, x, y, case.threat, steps=case.steps, step_size=case.step_size, early_stop=early_stop, seed=seed
        ).x_adv

    asked = (case.model,) if model is case.model else (model, case.model)
    return Competitor(attack, asked, judges=True)


def torchattacks_pgd(case: Case) -> Competitor:
    """``torchattacks.PGD``."""
    import torchattacks

    made = torchattacks.PGD(case.model, eps=case.threat.eps, alpha=case.step_size, steps=case.steps)
    return _peer(case, made)


def foolbox_pgd(case: Case) -> Competitor:
    """``foolbox.attacks.LinfPGD``."""
    import foolbox

    model = foolbox.PyTorchModel(case.model, bounds=case.threat.box)
    made = foolbox.attacks.LinfPGD(abs_stepsize=case.step_size, steps=case.steps, random_start=True)
    return _peer(case, lambda x, y: made(model, x, y, epsilons=case.threat.eps)[1])


def art_pgd(case: Case) -> Competitor:
    """``art.attacks.evasion.ProjectedGradientDescentPyTorch``."""
    import torch
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    shape, classes = case.batch(0)[0].shape[1:], len(case.test.classes)
    estimator = PyTorchClassifier(
        case.model, torch.nn.CrossEntropyLoss(), tuple(shape), classes, clip_values=case.threat.box
    )
    made = ProjectedGradientDescentPyTorch(
        estimator,
        eps=case.threat.eps,
        eps_step=case.step_size,
        max_iter=case.steps,
        num_random_init=1,
        batch_size=case.n,
        verbose=False,
    )
    return _peer(case, lambda x, y: torch.from_numpy(made.generate(x.numpy(), y.numpy())))


def _peer(case: Case, made: Callable[[Tensor, Tensor], Tensor]) -> Competitor:
    def attack(x: Tensor, y: Tensor, seed: int) -> Tensor:
        runtime.seed_everything(seed)  # the peers draw from the global generators
        return made(x, y).detach()

    return Competitor(attack, (case.model,), judges=False)


OURS = {
    "advreg float32": advreg_float32,
    "advreg frozen": advreg_frozen,
    "advreg bfloat16": advreg_bfloat16,
    "advreg default": advreg_default,
}
PEERS = {"torchattacks": torchattacks_pgd, "foolbox": foolbox_pgd, "art": art_pgd}


@dataclass
class Count:
    """Example-forwards and example-backwards."""

    forwards: int = 0
    backwards: int = 0


@contextlib.contextmanager
def counted(*modules: nn.Module) -> Iterator[Count]:
    """Count what passes through these modules, whoever sends it."""
    count = Count()

    def backward(grad: Tensor) -> None:
        count.backwards += len(grad)

    def forward(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        count.forwards += len(output)
        if output.requires_grad:
            output.register_hook(backward)  # type: ignore[no-untyped-call]

    hooks = [module.register_forward_hook(forward) for module in modules]
    try:
        yield count
    finally:
        for hook in hooks:
            hook.remove()
