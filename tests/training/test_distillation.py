"""Distillation: the terms by hand, teachers that are left as they were, and float32 at extreme logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import advreg
from advreg.errors import ConfigError, ModelError
from advreg.training import recipes
from advreg.training.recipes.distillation import teacher_loss
from tests.attacks.models import Counter
from tests.training import small

THREAT = advreg.ThreatModel("linf", eps=0.1)


def networks():
    torch.manual_seed(0)
    return [nn.Linear(8, 3).double() for _ in range(3)]


def batch():
    torch.manual_seed(1)
    return torch.rand(6, 8, dtype=torch.float64), torch.arange(6) % 3


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_loss_is_the_sum_of_its_terms_at_the_attacked_points():
    student, robust, standard = networks()
    x, y = batch()
    found = []

    def attack(model, *args, **options):
        assert model is student
        found.append(advreg.attacks.craft(model, *args, steps=2, **options))
        return found[0]

    loss = recipes.distill(robust, standard, temperature=2.0)(student, x, y, attack, THREAT)
    z, r, s = (net(found[0].x_adv).detach().numpy() for net in (student, robust, standard))

    def taught(teacher):
        p, q = softmax(teacher / 2), softmax(z / 2)
        return 4 * (p * np.log(p / q)).sum(1).mean()

    hard = -np.log(softmax(z)[np.arange(6), y.numpy()]).mean()
    assert loss.item() == pytest.approx(0.3 * hard + 0.6 * taught(r) + 0.1 * taught(s), abs=1e-9)


def test_a_teacher_that_is_the_student_teaches_nothing():
    student, _, _ = networks()
    x, y = batch()
    attack = small_attack(x)
    loss = recipes.distill(standard=student, hard=1.0)(student, x, y, attack, THREAT)
    torch.testing.assert_close(loss, F.cross_entropy(student(x), y))


def small_attack(x):
    from advreg.training.inner import Untouched

    return lambda *_, **__: Untouched(x)


def test_gradients_keep_their_size_as_the_temperature_grows():
    z, t = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), torch.tensor([[0.3, -0.1, -0.2]]).double()
    slopes = [torch.autograd.grad(teacher_loss(z, t, temperature), z)[0] for temperature in (20.0, 40.0)]
    torch.testing.assert_close(*slopes, rtol=0.02, atol=0)


def test_teachers_keep_their_modes_and_get_no_gradient():
    torch.manual_seed(0)
    teacher, student = small.network().train(), small.network().train()
    x, y, count = torch.rand(5, 1, 8, 8), torch.arange(5) % 3, Counter(teacher)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    recipes.distill(teacher)(student, x, y, advreg.attacks.craft, THREAT).backward()
    assert (count.forwards, count.backwards, count.weight_gradients()) == (5, 0, 0)
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.requires_grad for weight in teacher.parameters())


def test_extreme_logits_in_half_precision_are_no_nan():
    for scale in (1e3, 1e4):
        z = (torch.eye(3) * scale).bfloat16().requires_grad_()
        loss = teacher_loss(z, z.detach().flip(0))
        (grad,) = torch.autograd.grad(loss, z)
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


def test_a_teacher_of_other_classes_is_rejected_in_one_line():
    x, y = batch()
    teacher, student = nn.Linear(8, 5).double(), nn.Linear(8, 3).double()
    with pytest.raises(
        ModelError, match="a teacher has 5 classes, the network has 3; give a teacher of the same classes"
    ):
        recipes.distill(teacher)(student, x, y, small_attack(x), THREAT)


def test_a_teacher_can_be_named_or_loaded_and_is_rejected_before_training():
    student = advreg.load_model("zoo:mnist-dnn")
    x, y = torch.rand(2, 1, 28, 28), torch.arange(2)
    assert recipes.distill("zoo:mnist-dnn")(student, x, y, advreg.attacks.craft, THREAT) > 0
    with pytest.raises(ModelError, match="zoo:mnist-dmn"):
        recipes.distill("zoo:mnist-dmn")
    with pytest.raises(ConfigError, match="no teacher"):
        recipes.distill()
    with pytest.raises(ConfigError, match="a teacher is function"):
        recipes.distill(small_attack)


@pytest.mark.parametrize("forwards", ["one", "two"])
def test_ard_and_rslad_are_the_papers_formulas(forwards):
    """In float64 on linear networks, with the attack's own points; the teacher is evaluated at clean inputs only."""
    torch.manual_seed(0)
    teacher, student = torch.nn.Linear(8, 3).double(), torch.nn.Linear(8, 3).double()
    x, y = torch.rand(6, 8, dtype=torch.float64) * 0.5 + 0.25, torch.arange(6) % 3
    seen = {}

    def attack(model, x, y, threat, *, objective, seed):
        found = advreg.attacks.craft(model, x, y, threat, objective=objective, seed=seed, steps=2)
        seen["x_adv"], seen["y"] = found.x_adv, y
        return found

    loss = recipes.ard(robust=teacher, alpha=0.75, temperature=5.0, forwards=forwards)(student, x, y, attack, THREAT)
    target, now = (teacher(x) / 5).log_softmax(1), (student(seen["x_adv"]) / 5).log_softmax(1)
    distilled = 25 * (target.exp() * (target - now)).sum(1).mean()
    torch.testing.assert_close(loss, 0.75 * distilled + 0.25 * torch.nn.functional.cross_entropy(student(x), y))
    assert torch.equal(seen["y"], y)

    loss = recipes.rslad(robust=teacher, alpha=0.8, forwards=forwards)(student, x, y, attack, THREAT)
    target = teacher(x).log_softmax(1)
    parts = [(target.exp() * (target - student(at).log_softmax(1))).sum(1).mean() for at in (x, seen["x_adv"])]
    torch.testing.assert_close(loss, 0.2 * parts[0] + 0.8 * parts[1])
    torch.testing.assert_close(
        seen["y"], teacher(x).softmax(1), msg="the attack moves away from the teacher, not the label"
    )
    assert all(weight.grad is None for weight in teacher.parameters())
    for name in ("ard", "rslad", "adaad"):
        with pytest.raises(ConfigError, match=f"{name} has no teacher"):
            getattr(recipes, name)()
