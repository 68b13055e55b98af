"""Flags of an evaluation: random, masked, small, changing and inference-only models."""

from __future__ import annotations

import functools
import json
import sys

import pytest
import torch
from torch import Tensor, nn

from advreg import ThreatModel, attacks, evaluate, load_model
from advreg.errors import ConfigError, ModelError
from advreg.evaluation import Protocol, ProtocolStage, resolve
from advreg.evaluation.batch_sizing import AdaptiveBatcher, max_batch_size
from advreg.evaluation.model_probe import logit_spread, probe_model
from advreg.models.inference_only import InferenceOnlyModel
from advreg.models.zoo import NAMES
from tests.attacks.models import linear, small_cnn
from tests.evaluation.test_evaluate import THREAT, batch


class Noisy(nn.Module):
    """Adds noise to its input at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + 0.1 * torch.randn_like(x))


class Stepped(nn.Module):
    """Rounds its input to a few levels: the gradient is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.round(x * 15) / 15)


class Learning(nn.Module):
    """Changes a buffer whenever it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        return self.inner(x)


class Choosy(nn.Module):
    """Refuses inputs that a gradient is wanted of."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("no gradients here\nsee page 3")
        return self.inner(x)


def test_a_random_model_is_flagged_and_an_honest_one_is_not() -> None:
    x, y = batch(40)
    assert probe_model(Noisy().eval(), x, y).randomised
    honest = probe_model(small_cnn(), x, y)
    assert (honest.randomised, honest.zero_gradients, honest.few_classes) == (False, 0.0, False)
    assert (honest.forwards, honest.backwards) == (6 * 40, 40)


class Sized(nn.Module):
    """Adds noise that depends on how many inputs come together: the same batch gets the same answer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(x))
        return self.inner(x + 0.3 * torch.randn(x.shape[1:], generator=generator))


def normalised(*, alone: bool) -> nn.Sequential:
    """A network with a BatchNorm that answers by the batch's own statistics, as it has none; one example is too few for it."""
    norm = nn.BatchNorm2d(1, track_running_stats=False) if alone else nn.BatchNorm1d(64, track_running_stats=False)
    layers = [norm, nn.Flatten()] if alone else [nn.Flatten(), norm]
    return nn.Sequential(*layers, nn.Linear(64, 5)).eval()


@pytest.mark.parametrize("model", [Sized().eval(), normalised(alone=True)])
def test_batch_dependent_outputs_are_unreliable(model: nn.Module) -> None:
    x, _ = batch(40)
    found = evaluate(model, (x, model(x).argmax(1)), threat=ThreatModel("linf", 0.001))
    assert (found.flags["batch_dependent"], found.flags["randomised"]) == (True, False)
    assert found.verdict == "UNRELIABLE"
    check = next(check for check in found.checks if check.name == "batch")
    assert "BatchNorm" in check.remedy


def test_raising_on_one_example_is_batch_dependence() -> None:
    x, y = batch(40)
    lonely = probe_model(normalised(alone=False), x, y)
    assert (lonely.batch_dependent, lonely.forwards) == (True, 5 * 40)
    assert not probe_model(Noisy().eval(), x, y).batch_dependent
    assert not probe_model(small_cnn(), x[:1], y[:1]).batch_dependent


@pytest.mark.parametrize("name", [*(name for name in NAMES if name not in ("mlp", "signal-cnn")), "wide-resnet-10-2"])
def test_rounding_in_batches_of_other_sizes_is_no_dependence(name: str) -> None:
    if name == "wide-resnet-28-10":
        pytest.skip("the same layers as wide-resnet-10-2, only more of them")
    model = load_model(f"zoo:{name}").eval()
    x = torch.rand(16, *((1, 28, 28) if name.startswith("mnist") else (3, 32, 32)))
    assert not probe_model(model, x, torch.zeros(16, dtype=torch.int64)).batch_dependent
    halves = torch.stack([model(x), torch.cat([model(x[:1]), model(x[1:])])]).detach()
    assert float(logit_spread(halves).max()) < 1e-5, "what the tolerance is a thousand times of"


def test_vanished_gradients_are_counted() -> None:
    x, y = batch(40)
    assert probe_model(Stepped().eval(), x, y).zero_gradients == 1.0


