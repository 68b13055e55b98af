"""Evaluation: figures follow from the ledger, the original model verifies, and finished work is never lost."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch
from torch import nn

from advreg import ThreatModel, attacks, evaluate, load_model, robustness_curve
from advreg.data import load
from advreg.errors import ConfigError, DataError, ModelError, RunError, ThreatError
from advreg.evaluation import Protocol, ProtocolStage, resolve
from advreg.evaluation.examples import examples_of
from advreg.models import FastCopy, describe, freeze, state_sha256
from advreg.runs import Ledger
from advreg.statistics import clopper_pearson_interval
from tests.attacks.models import Counter, small_cnn

THREAT = ThreatModel("linf", 0.02)


def batch(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and the labels of the random network, a few of them made wrong."""
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    y = small_cnn()(x).argmax(1)
    y[::20] = (y[::20] + 1) % 5
    return x, y


def test_figures_follow_from_the_verdicts() -> None:
    x, y = batch()
    found = evaluate(small_cnn(), (x, y), threat=THREAT, protocol="basic")
    assert found.clean_accuracy == pytest.approx(1 - 15 / 300)
    standing = int((~found.broken).sum())
    assert 0 < standing < 285
    assert found.robust_accuracy == standing / 300
    assert found.interval == clopper_pearson_interval(standing, 300)
    assert found.attack_success_rate == pytest.approx((285 - standing) / 285)
    assert found.by_attack[-1].robust_accuracy == found.robust_accuracy
    assert sum(a.broken for a in found.by_attack) == int(found.broken.sum()) - 15
    assert found.by_attack[1].tried == 285 - found.by_attack[0].broken
    assert sum(c.n for c in found.per_class) == 300
    assert found.protocol == "linf-0.02-basic@2"


