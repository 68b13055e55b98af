"""Errors of attacks: one line with what was given, what is allowed and what to do."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks
from advreg.attacks.model import ProxyModel
from advreg.errors import AdvregError, ConfigError, DataError, ModelError, ThreatError

from .models import small_cnn

X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y, THREAT = torch.tensor([0, 1, 2, 3]), ThreatModel("linf", 0.1)


class Detached(nn.Module):
    """A model with a detached gradient path."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return small_cnn()(x.round().detach())


def attack(model=None, x=X, y=Y, threat=THREAT, **options):
    return attacks.pgd(small_cnn() if model is None else model, x, y, threat, steps=2, **options)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: attack(small_cnn().train()), ModelError, "call model.eval"),
        (lambda: attack(nn.Sequential(small_cnn(), nn.Dropout().train())), ModelError, "train mode"),
        (lambda: attack(Detached().eval(), y=Detached()(X).argmax(1)), ModelError, "no gradient flows"),
        (lambda: attack(nn.Identity().eval()), ModelError, r"return logits \(4, classes\)"),
        (lambda: attack(x=X * 255), DataError, "divide images by 255"),
        (lambda: attack(x=(X * 255).to(torch.uint8)), DataError, r"images.float\(\) / 255"),
        (lambda: attack(x=torch.where(X > 0.9, torch.nan, X)), DataError, "NaN or infinity in"),
        (lambda: attack(y=Y[:3]), DataError, "give"),
        (lambda: attack(y=Y.float()), DataError, "labels 0 to classes-1"),
        (lambda: attack(y=Y - 1), DataError, "labels 0 to classes-1"),
        (lambda: attack(y=Y + 2), DataError, "label 5"),
        (lambda: attack(threat=ThreatModel("linf", torch.tensor([0.1, 0.2]))), DataError, "2 radii for 4"),
        (lambda: attack(start="middle"), ThreatError, "'uniform'"),
        (lambda: attack(restarts=0), ConfigError, "restarts is 0; give 1 or more"),
        (lambda: attack(eot=0), ConfigError, "eot is 0; give 1 or more"),
        (lambda: attacks.pgd(small_cnn(), X, Y, THREAT, steps=0), ConfigError, "steps is 0; give 1 or more"),
        (lambda: attacks.mifgsm(small_cnn(), X, Y, THREAT, steps=0), ConfigError, "steps is 0; give 1 or more"),
        (lambda: attacks.nifgsm(small_cnn(), X, Y, THREAT, steps=-1), ConfigError, "steps is -1; give 1 or more"),
        (lambda: attacks.cosine_pgd(small_cnn(), X, Y, THREAT, steps=0), ConfigError, "steps is 0; give 1 or more"),
        (lambda: attacks.apgd(small_cnn(), X, Y, THREAT, steps=0), ConfigError, "steps is 0; give 1 or more"),
        (
            lambda: attacks.apgd_targeted(small_cnn(), X, Y, THREAT, target_classes=0),
            ConfigError,
            "target_classes is 0",
        ),
        (lambda: attacks.square(small_cnn(), X, Y, THREAT, restarts=0), ConfigError, "restarts is 0; give 1 or more"),
        (lambda: attack(steps_=3), TypeError, "steps_"),
    ],
)
def test_bad_input_raises_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call()
    if issubclass(kind, AdvregError):
        assert "\n" not in str(caught.value)


class NanBeyond(nn.Module):
    """A model with NaN outputs for all inputs except constant grey."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = (x - 0.5).abs().flatten(1).amax(1, keepdim=True) > 0.02
        return torch.where(far, torch.nan, self.inner(x))


GREY = torch.full((2, 1, 8, 8), 0.5)
NAN = {
    "pgd": functools.partial(attacks.pgd, steps=5),
    "pgd to the end": functools.partial(attacks.pgd, steps=5, early_stop=False),
    "apgd": functools.partial(attacks.apgd, steps=5),
    "fab": functools.partial(attacks.fab, steps=5, restarts=2),
    "square": functools.partial(attacks.square, queries=50),
    "square to the end": functools.partial(attacks.square, queries=50, early_stop=False),
    "hopskipjump": functools.partial(attacks.hopskipjump, queries=100),
}


@pytest.mark.parametrize("name", NAN)
def test_nan_output_under_attack_counts_as_broken(name: str) -> None:
    model, threat = NanBeyond(small_cnn()).eval(), ThreatModel("linf", 0.1)
    y = model(GREY).argmax(1)
    found = NAN[name](model, GREY, y, threat)
    assert found.broken.all()
    assert torch.equal(found.broken, attacks.verify(model, GREY, found.x_adv, y, threat))
    assert threat.contains(found.x_adv, GREY).all()
    assert torch.isfinite(found.distance).all()
    assert not found.loss.isnan().any()


@pytest.mark.parametrize("name", NAN)
def test_nan_output_is_not_the_target_class(name: str) -> None:
    model = NanBeyond(small_cnn()).eval()
    target = (model(GREY).argmax(1) + 1) % 5
    found = NAN[name](model, GREY, target, ThreatModel("linf", 0.1), targeted=True)
    assert torch.isfinite(model(found.x_adv[found.broken])).all()


@pytest.mark.parametrize("name", NAN)
def test_nan_of_a_fast_copy_must_be_confirmed(name: str) -> None:
    class Poor(NanBeyond, ProxyModel):
        @property
        def original(self) -> nn.Module:
            return self.inner

    y = small_cnn()(GREY).argmax(1)
    found = NAN[name](Poor(small_cnn()).eval(), GREY, y, ThreatModel("linf", 0.1))
    assert torch.equal(found.broken, small_cnn()(found.x_adv).argmax(1) != y)


@pytest.mark.parametrize("name", NAN)
def test_nan_on_clean_inputs_raises(name: str) -> None:
    with pytest.raises(ModelError, match="2 of 2 clean inputs"):
        NAN[name](NanBeyond(small_cnn()).eval(), GREY + 0.2, torch.tensor([0, 1]), ThreatModel("linf", 0.1))


def test_model_and_global_state_are_unchanged() -> None:
    model = small_cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    attack(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