def test_every_protocol_runs_and_flags_few_classes() -> None:
    x = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    for classes in (2, 3):
        model = linear(16, classes, dtype=torch.float32)
        found = evaluate(model, (x, model(x).argmax(1)), threat=ThreatModel("linf", 0.01), protocol="standard")
        assert found.flags["few_classes"] is True
    assert 0 <= found.robust_accuracy <= 1


def test_what_a_black_box_breaks_alone_is_the_gain() -> None:
    x, y = batch(60)
    own = Protocol("own", 1, (ProtocolStage("pgd", attacks.pgd), ProtocolStage("square", attacks.square)))
    masked = evaluate(Stepped().eval(), (x, y), threat=ThreatModel("linf", 0.1), protocol=own)
    assert masked.flags["black_box_gain"] > 0.1
    assert masked.flags["black_box_gain"] == pytest.approx(masked.by_attack[1].broken / 60)
    assert evaluate(small_cnn(), (x, y), threat=THREAT, protocol="basic").flags["black_box_gain"] is None


@pytest.mark.parametrize("order", [("pgd", "square", "apgd"), ("pgd", "square"), ("square", "pgd")])
def test_the_flag_and_the_check_count_the_same_black_boxes(order: tuple[str, ...]) -> None:
    x, y = batch(60)
    own = Protocol("own", 1, tuple(ProtocolStage(name, getattr(attacks, name)) for name in order))
    masked = evaluate(Stepped().eval(), (x, y), threat=ThreatModel("linf", 0.1), protocol=own)
    check = next(check for check in masked.checks if check.name == "black-box")
    assert check.measured == masked.flags["black_box_gain"]
    assert (check.measured is None) == (order[0] == "square")
    assert check.verdict == ("skipped" if order[0] == "square" else "fail")


def centred(x: Tensor) -> nn.Module:
    """Return the random network without the bias that makes it answer one class for nearly everything."""
    net = small_cnn()
    with torch.no_grad():
        net[-1].bias -= net(x).mean(0)
    return net


def test_trusted_needs_two_attacks_and_suspect_does_not(tmp_path) -> None:
    x, y = batch(60)
    basic = evaluate(centred(x), (x, centred(x)(x).argmax(1)), threat=THREAT, protocol="basic")
    assert basic.verdict is None
    several = centred(x)
    data = x, several(x).argmax(1)
    honest = evaluate(several, data, threat=ThreatModel("linf", 0.005), protocol="strong", out=tmp_path)
    assert honest.verdict == "TRUSTED"
    stored = json.loads((tmp_path / "evaluation" / honest.protocol / "results.json").read_text())
    assert stored["verdict"] == "TRUSTED"
    assert {check["name"] for check in stored["checks"]} >= {"black-box", "steps", "randomness", "zero-gradients"}
    masked = evaluate(Stepped().eval(), (x, y), threat=ThreatModel("linf", 0.02), protocol="quick")
    assert masked.verdict == "UNRELIABLE"
    assert evaluate(Noisy().eval(), (x, y), threat=THREAT, protocol="quick").verdict != "TRUSTED"


def test_evaluate_rejects_models_that_change_themselves() -> None:
    with pytest.raises(ModelError, match="changed its own weights or buffers"):
        evaluate(Learning().eval(), batch(20), threat=THREAT)


def test_a_model_that_fails_under_attack_is_one_line() -> None:
    with pytest.raises(ModelError) as refused:
        evaluate(Choosy().eval(), batch(30), threat=THREAT, protocol="quick")
    assert str(refused.value) == (
        "the model failed under attack (annealed-ce, examples 1 to 29): ValueError: no gradients here"
    )


@pytest.mark.parametrize("shape", [(17,), (3, 11), (2, 5, 9)])
def test_inputs_need_not_be_square_images(shape: tuple[int, ...]) -> None:
    x = torch.rand(20, *shape, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 5)).eval()
    found = evaluate(model, (x, model(x).argmax(1)), threat=ThreatModel("linf", 0.02), protocol="strong")
    assert found.clean_accuracy == 1.0


def test_float64_models_take_inputs_of_either_precision() -> None:
    x, y = batch(20)
    found = evaluate(small_cnn().double(), (x.double(), y), threat=THREAT)
    mixed = evaluate(small_cnn().double(), (x, y), threat=THREAT)
    assert found.robust_accuracy < 1
    assert torch.equal(mixed.broken, found.broken)