def test_cost_is_what_hooks_count(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch(40)
    model = small_cnn()
    count = Counter(model)
    monkeypatch.setattr("advreg.models.freeze", _plain)
    monkeypatch.setattr("advreg.models.check_model", lambda *_, **__: None)
    found = evaluate(model, (x, y), threat=THREAT, protocol="basic")
    assert (found.forwards, found.backwards) == (count.forwards, count.backwards)
    assert count.weight_gradients() == 0


def _plain(model: nn.Module, *_: object, **__: object) -> FastCopy:
    """Return a target that is the model itself, so that one counter sees every pass."""
    return FastCopy(model, model, "plain")


def cheating(model, x, y, threat):
    """An attack of a user that claims everything and leaves the ball."""
    return attacks.CraftedExamples((x + 0.5).clamp(0, 1), 0, 0)


def honest(model, x, y, threat, *, seed):
    """An attack of a user that knows of a seed but not of ids."""
    return attacks.craft(model, x, y, threat, steps=20, seed=seed)


def test_custom_attacks_are_verified_like_others() -> None:
    x, y = batch(60)
    own = Protocol("own", 1, (ProtocolStage("cheating", cheating), ProtocolStage("honest", honest)))
    found = evaluate(small_cnn(), (x, y), threat=THREAT, protocol=own)
    assert found.by_attack[0].broken == 0
    assert found.by_attack[1].broken > 0
    assert found.protocol == "linf-0.02-own@1"


def test_an_interrupted_evaluation_resumes_to_the_same_bytes(tmp_path) -> None:
    x, y = batch(600)
    whole = evaluate(small_cnn(), (x, y), threat=THREAT, protocol="basic", out=tmp_path / "whole")
    calls = 0

    def stop(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(small_cnn(), (x, y), threat=THREAT, protocol="basic", out=tmp_path / "cut", on_progress=stop)
    ledger = tmp_path / "cut/evaluation/linf-0.02-basic@2/ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-40])  # a crash in the middle of a line of the last attack
    with pytest.warns(RuntimeWarning, match="cut by a crash"):
        again = evaluate(small_cnn(), (x, y), threat=THREAT, protocol="basic", out=tmp_path / "cut")
    assert torch.equal(again.broken, whole.broken)
    for name in ("ledger.jsonl", "examples.safetensors"):
        cut, straight = (tmp_path / run / "evaluation/linf-0.02-basic@2" / name for run in ("cut", "whole"))
        assert cut.read_bytes() == straight.read_bytes(), name
    assert (again.forwards, again.backwards) == (whole.forwards, whole.backwards)
    assert not (ledger.parent / "points").exists()


def test_a_finished_evaluation_is_read_and_not_run_again(tmp_path) -> None:
    model, (x, y) = small_cnn(), batch(50)
    first = evaluate(model, (x, y), threat=THREAT, out=tmp_path)
    count = Counter(model)
    second = evaluate(model, (x, y), threat=THREAT, out=tmp_path)
    assert second.robust_accuracy == first.robust_accuracy
    assert second.seconds == pytest.approx(first.seconds, abs=1e-3)
    assert count.forwards < 450  # the checks, the flags and the pictures, no attack: PGD alone would be 2,000
    stored = json.loads((tmp_path / "evaluation/linf-0.02-quick@2/results.json").read_text())
    assert stored["robust_accuracy"] == first.robust_accuracy
    assert stored["schema"] == "advreg/results@1"


def test_fingerprint_covers_all_data_for_every_n() -> None:
    x, y = batch(50)
    whole = examples_of((x, y), None, THREAT).sha256
    assert examples_of((x, y), 40, THREAT).sha256 == whole
    assert examples_of((x, y.int()), 40, THREAT).sha256 == whole
    assert examples_of((x[:40], y[:40]), None, THREAT).sha256 != whole


def test_evaluate_rejects_ledgers_of_other_runs(tmp_path) -> None:
    x, y = batch(50)
    evaluate(small_cnn(), (x, y), threat=THREAT, out=tmp_path)
    for call in (
        lambda: evaluate(small_cnn(seed=1), (x, y), threat=THREAT, out=tmp_path),
        lambda: evaluate(small_cnn(), (x.flip(0), y), threat=THREAT, out=tmp_path),
        lambda: evaluate(small_cnn(), (x, y), threat=THREAT, seed=1, out=tmp_path),
        lambda: evaluate(small_cnn(), (x, y), n=40, threat=THREAT, out=tmp_path),
    ):
        with pytest.raises(RunError, match="belongs to"):
            call()


def test_inference_mode_suits_callers_but_not_models() -> None:
    x, y = batch(40)
    expected = evaluate(small_cnn(), (x, y), threat=THREAT, protocol="strong")
    model = small_cnn()
    with torch.inference_mode():
        data, made_inside = (x.clone(), y.clone()), small_cnn()
        found = evaluate(model, data, threat=THREAT, protocol="strong")
        curve = robustness_curve(model, data, norm="linf", eps=[0.02])
    assert torch.equal(found.broken, expected.broken)
    assert found.flags == expected.flags
    assert curve.points[0].robust_accuracy < found.clean_accuracy
    with pytest.raises(ModelError, match=r"'0.weight' was made inside torch.inference_mode\(\).*outside"):
        evaluate(made_inside, (x, y), threat=THREAT)


class Swayed(nn.Module):
    """A network that looks at its input in a way that no weight tells of."""

    def __init__(self, size: float, *, noise: float = 0.0) -> None:
        super().__init__()
        self.inner, self.size, self.noise = small_cnn(), size, noise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + self.size * torch.sin(300 * x) + self.noise * torch.randn_like(x))


def test_evaluate_rejects_equal_weights_with_other_outputs(tmp_path) -> None:
    x, y = batch(50)
    first = evaluate(Swayed(0.05).eval(), (x, y), threat=THREAT, out=tmp_path)
    assert evaluate(Swayed(0.05).eval(), (x, y), threat=THREAT, out=tmp_path).robust_accuracy == first.robust_accuracy
    with pytest.raises(RunError, match="same weights and other outputs") as refused:
        evaluate(Swayed(0.0).eval(), (x, y), threat=THREAT, out=tmp_path)
    assert "\n" not in str(refused.value)


def test_random_and_batch_dependent_models_are_resumed(tmp_path) -> None:
    x, y = batch(50)
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    for k, model in enumerate([Swayed(0.0, noise=0.05), nn.Sequential(norm, small_cnn())]):
        first, again = (evaluate(model.eval(), (x, y), threat=THREAT, out=tmp_path / str(k)) for _ in range(2))
        assert torch.equal(first.broken, again.broken), "the ledger's rows, not a second measurement"


class Wrapping(nn.Module):
    """A defence that keeps the network it wraps, and more, under names that others use too."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original, self.score_only, self.fingerprint = original, True, "0" * 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.original(1 - x)


def test_a_models_own_attributes_do_not_speak_for_it(tmp_path) -> None:
    x, _ = batch(40)
    model = Wrapping(small_cnn()).eval()
    y = model(x).argmax(1)
    found = evaluate(model, (x, y), threat=THREAT, out=tmp_path)
    assert found.clean_accuracy == 1
    assert found.flags["answers_only"] is False
    result = attacks.pgd(model, x, y, THREAT)
    torch.testing.assert_close(result.broken, model(result.x_adv).argmax(1) != y)
    torch.testing.assert_close(freeze(model, x)(x), model(x), atol=1e-5, rtol=0)
    assert describe(model)["sha256"] == state_sha256(model)


class NanAt(nn.Module):
    """A model that answers NaN for bright inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = small_cnn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0.6, torch.nan, self.inner(x))


def dazzle(model, x, y, threat):
    """An attack that steps where the model answers NaN."""
    return attacks.CraftedExamples((x + 0.02).clamp(0, 1), 0, 0)


