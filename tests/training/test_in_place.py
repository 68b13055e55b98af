"""A network that writes into its input: training meets it as it meets the same function out of place."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel
from advreg.attacks import craft
from advreg.training import eval_mode, integrations, recipes
from advreg.training.inner import FgsmPgi, friendly_pgd, n_fgsm, trades_pgd
from advreg.training.overfitting_monitor import measure_probe
from advreg.training.policies import Moment, iaat, ldes
from advreg.training.recipes import Attack, Recipe
from advreg.training.regularizer import AdversarialRegularization

THREAT = ThreatModel("linf", 0.1)
X = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
Y = torch.arange(8) % 3


class Network(nn.Module):
    """A small network with BatchNorm behind a normalisation, in place or not: the same function."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.in_place = in_place
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).mul_(4) if self.in_place else (x - 0.5) * 4
        logits: Tensor = self.layers(x)
        return logits


def split(in_place: bool) -> nn.Module:
    return recipes.split_batchnorm(Network(in_place), predictors=["layers.2"])


RECIPES: dict[str, Callable[[], Recipe]] = {
    "standard": recipes.standard,
    "madry": recipes.madry,
    "mixed": lambda: recipes.mixed(0.5),
    "multiplier": lambda: recipes.multiplier(0.2),
    "trades": recipes.trades,
    "trades clean": lambda: recipes.trades(reference="clean"),
    "mart": recipes.mart,
    "alp": recipes.alp,
    "free": lambda: recipes.free(replays=2),
    "gradalign": recipes.gradalign,
    "gradalign double": lambda: recipes.gradalign(method="double"),
    "pgi": recipes.pgi,
    "ar_at": recipes.ar_at,
    "advprop": recipes.advprop,
    "distill": lambda: recipes.distill(robust=Network(True)),
}
ATTACKS: dict[str, Attack] = {
    "craft": craft,
    "near": trades_pgd,
    "friendly": friendly_pgd,
    "n-fgsm": n_fgsm,
    "stored": FgsmPgi(),
}


def gradients_of(recipe: Recipe, model: nn.Module, attack: Attack, x: Tensor) -> list[Tensor]:
    """The gradient of every weight after two steps, the loss last."""
    torch.manual_seed(0)
    for _ in range(2):
        loss = recipe(model, x, Y, attack, THREAT)
        loss.backward()
    return [*(p.grad for p in model.parameters() if p.grad is not None), loss.detach()]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected) > 1
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_the_same_in_place_and_out_of_place(name: str) -> None:
    make = split if name in ("ar_at", "advprop") else Network
    results = []
    for in_place in (False, True):
        torch.manual_seed(0)
        x = X.clone()
        results.append(gradients_of(RECIPES[name](), make(in_place), FgsmPgi() if name == "pgi" else craft, x))
        assert torch.equal(x, X)
    assert_equal(results[1], results[0])


@pytest.mark.parametrize("name", ATTACKS)
def test_inner_attack_is_the_same_in_place_and_out_of_place(name: str) -> None:
    x, points = X.clone(), []
    for in_place in (False, True):
        attack = FgsmPgi() if name == "stored" else ATTACKS[name]
        with eval_mode(Network(in_place)) as model:
            points.append(attack(model, x, Y, THREAT).x_adv)
        assert torch.equal(x, X)
    assert torch.equal(points[1], points[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ATTACKS)
def test_inner_attack_fills_the_ball_around_half_precision_inputs(name: str, dtype: torch.dtype) -> None:
    x, attack = X.to(dtype), FgsmPgi() if name == "stored" else ATTACKS[name]
    with eval_mode(Network(False).to(dtype)) as model:
        made = attack(model, x, Y, THREAT).x_adv
    assert made.dtype == torch.float32
    if name != "friendly":  # which may stop before the edge
        assert float((made - x.float()).abs().amax()) >= 0.1 * (1 - 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("distill",)])
def test_recipe_trains_half_precision_networks_on_half_precision_inputs(name: str, dtype: torch.dtype) -> None:
    make = split if name in ("ar_at", "advprop") else Network
    found = gradients_of(RECIPES[name](), make(True).to(dtype), FgsmPgi() if name == "pgi" else craft, X.to(dtype))
    assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("policy", [lambda: iaat(warmup=0.0), lambda: iaat(warmup=0.0, method="margin"), ldes])
def test_policy_is_the_same_in_place_and_out_of_place(policy: Callable[[], object]) -> None:
    radii = []
    for in_place in (False, True):
        torch.manual_seed(0)
        x = X.clone()
        _, threat = policy()(Network(in_place), x, Y, torch.arange(8), craft, THREAT, Moment(1, 5, 10))
        radii.append(torch.as_tensor(threat.eps))
        assert torch.equal(x, X)
    assert torch.equal(*radii)


def test_guard_is_the_same_in_place_and_out_of_place() -> None:
    x = X.clone()
    assert measure_probe(Network(True), x, Y, THREAT) == measure_probe(Network(False), x, Y, THREAT)
    assert torch.equal(x, X)


def test_wrapper_is_the_same_in_place_and_out_of_place() -> None:
    x, found = X.clone(), []
    for in_place in (False, True):
        torch.manual_seed(0)
        model = AdversarialRegularization(Network(in_place), THREAT)
        found.append((model(x, Y).detach(), model.eval()(x)))
        assert torch.equal(x, X)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_hooked_step_sees_the_inputs_that_the_loop_was_given() -> None:
    terms = []
    for in_place in (False, True):
        network = Network(in_place)
        regularized = AdversarialRegularization(network, THREAT)
        torch.manual_seed(0)

        def step(batch: tuple[Tensor, Tensor], network: nn.Module = network) -> Tensor:
            return nn.functional.cross_entropy(
                network(batch[0]), batch[1]
            )  # the loop's own: it may overwrite its batch

        stepped = integrations._stepping(step, integrations.first_two, regularized.regularizer)
        terms.append(stepped((X.clone(), Y)).detach())
    assert torch.equal(*terms)


class Transformer(nn.Module):
    """A network that takes images by name and answers with an output object, as those of Hugging Face do."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner = Network(in_place)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.inner(pixel_values))


def test_hooked_trainer_sees_the_inputs_that_the_loop_was_given() -> None:
    losses = []
    for in_place in (False, True):

        def own(model: nn.Module, batch: dict[str, Tensor], return_outputs: bool = False) -> Tensor:
            return nn.functional.cross_entropy(model(pixel_values=batch["pixel_values"]).logits, batch["labels"])

        accelerator = SimpleNamespace(unwrap_model=lambda model: model)
        trainer = SimpleNamespace(compute_loss=own, accelerator=accelerator, loss_is_scaled_for_ga=False)
        torch.manual_seed(0)
        hooked = integrations.huggingface(trainer, THREAT)
        losses.append(hooked.compute_loss(Transformer(in_place), {"pixel_values": X.clone(), "labels": Y}).detach())
    assert torch.equal(*losses)