def test_inference_only_models_run_black_box_attacks() -> None:
    x, y = batch(20)
    scores = InferenceOnlyModel(_Asked(small_cnn()))
    found = evaluate(scores, (x, y), threat=ThreatModel("linf", 0.1), protocol="blackbox")
    assert found.by_attack[-1].broken > 0
    assert found.flags["zero_gradients"] is None
    assert found.flags["answers_only"]
    raised = {check.cause for check in found.checks if check.verdict == "suspect"}
    assert (found.verdict, "answers only" in raised) == ("SUSPECT", True), "nobody cut a gradient, and nobody saw one"
    with pytest.raises(ModelError, match=r"no gradient flows.*protocol blackbox"):
        evaluate(scores, (x, y), threat=ThreatModel("linf", 0.1), protocol="quick")
    labels = InferenceOnlyModel(_Asked(small_cnn(), labels=True), classes=5)
    told = evaluate(labels, (x, y), threat=ThreatModel("linf", 0.4), protocol="labels", n=4)
    assert told.by_attack[0].broken > 0


def once(model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> attacks.CraftedExamples:
    """An attack of a user that asks once and does not say so."""
    model(x)
    return attacks.CraftedExamples(x, 0, 0)


def test_passes_of_custom_attacks_are_counted_once() -> None:
    x, y = batch(40)
    own = Protocol("own", 1, (ProtocolStage("once", once),))
    for model in (small_cnn(), InferenceOnlyModel(_Asked(small_cnn()))):
        asked = evaluate(model, (x, y), threat=THREAT, protocol=own).by_attack[0]
        assert asked.forwards == 2 * asked.tried, "its question, and the judge's"


class _Asked:
    """A service, without the wire."""

    score_only, fingerprint = True, "0" * 64

    def __init__(self, model: nn.Module, *, labels: bool = False) -> None:
        self.model, self.labels = model, labels

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        z = self.model(x)
        return z.argmax(1) if self.labels else z


def test_a_named_attack_of_ones_own_follows_a_protocol(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_for_test.py").write_text(
        "import advreg\n"
        "def nudge(model, x, y, threat, *, seed):\n"
        "    return advreg.attacks.craft(model, x, y, threat, steps=3, seed=seed)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    protocol = resolve("fgsm", "linf").followed_by("mine_for_test:nudge")
    x, y = batch(40)
    found = evaluate(small_cnn(), (x, y), threat=THREAT, protocol=protocol)
    assert found.protocol == "linf-0.02-fgsm+mine_for_test.nudge@2"
    mine = found.by_attack[1]
    assert (mine.forwards, mine.backwards) == (
        4 * mine.tried,
        3 * mine.tried,
    )  # counted, for it does not say: and the judge
    with pytest.raises(ConfigError, match=r"no function 'nugde'.*nudge"):
        protocol.followed_by("mine_for_test:nugde")


def test_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch(200)
    pgd_40 = Protocol("own", 1, (ProtocolStage("pgd-40", functools.partial(attacks.pgd, steps=40)),))
    whole = evaluate(small_cnn(), (x, y), threat=THREAT, protocol=pgd_40)

    def greedy(model, x, y, threat, **options):
        if len(x) > 60:
            raise torch.OutOfMemoryError("out of memory")
        return attacks.pgd(model, x, y, threat, steps=40, **options)

    halved = evaluate(
        small_cnn(), (x, y), threat=THREAT, protocol=Protocol("own", 1, (ProtocolStage("pgd-40", greedy),))
    )
    assert halved.flags["batch"] <= 60
    assert torch.equal(halved.broken, whole.broken)


def test_the_last_example_that_does_not_fit_is_one_line() -> None:
    def never(ids: Tensor) -> None:
        raise MemoryError

    with pytest.raises(ModelError, match="one example does not fit into memory"):
        AdaptiveBatcher(4).of(torch.arange(3), never)


def test_the_batch_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = batch(8)
    assert max_batch_size(small_cnn(), x, 256) == 256
    kept = 8 * 8 * 4  # the input alone: less than what any graph keeps
    monkeypatch.setattr("advreg.runtime.free_memory", lambda device: 100 * kept)
    small = max_batch_size(small_cnn(), x, 256)
    assert 1 <= small < 16
    monkeypatch.setattr("advreg.runtime.free_memory", lambda device: 400 * kept)
    assert max_batch_size(small_cnn(), x, 256) in (2 * small, 4 * small)
