"""The frozen target computes what the model computes, gives gradients to the input alone, and folds only what it may."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ModelError
from advreg.models import describe, freeze, state_sha256
from advreg.models.batchnorm_folding import fold


def _randomise(model, seed=0):
    """Give every BatchNorm statistics and scales that make folding visible, the signs included."""
    g = torch.Generator().manual_seed(seed)
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=g))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
        norm.weight.data.copy_(torch.randn(norm.num_features, generator=g))
        norm.bias.data.copy_(torch.randn(norm.num_features, generator=g))
    return model.eval()


def _norms(model):
    return sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def _relative(a, b):
    return float(((a - b).abs().max() / b.abs().max()).detach())


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return _randomise(advreg.load_model("zoo:preact-resnet18", width=0.25))


X = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_a_full_preact_resnet18_folds_to_itself():
    torch.manual_seed(0)
    model = _randomise(advreg.load_model("zoo:preact-resnet18"))
    target = freeze(model, X[:2], channels_last=True)
    assert target.choice == "float32 channels_last folded"
    assert _norms(model) - _norms(target) == 8  # bn2 of each block; bn1 reads what the shortcut reads too
    with torch.no_grad():
        assert _relative(target(X[:2]), model(X[:2])) < 1e-5


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_gradient_is_the_models_and_reaches_the_input_alone(resnet, channels_last):
    target = freeze(resnet, X, channels_last=channels_last)
    grads = []
    for net in (target, resnet):
        x = X.clone().requires_grad_(True)
        net(x).logsumexp(1).sum().backward()
        grads.append(x.grad)
    assert _relative(*grads) < 1e-4
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.grad is None for p in target.parameters())
    resnet.zero_grad()


def test_folding_commutes_in_float64_to_rounding(resnet):
    model = copy.deepcopy(resnet).double()
    x = X.double()
    target = freeze(model, x)
    assert target(x).dtype == torch.float64
    assert _relative(target(x), model(x)) < 1e-13


def test_the_original_is_neither_changed_nor_part_of_the_target(resnet):
    before, norms = state_sha256(resnet), _norms(resnet)
    resnet.train()
    target = freeze(resnet)
    assert resnet.training
    assert not target.training
    resnet.eval()
    assert (state_sha256(resnet), _norms(resnet)) == (before, norms)
    assert target.original is resnet
    assert all(p.requires_grad for p in resnet.parameters())
    assert {id(p) for p in target.parameters()}.isdisjoint(id(p) for p in resnet.parameters())
    assert describe(target) == describe(resnet)
    assert freeze(target).original is resnet


def test_a_target_stays_in_eval_mode(resnet):
    target = freeze(resnet).train()
    assert not any(m.training for m in target.modules())


def test_bfloat16_is_near_and_returns_the_callers_type(resnet):
    target = freeze(resnet, X, precision="bfloat16")
    x = X.clone().requires_grad_(True)
    z = target(x)
    assert z.dtype == torch.float32
    (gradient,) = torch.autograd.grad(z.sum(), x)
    assert gradient.dtype == torch.float32
    assert 1e-5 < _relative(z, resnet(x)) < 0.1  # really in 16 bits, and not wrong


def test_last_layer_of_a_16_bit_copy_has_float32_resolution(resnet):
    """Square keeps a point where a score rose: scores on a grid of 1/64 hide most steps, and it stops too early."""
    z = freeze(resnet, X, precision="bfloat16")(X)
    assert (z != z.bfloat16().float()).float().mean() > 0.9


def test_auto_chooses_one_of_the_candidates_and_needs_an_example(resnet):
    target = freeze(resnet, X, precision="auto")
    kinds = {f"{kind}{layout} folded" for kind in ("float32", "bfloat16") for layout in ("", " channels_last")}
    assert target.choice in kinds
    with pytest.raises(ModelError, match="give freeze an example"):
        freeze(resnet, precision="auto")
    with pytest.raises(ModelError, match="unknown precision 'fp16'"):
        freeze(resnet, precision="fp16")


def test_auto_takes_the_fastest_by_its_clock(resnet, monkeypatch):
    clock = {"float32 folded": 4.0, "float32 channels_last folded": 3.0, "bfloat16 folded": 1.0}
    monkeypatch.setattr("advreg.models.fast_copy._seconds", lambda target, x: clock.get(target.choice, 2.0))
    assert freeze(resnet, X, precision="auto").choice == "bfloat16 folded"


def test_a_network_without_images_or_norms_is_frozen_as_it_is():
    model = advreg.load_model("zoo:mnist-dnn")
    target = freeze(model)
    x = torch.rand(3, 1, 28, 28)
    assert target.choice == "float32"
    assert torch.equal(target(x), model(x))


class _Shaped(nn.Module):
    """A convolution and a BatchNorm after it, joined by a rule that a test names."""

    def __init__(self, rule, conv=None, norm=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(3, 3, 3, padding=1)
        self.bn = norm or nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 4)
        self.rule = rule

    def forward(self, x):
        return self.head(self.rule(self, x).mean((2, 3)))


def _by_value(m, x):
    return m.bn(m.conv(x)) if x.mean() > 0 else m.bn(x)


MAY_NOT = {
    "two readers": lambda m, x: m.bn(c := m.conv(x)) + c,
    "used twice": lambda m, x: m.bn(m.conv(m.conv(x))),
    "norm used twice": lambda m, x: m.bn(m.bn(m.conv(x))),
    "something between": lambda m, x: m.bn(m.conv(x).relu()),
    "norm first": lambda m, x: m.conv(m.bn(x)),
    "control flow": _by_value,
    "noise": lambda m, x: m.bn(m.conv(x + torch.rand_like(x))),
}


@pytest.mark.parametrize("rule", MAY_NOT.values(), ids=MAY_NOT.keys())
def test_what_may_not_be_folded_is_not(rule):
    model = _randomise(_Shaped(rule))
    net, count = fold(model, X)
    assert count == 0
    assert _norms(net) == 1


def test_what_may_be_folded_is():
    model = _randomise(_Shaped(lambda m, x: m.bn(m.conv(x)).relu()))
    for example in (X, None):
        net, count = fold(model, example)
        assert (count, _norms(net)) == (1, 0)
        assert _relative(net(X), model(X)) < 1e-5


def test_linear_layers_and_norms_fold_too():
    model = _randomise(nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    x = torch.rand(6, 3, 2, 2)
    net, count = fold(model, x)
    assert count == 1
    assert _relative(net(x), model(x)) < 1e-5


class _Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_do_more_than_their_type_stay_unfolded():
    chain = _Shaped(lambda m, x: m.bn(m.conv(x)), conv=_Doubling(3, 3, 1))
    normed = _Shaped(lambda m, x: m.bn(m.conv(x)), conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))
    hooked = _Shaped(lambda m, x: m.bn(m.conv(x)))
    hooked.conv.register_forward_hook(lambda module, args, out: out + 1)
    batch = _Shaped(lambda m, x: m.bn(m.conv(x)), norm=nn.BatchNorm2d(3, track_running_stats=False))
    for model in (chain, normed, hooked, batch):
        net, count = fold(model.eval(), X)
        assert count == 0
        assert torch.equal(net(X), model(X))


def test_a_fold_that_does_not_agree_is_dropped(monkeypatch):
    model = _randomise(_Shaped(lambda m, x: m.bn(m.conv(x))))
    monkeypatch.setattr("advreg.models.batchnorm_folding.fuse_conv_bn_eval", lambda conv, norm: copy.deepcopy(conv))
    net, count = fold(model, X)
    assert count == 0
    assert torch.equal(net(X), model(X))


def test_the_layout_in_memory_does_not_change_the_logits(resnet):
    with torch.no_grad():
        near = _relative(freeze(resnet, channels_last=True)(X), freeze(resnet, channels_last=False)(X))
    assert near < 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch announces that the old weight norm goes
def test_a_model_with_a_weight_inside_a_graph_is_copied():
    model = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(48, 2))).eval()
    target = freeze(model, torch.rand(2, 3, 4, 4))
    assert target.original is model
    assert target.net is not model
    assert not any(p.requires_grad for p in target.parameters())
    assert torch.equal(target(torch.ones(2, 3, 4, 4)), model(torch.ones(2, 3, 4, 4)))


def test_a_model_that_cannot_be_copied_is_attacked_as_it_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)).eval()
    model.lock = threading.Lock()  # no copy of it can be made
    target = freeze(model, torch.rand(2, 3, 4, 4))
    assert (target.net, target.choice, target.counted_modules) == (model, "as it is", (model,))
    assert all(p.requires_grad for p in model.parameters())
    target.train()
    assert not model.training


def test_compiled_copy_has_equal_logits_at_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    met = []

    def spy(net: nn.Module, **options: object) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: met.append(len(x)) or net(x)

    monkeypatch.setattr(torch, "compile", spy)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval(), torch.rand(70, 1, 2, 2)
    target = freeze(model, compiled=True)
    for n in (1, 3, 5, 16, 33, 70):
        torch.testing.assert_close(target(x[:n]), model(x[:n]))
    assert met == [4, 4, 8, 16, 64, 128]
    point = x[:5].clone().requires_grad_()
    torch.autograd.grad(target(point).sum(), point)
    with torch.no_grad():
        target(point)
    assert met[6:] == [8]  # with a gradient the plain copy answers


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, about itself
def test_real_compilation_keeps_logits() -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval(),
        torch.rand(9, 1, 8, 8),
    )
    target, y = freeze(model, x, compiled=True), model(x).argmax(1)
    with torch.no_grad():
        torch.testing.assert_close(target(x), model(x))
    threat = advreg.ThreatModel("linf", 0.02)
    for attack in (advreg.pgd, advreg.attacks.deepfool, functools.partial(advreg.attacks.square, queries=20)):
        assert torch.equal(attack(target, x, y, threat).broken, attack(model, x, y, threat).broken)
