"""Kinds of deployed model: each is measured as the plain network, or rejected by a line with a working remedy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import ThreatModel, attacks, models
from advreg.attacks.model import input_dtype
from advreg.errors import ModelError
from advreg.evaluation import Protocol, ProtocolStage, evaluate
from advreg.models import check_model, freeze, state_sha256, wrap_logits

THREAT = ThreatModel("linf", 0.05)
N = 40


def network() -> nn.Sequential:
    """Convolution, BatchNorm, dropout and a linear layer, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(144, 4)
        return nn.Sequential(*layers).eval()


X = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = network()(X).argmax(1)


def exported(model: nn.Module, *, fixed: bool = False) -> nn.Module:
    """The model as a program of torch.export, for any batch size or for one of 8."""
    shapes = None if fixed else ({0: torch.export.Dim.AUTO},)
    return torch.export.export(model, (X[:8],), dynamic_shapes=shapes).module()


def quantised() -> nn.Module:
    """The network with its linear layer in int8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that the function moves
        return torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}).eval()


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The network with its last layer parametrised."""
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model[5] = norm(model[5])
    return model.eval()


class Holding(nn.Module):
    """A network that keeps another one and gives back what it makes of the logits."""

    def __init__(self, inner: nn.Module, answer: Callable[[Tensor], object] = lambda z: z) -> None:
        super().__init__()
        self.inner, self.answer = inner, answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.inner(x))


