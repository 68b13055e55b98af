"""What a recipe costs, counted by hooks and promised in the documents; and that nothing of the attack stays behind."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import advreg
from advreg.training import inner, recipes
from tests.training import small

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
THREAT = advreg.ThreatModel("linf", eps=0.1)
N, STEPS = 12, 3
NO_ATTACK = ("standard", "gaussian", "free", "nuat", "ibp", "crown_ibp")
SPLIT = ("ar_at", "advprop")
OPTIONS = {
    "distill": {"robust": small.network(), "standard": small.network()},
    "ard": {"robust": small.network()},
    "rslad": {"robust": small.network()},
    "adaad": {"robust": small.network()},
}


def promised() -> dict[str, tuple[float, float]]:
    """Read passes per example from the table: ``K + 2`` (K the attack's steps), or ``r K + 1`` (r the ratio, 0.5)."""
    (section,) = (part for part in PAGE.read_text().split("\n## ") if part.startswith("What each minimises"))
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", section, re.M)
    return {name: (_passes(forwards), _passes(backwards)) for name, forwards, backwards in rows}


def _passes(text: str) -> float:
    share, steps, rest = re.fullmatch(r"(?:(r )?(K)(?: \+ )?)?(\d)?", text.strip()).groups()
    return (0.5 if share else 1) * (STEPS if steps else 0) + int(rest or 0)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = small.network()
    return recipes.split_batchnorm(model, predictors=["1"]) if name in SPLIT else model


def recipe(name: str) -> recipes.Recipe:
    return recipes.RECIPES.build(name, OPTIONS.get(name, {}))


def attack(name: str) -> recipes.Attack:
    return inner.FgsmPgi() if name == "pgi" else partial(advreg.attacks.craft, steps=STEPS)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.rand(N, 1, 8, 8), torch.arange(N) % 3


def test_every_recipe_has_its_row():
    assert set(promised()) == set(recipes.RECIPES)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_passes_are_as_promised(name):
    model, counts = network(name).train(), [0, 0]

    def count(_: nn.Module, __: object, out: torch.Tensor) -> None:
        counts[0] += len(out)
        out.register_hook(lambda grad: counts.__setitem__(1, counts[1] + len(grad)))

    model.register_forward_hook(count)
    recipe(name)(model, *batch(), attack(name), THREAT).backward()
    assert (counts[0] / N, counts[1] / N) == promised()[name]


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_attack_leaves_no_trace(name):
    """One train-mode forward moves each BatchNorm in use; the attack moves none, and no weight has a gradient yet."""
    model = network(name).train()
    model[4].eval()  # frozen by its owner
    modes = [module.training for module in model.modules()]
    recipe(name)(model, *batch(), attack(name), THREAT)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [module.training for module in model.modules()] == modes
    assert len(set(modes)) == 2
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [1] * (2 if name in SPLIT else 1)


@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name not in NO_ATTACK])
def test_a_failing_attack_leaves_no_trace_either(name):
    model = network(name).train()
    model[4].eval()
    modes = [module.training for module in model.modules()]

    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recipe(name)(model, *batch(), fails, THREAT)
    assert [module.training for module in model.modules()] == modes
    assert all(module.route == "adv" for module in model.modules() if isinstance(module, recipes.SplitBatchNorm))


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_weight_learns_and_a_repeated_step_is_the_same_to_the_bit(name):
    grads = []
    for _ in range(2):
        model = network(name).train()
        torch.manual_seed(3)
        recipe(name)(model, *batch(), attack(name), THREAT).backward()
        used = [w for key, w in model.named_parameters() if name != "advprop" or "predictor" not in key]
        grads.append([w.grad for w in used])
        assert all(grad is not None for grad in grads[-1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