def test_nan_under_attack_is_flagged_and_counted_as_broken(tmp_path) -> None:
    x = torch.full((20, 1, 8, 8), 0.59)
    y = small_cnn()(x).argmax(1)
    own = Protocol("dazzle", 1, (ProtocolStage("dazzle", dazzle),))
    found = evaluate(NanAt().eval(), (x, y), threat=ThreatModel("linf", 0.03), protocol=own, out=tmp_path)
    assert found.broken.all()
    assert found.flags["non_finite"] == 20
    assert found.verdict == "SUSPECT"
    for row in Ledger.open(tmp_path / "evaluation" / found.protocol / "ledger.jsonl").rows():
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_evaluate_rejects_nan_on_clean_inputs(tmp_path) -> None:
    x, y = batch(40)
    x[30:] = 0.9
    with pytest.raises(ModelError, match="10 of 40 clean inputs"):
        evaluate(NanAt().eval(), (x, y), threat=THREAT, out=tmp_path)


def test_the_curve_never_rises_and_meets_the_evaluation() -> None:
    x, y = batch(100)
    curve = robustness_curve(small_cnn(), (x, y), norm="linf", eps=[0.05, 0.0, 0.02, 0.01])
    accuracies = [p.robust_accuracy for p in curve.points]
    assert [p.eps for p in curve.points] == [0.0, 0.01, 0.02, 0.05]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] == pytest.approx(0.95)
    assert accuracies[-1] < accuracies[0]


def test_attacks_never_beat_a_certificate(shared) -> None:
    """Tjeng et al. (ICLR 2019) proved 95.62% on the 10,000 test images: at most 438 can be broken."""
    model = load_model("zoo:mnist-small", weights=shared / "checkpoints/mnist_wk17a_linf0.1.pth")
    _, test = load("mnist")
    found = evaluate(model, test, threat=ThreatModel("linf", 0.1), n=1024)
    assert found.clean_accuracy >= 0.97
    assert int(found.broken.sum()) <= 438
    assert found.robust_accuracy < found.clean_accuracy


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_published_pgd_accuracy_of_the_trades_network(shared) -> None:
    """PGD-40 x 1 at linf 0.3, step 0.01: 96.07% published."""
    model = load_model("zoo:mnist-trades", weights=shared / "checkpoints/mnist_trades_smallcnn.pt")
    _, test = load("mnist")
    attack = functools.partial(attacks.pgd, steps=40, step_size=0.01)
    found = evaluate(
        model, test, threat=ThreatModel("linf", 0.3), protocol=Protocol("p", 1, (ProtocolStage("pgd", attack),))
    )
    assert found.robust_accuracy == pytest.approx(0.9607, abs=0.003)


def twice(*names: str) -> Protocol:
    return Protocol("twice", 1, tuple(ProtocolStage(name, attacks.pgd) for name in names))


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (
            lambda x, y: evaluate(small_cnn(), (x, y), threat=THREAT, protocol="qick"),
            ConfigError,
            "Did you mean 'quick'",
        ),
        (lambda x, y: evaluate(small_cnn(), (x, y), threat=THREAT, n=0), DataError, "give 1 to 30"),
        (
            lambda x, y: evaluate(small_cnn(), (x, torch.eye(5)[y]), threat=THREAT),
            DataError,
            r"labels \(N,\): give y.argmax",
        ),
        (
            lambda x, y: evaluate(small_cnn(), [x, y], threat=THREAT),
            DataError,
            "list of Tensor, Tensor; give a data set",
        ),
        (
            lambda x, y: evaluate(small_cnn(), (x, y, y), threat=THREAT),
            DataError,
            "tuple of Tensor, Tensor, Tensor; give",
        ),
        (
            lambda x, y: evaluate(small_cnn(), iter([(x, y)]), threat=THREAT),
            DataError,
            "an iterator has no lasting order",
        ),
        (
            lambda x, y: evaluate(small_cnn(), (x, y), threat=ThreatModel("linf", torch.full((30,), 0.1))),
            ThreatError,
            "eps is a tensor of 30; .* evaluate each radius by itself",
        ),
        (lambda x, y: twice("pgd", "pgd"), ConfigError, "called 'pgd', as one before it is; give it another name"),
        (lambda x, y: twice("clean"), ConfigError, "called 'clean', as the unattacked examples are; give it another"),
        (
            lambda x, y: resolve("quick", "linf").followed_by("advreg.attacks:pgd", "advreg.attacks:pgd"),
            ConfigError,
            "called 'advreg.attacks.pgd', as one before it is; give it another name",
        ),
        (lambda x, y: evaluate(small_cnn(), (x * 255, y), threat=THREAT), DataError, "divide images by 255"),
        (lambda x, y: evaluate(small_cnn().train(), (x, y), threat=THREAT), ModelError, "eval"),
        (
            lambda x, y: evaluate(nn.Sequential(small_cnn(), nn.Softmax(1)).eval(), (x, y), threat=THREAT),
            ModelError,
            "prob",
        ),
        (lambda x, y: evaluate(small_cnn(), (x, y + 3), threat=THREAT), DataError, "label 7"),
        (lambda x, y: evaluate(small_cnn(), (x, y), threat=THREAT, out="/proc/none"), RunError, "cannot create"),
    ],
)
def test_evaluate_rejects_in_one_line(call, kind, words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(*batch(30))
    assert "\n" not in str(caught.value)