class InPlace(nn.Module):
    """The network behind a step that writes into its input."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.inner, self.in_place = network(), in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.mul_(8).sub_(4).div_(8).add_(0.5) if self.in_place else x.mul(8).sub(4).div(8).add(0.5)
        logits: Tensor = self.inner(x)
        return logits


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(network())


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network(), X[:8])


def frozen_script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(scripted())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "scripted": scripted,
    "traced": traced,
    "frozen script": frozen_script,
    "exported": lambda: exported(network()),
    "exported inside": lambda: Holding(exported(network())),
    "compiled": lambda: torch.compile(network(), backend="eager"),
    "compiled ahead": lambda: torch.compile(network(), backend="aot_eager"),
    "parametrised": lambda: normed(nn.utils.parametrizations.weight_norm),
    "old weight norm": lambda: normed(nn.utils.weight_norm),
    "output object": lambda: wrap_logits(Holding(network(), lambda z: SimpleNamespace(logits=z)).eval()),
    "bfloat16": lambda: network().bfloat16(),
    "float16": lambda: network().half(),
    "float64": lambda: network().double(),
    "in place": lambda: InPlace(True).eval(),
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_model_is_evaluated_as_the_plain_network(kind: str) -> None:
    model, slack = KINDS[kind](), 2 if "16" in kind else 1  # rounding may move an example across the boundary
    found = evaluate(model, (X, Y), threat=THREAT, protocol="quick")
    expected = evaluate(network(), (X, Y), threat=THREAT, protocol="quick")
    assert abs(int(found.broken.sum()) - int(expected.broken.sum())) <= slack
    assert 0 < int(expected.broken.sum()) < N


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_model_is_diagnosed(kind: str) -> None:
    found = advreg.diagnose(KINDS[kind](), (X, Y), THREAT, n=16, quick=True)
    causes = {check.cause for check in found.checks if check.verdict in ("suspect", "unreliable")}
    plain = advreg.diagnose(network(), (X, Y), THREAT, n=16, quick=True)
    known = {check.cause for check in plain.checks if check.verdict in ("suspect", "unreliable")}
    assert causes <= known | ({"saturated", "wrong gradients"} if "16" in kind else set())


@pytest.mark.parametrize("kind", KINDS)
def test_freezing_leaves_the_kind_of_model_alone(kind: str) -> None:
    model = KINDS[kind]()
    gradients = [p.requires_grad for p in model.parameters()]
    example = X.clone()
    target = freeze(model, example)
    assert target.original is model
    assert torch.equal(example, X)
    assert [p.requires_grad for p in model.parameters()] == gradients
    dtype = input_dtype(model) or X.dtype
    with torch.no_grad():
        torch.testing.assert_close(
            target(X.to(dtype)).float(), model(X.clone().to(dtype)).float(), atol=1e-4, rtol=1e-4
        )


def test_freezing_that_measures_leaves_the_inputs_alone() -> None:
    example = X.clone()
    target = freeze(InPlace(True).eval(), example, precision="auto")
    assert torch.equal(example, X)
    assert target.choice.split()[0] in ("float32", "bfloat16")


@pytest.mark.parametrize("kind", ["scripted", "exported", "compiled ahead", "old weight norm"])
def test_costs_of_a_kind_of_model_are_those_of_the_plain_network(kind: str) -> None:
    def attack(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> SimpleNamespace:
        return SimpleNamespace(x_adv=attacks.craft(model, x, y, threat, steps=3).x_adv)  # does not count itself

    protocol = Protocol("own", 1, (ProtocolStage("own", attack),))
    found, expected = (evaluate(m, (X, Y), threat=THREAT, protocol=protocol) for m in (KINDS[kind](), network()))
    assert (found.forwards, found.backwards) == (expected.forwards, expected.backwards)


def test_int8_model_needs_a_protocol_without_gradients() -> None:
    model = quantised()
    with pytest.raises(ModelError, match=r"no gradient flows .*protocol blackbox") as caught:
        evaluate(model, (X, Y), threat=THREAT, protocol="quick")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="no gradient flows"):
        attacks.fab(model, X, Y, THREAT, steps=2)
    found = evaluate(model, (X[:8], Y[:8]), threat=THREAT, protocol="blackbox")
    assert found.flags["batch_dependent"]  # the scale of its activations is the batch's
    assert advreg.diagnose(model, (X, Y), THREAT, n=16, quick=True).verdict == "UNRELIABLE"


def test_int8_weights_have_a_fingerprint() -> None:
    model, other = quantised(), quantised()
    assert state_sha256(model) == state_sha256(other)
    other[5].set_weight_bias(torch.quantize_per_tensor(torch.zeros(4, 144), 0.1, 0, torch.qint8), torch.zeros(4))
    assert state_sha256(model) != state_sha256(other)


def test_train_mode_export_is_rejected_with_a_remedy() -> None:
    with pytest.raises(ModelError, match=r"train mode: aten.batch_norm.*export it again from model.eval"):
        check_model(exported(network().train()), X)
    assert check_model(exported(network().train().eval()), X) == 4


def test_fixed_batch_export_is_rejected_with_a_remedy() -> None:
    model = exported(network(), fixed=True)
    for work in (
        lambda: check_model(model, X[:8]),
        lambda: evaluate(model, (X, Y), threat=THREAT),
        lambda: attacks.pgd(model, X, Y, THREAT),
    ):
        with pytest.raises(ModelError, match=r"one batch size.*dynamic_shapes=.*Dim.AUTO") as caught:
            work()
        assert "\n" not in str(caught.value)
    assert check_model(exported(network()), X[:8]) == 4


def test_compiled_model_gives_one_gradient_and_the_remedy_works() -> None:
    model = torch.compile(network(), backend="aot_eager")
    with pytest.raises(ModelError, match=r"model was compiled.*_orig_mod.*freeze"):
        attacks.fab(model, X, Y, THREAT, steps=2)
    found = [attacks.fab(m, X, Y, THREAT, steps=5).min_distance for m in (model._orig_mod, freeze(model, X), network())]
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[2], rtol=1e-3, atol=1e-5)


def test_output_object_is_rejected_and_its_remedy_works() -> None:
    model = Holding(network(), lambda z: SimpleNamespace(logits=z)).eval()
    for work in (lambda: evaluate(model, (X, Y), threat=THREAT), lambda: attacks.pgd(model, X, Y, THREAT)):
        with pytest.raises(ModelError, match=r"advreg.models.wrap_logits\(model\)"):
            work()
    found = attacks.pgd(models.wrap_logits(model), X, Y, THREAT, steps=5)
    assert torch.equal(found.broken, attacks.pgd(network(), X, Y, THREAT, steps=5).broken)


@pytest.mark.parametrize("protocol", ["fgsm", "quick", "blackbox"])
def test_evaluation_is_the_same_in_place_and_out_of_place(protocol: str, tmp_path: Path) -> None:
    x, results = X.clone(), []
    for in_place in (False, True):
        folder = tmp_path / str(in_place)
        results.append(
            evaluate(InPlace(in_place).eval(), (x[:16], Y[:16]), threat=THREAT, protocol=protocol, out=folder)
        )
        assert torch.equal(x, X)
    assert torch.equal(results[0].broken, results[1].broken)
    assert (results[0].forwards, results[0].backwards) == (results[1].forwards, results[1].backwards)


def test_diagnosis_is_the_same_in_place_and_out_of_place() -> None:
    found = [advreg.diagnose(InPlace(p).eval(), (X, Y), THREAT, n=16, quick=True) for p in (False, True)]
    first, second = ({check.name: (check.verdict, check.measured) for check in d.checks} for d in found)
    assert first == second


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_inputs_of_any_floating_type_are_evaluated_and_written(dtype: torch.dtype, tmp_path: Path) -> None:
    x = (X * 16).round() / 16  # exact in every type
    found = evaluate(network(), (x.to(dtype), Y), threat=THREAT, out=tmp_path / "own")
    expected = evaluate(network(), (x, Y), threat=THREAT)
    assert torch.equal(found.broken, expected.broken)


@pytest.mark.parametrize("layout", ["channels last", "transposed", "every other"])
def test_inputs_of_any_layout_are_evaluated_and_written(layout: str, tmp_path: Path) -> None:
    x = {
        "channels last": X.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "transposed": X.transpose(2, 3).expand(-1, 3, -1, -1),
        "every other": X.repeat_interleave(2, 0)[::2].expand(-1, 3, -1, -1),
    }[layout]
    model = nn.Sequential(nn.Conv2d(3, 1, 1), network()).eval()
    y = model(x).argmax(1)
    found = evaluate(model, (x, y), threat=THREAT, out=tmp_path / "a")
    expected = evaluate(model, (x.contiguous(), y), threat=THREAT, out=tmp_path / "b")
    assert torch.equal(found.broken, expected.broken)
