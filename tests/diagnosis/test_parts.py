"""The parts by closed forms: approximations, graphs, numerics, binarisation, averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import attacks
from advreg.diagnosis import bpda, loss_surface
from advreg.diagnosis.adaptive_attacks import samples_needed
from advreg.diagnosis.autograd_inspection import dead_modules, flat_operations
from advreg.diagnosis.checks import convergence, failure_indicators, model_flags, numerics, stronger_attacks
from advreg.diagnosis.checks.binarization import binarisation, fit_readout, last_linear
from advreg.diagnosis.checks.stronger_attacks import accuracy_rises
from advreg.diagnosis.checks.training_history import collapse, label_leaking, training_history
from advreg.diagnosis.context import DiagnosisContext
from advreg.diagnosis.diagnose import run_check
from advreg.diagnosis.gradient_checks import Averaged, relative_spread
from advreg.diagnosis.module_hooks import with_value
from advreg.diagnosis.pgd_trace import Trace, late_gain, trace_pgd
from advreg.objectives import are_probabilities
from advreg.results.checks import Check, flag_check, skip_check

from . import planted
from .conftest import TINY, digits

THREAT = advreg.ThreatModel("linf", 0.2)


def context(model: nn.Module, n: int = 20, **options: object) -> DiagnosisContext:
    x, y = digits(n)
    right = model(x).argmax(1) == y
    given = {"robust": right, "attack": attacks.pgd, "threat": THREAT, **options}
    return DiagnosisContext(
        model=model, x=x, y=y, ids=torch.arange(n), right=right, claim="pgd-40", budget=TINY, **given
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("operation", [torch.round, torch.floor, torch.ceil, torch.sign, lambda x: (x > 0.3).float()])
def test_straight_through_keeps_values_and_adds_a_gradient(operation: object) -> None:
    x = torch.linspace(-1, 1, 41).requires_grad_(True)
    with bpda.StraightThrough():
        output = operation(x)  # type: ignore[operator]
    assert torch.equal(output.detach(), operation(x.detach()))  # type: ignore[operator]
    output.sum().backward()
    assert bool((x.grad > 0).all())


def test_straight_through_is_the_identity_for_rounding() -> None:
    x = torch.rand(5).requires_grad_(True)
    with bpda.StraightThrough():
        (3 * x).round().detach().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3.0] * 5


def test_straight_through_bypasses_saturated_softmax_only() -> None:
    for scale, expected in ((1000.0, 1000.0), (1.0, None)):
        z = torch.tensor([[1.0, 0.0]], requires_grad=True)
        with bpda.StraightThrough():
            (scale * z).softmax(1)[0, 0].backward()
        assert z.grad is not None
        soft = math.exp(1) / (1 + math.exp(1))
        assert float(z.grad[0, 0]) == pytest.approx(expected or soft * (1 - soft))


def test_with_value_passes_no_gradient_through_the_value() -> None:
    class Raising(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            raise RuntimeError("must not be called")

    x = torch.ones(3, requires_grad=True)
    with bpda.StraightThrough():
        with_value(Raising.apply(x), 2 * x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("make", [bpda.StraightThroughProxy, lambda m: bpda.BpdaProxy(m, {"0": bpda.identity})])
def test_a_proxy_has_the_logits_of_the_model(make: object) -> None:
    model = planted.masked(planted.Quantised(), planted.plain())
    x, _ = digits(8)
    proxy = make(model)  # type: ignore[operator]
    assert torch.equal(proxy(x), model(x))
    assert proxy.original is model
    assert not list(proxy.parameters())


def test_a_fitted_approximation_guides_the_attack() -> None:
    model = planted.masked(planted.Thermometer(), planted.plain())
    x, y = digits(16)
    approximations = bpda.fit_bpda(model, x, steps=60)
    assert list(approximations) == ["0"]
    found = attacks.apgd(bpda.BpdaProxy(model, approximations), x, y, THREAT, steps=30)
    assert found.robust_accuracy <= 0.1


def test_the_callers_backward_pass_comes_first() -> None:
    model = planted.masked(planted.Raising(), planted.plain())
    x, y = digits(16)
    for own in ({"0": bpda.identity}, planted.plain()):
        found = advreg.diagnose(model, (x, y), THREAT, budget=TINY, adapt=True, backward=own)  # type: ignore[arg-type]
        assert found.adapted is not None
        assert found.adapted.means.startswith("BPDA, the user's")
        assert found.adapted.robust_accuracy == 0.0


def test_operations_without_a_gradient_are_named() -> None:
    x, _ = digits(2)
    assert flat_operations(planted.plain(), x) == []
    assert flat_operations(planted.masked(planted.Quantised(), planted.plain()), x) == ["round"]


def test_dead_modules_are_the_innermost() -> None:
    x, _ = digits(4)
    inner = planted.masked(nn.Sequential(nn.Identity(), planted.Quantised()), planted.plain())
    assert [call.name for call in dead_modules(inner, x)] == ["0.1"]
    assert dead_modules(planted.plain(), x) == []


class Lying(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return -grad


class Liar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = Lying.apply(x)
        return made


def test_slope_detects_a_wrong_backward() -> None:
    honest, lying = (numerics.slope(context(m)) for m in (planted.plain(), planted.masked(Liar(), planted.plain())))
    assert honest.verdict == "pass"
    assert honest.measured is not None
    assert honest.measured < 1e-6
    assert lying.verdict == "fail"
    assert lying.measured == pytest.approx(1.0)
    assert lying.cause == "wrong gradients"


class Clamped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0)


class Strict(nn.Module):
    """Takes nothing that is no picture."""

    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).any() or (x > 1).any()):
            raise ValueError("not in [0, 1]")
        return x


@pytest.mark.parametrize("front", [Clamped, Strict])
@pytest.mark.parametrize("check", [numerics.slope, numerics.reach])
def test_slopes_are_taken_inside_the_box(front: type[nn.Module], check: Callable[[DiagnosisContext], Check]) -> None:
    honest, lying = (check(context(planted.masked(front(), part, planted.plain()))) for part in (nn.Identity(), Liar()))
    assert honest.verdict == "pass", honest.says
    assert honest.measured is not None
    assert honest.measured < (1e-6 if check is numerics.slope else 0.1)
    assert lying.verdict == "fail"


def test_pictures_are_drawn_inside_the_box() -> None:
    strict = context(planted.masked(Strict(), planted.plain()))
    assert len(loss_surface.line(strict, 0)["attack"]) == len(loss_surface.line(strict, 0)["t"])
    assert loss_surface.surface(strict, 0)["margin"]


class Counting(nn.Module):
    """Adds a pattern that is another for every number of images: the same batch gets the same answer, its parts do not."""

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(len(x))
        return x + 0.3 * torch.randn(x.shape[1:], generator=generator)


def normalising(norm: nn.Module) -> nn.Module:
    """A network whose BatchNorm keeps no statistics: in eval mode too it answers by those of its batch."""
    torch.manual_seed(0)
    return planted.masked(
        nn.Flatten(), nn.Linear(784, 16), nn.Unflatten(1, (4, 2, 2)), norm, nn.Flatten(), nn.Linear(16, 10)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: planted.masked(Counting(), planted.plain()),
        lambda: normalising(nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: planted.masked(nn.Flatten(), nn.BatchNorm1d(784, track_running_stats=False), nn.Linear(784, 10)),
    ],
)
def test_batch_detects_outputs_that_depend_on_the_batch(make: Callable[[], nn.Module]) -> None:
    found = convergence.batch(context(make()))
    assert found.verdict == "fail", found.says
    assert "track_running_stats" in found.remedy


def test_rounding_is_no_dependence_on_the_batch() -> None:
    for model in (
        planted.plain(),
        planted.masked(planted.plain(), planted.Scaled(100.0)),
        normalising(nn.BatchNorm2d(4)),
    ):
        found = convergence.batch(context(model, n=64))
        assert found.verdict == "pass"
        assert found.measured is not None
        assert found.measured < 1e-5, "a hundredth is a thousand times what rounding does here"


def test_one_example_has_no_other_to_depend_on() -> None:
    assert convergence.batch(context(planted.plain(), n=1)).verdict == "skipped"


def test_few_examples_cannot_be_trusted() -> None:
    few, enough = (convergence.examples(context(planted.plain(), n=n)) for n in (49, 50))
    assert (few.verdict, few.cause, enough.verdict) == ("suspect", "few examples", "pass")
    assert "at least 50" in few.remedy


def test_required_checks_must_run_if_any_example_survives() -> None:
    given = [flag_check(name, "A", "random", "", raised=False) for name in convergence.REQUIRED]
    whole = context(planted.plain())
    assert convergence.attacked("", given, whole).verdict == "pass"
    for lost in (
        [],
        [skip_check("steps", "B", "")],
        [replace(given[1], cause="unanswered question", verdict="suspect")],
    ):
        some = [check for check in given if check.name != "steps"] + lost
        assert convergence.attacked("", some, whole).verdict == "suspect"
        assert "steps" in convergence.attacked("", some, whole).says
    assert convergence.attacked("it raised", given, whole).verdict == "fail"
    nothing = context(planted.plain(), robust=torch.zeros(20, dtype=torch.bool))
    assert convergence.attacked("", [], nothing).verdict == "pass"


def test_an_attack_on_labels_that_knows_no_l1_is_left_out_there() -> None:
    found = stronger_attacks.hard_label(context(planted.plain(), threat=advreg.ThreatModel("l1", 5.0)))
    assert found.verdict == "skipped"


def test_a_scale_free_loss_does_not_move() -> None:
    check = numerics.scale_free(context(planted.plain()))
    assert check.verdict == "pass"


def test_samples_follow_spearman_and_brown() -> None:
    for cosine in (0.2, 0.5, 0.8):
        k = samples_needed(cosine)
        assert k * cosine / (1 + (k - 1) * cosine) >= 0.9 > (k - 1) * cosine / (1 + (k - 2) * cosine)
    assert samples_needed(-0.1) == 64


def test_readout_separates_with_the_given_margin() -> None:
    torch.manual_seed(0)
    inside = torch.randn(99, 20)
    planted_point = 6 * torch.ones(1, 20)
    answer = fit_readout(torch.cat([inside, planted_point]), scale=5.0)
    assert answer is not None
    logits = answer(torch.cat([inside, planted_point]))
    assert logits.argmax(1).tolist() == [0] * 99 + [1]
    assert float(logits[0, 0] - logits[0, 1]) == pytest.approx(5.0, rel=1e-4)
    assert fit_readout(torch.cat([inside, inside.mean(0, keepdim=True)]), scale=5.0) is None


def test_idle_attack_misses_every_planted_example() -> None:
    def idle(model: nn.Module, x: Tensor, y: Tensor, threat: advreg.ThreatModel) -> attacks.AttackResult:
        return attacks.pgd(model, x, y, threat.with_eps(0.0), steps=1)

    lazy = binarisation(context(planted.plain(), attack=idle))
    assert lazy.verdict == "fail"
    assert lazy.measured == 1.0
    assert binarisation(context(planted.plain())).measured == 0.0


def test_last_linear_skips_layers_without_weights() -> None:
    x, _ = digits(2)
    net = planted.plain()
    assert last_linear(planted.masked(net, planted.Scaled(3.0)), x) is net[-1]
    assert last_linear(planted.masked(nn.Flatten(), nn.Linear(784, 4), nn.LayerNorm(4)), x) is None


def test_a_trace_is_the_attack_it_follows() -> None:
    x, y = digits(12)
    model = planted.plain()
    trace = trace_pgd(model, x, y, THREAT, ids=torch.arange(12), seed=3)
    same = attacks.pgd(model, x, y, THREAT, steps=40, seed=3, early_stop=False)
    assert torch.equal(trace.result.x_adv, same.x_adv)
    assert trace.loss.shape == trace.fooled.shape == (41, 12)
    assert bool((trace.fooled.any(0) | (model(x).argmax(1) != y) == same.broken).all())


@pytest.mark.parametrize(("eps", "short"), [(0.03, 0.03 / 40), (0.05, 0.05 / 40), (0.05, 0.05 / 200)])
def test_incomplete_detects_steps_that_are_too_short(eps: float, short: float) -> None:
    threat = advreg.ThreatModel("linf", eps)
    done, unfinished = context(planted.plain(), threat=threat), context(planted.plain(), threat=threat)
    rows = unfinished.probes()
    x, y, ids = unfinished.x[rows], unfinished.y[rows], unfinished.ids[rows]
    unfinished.__dict__["trace"] = trace_pgd(unfinished.model, x, y, threat, ids=ids, seed=1, step_size=short)
    assert failure_indicators.incomplete(done).verdict == "pass"
    assert failure_indicators.incomplete(unfinished).verdict == "suspect"


def test_late_gain_by_hand() -> None:
    x, y = digits(2)
    result = attacks.pgd(planted.plain(), x, y, THREAT.with_eps(1e-4), steps=1)
    margin = torch.tensor([[-4.0, -3.0], [-2.0, -3.0], [-3.0, -3.0], [-1.0, -3.0]])
    assert late_gain(Trace(margin, margin, margin > 0, result), last=2) == pytest.approx(1 / 3)


def test_rises_are_pairs_of_radii_with_a_p_value() -> None:
    low, high = torch.tensor([False] * 20), torch.tensor([True] * 10 + [False] * 10)
    ((rise, p),) = accuracy_rises([low, high])
    assert rise == 0.5
    assert p == pytest.approx(2.0**-10)
    assert accuracy_rises([high, low]) == []


def test_collapse_and_leaking_need_a_bent_line() -> None:
    assert collapse(context(planted.plain())).measured == 0.0
    assert label_leaking(context(planted.plain())).verdict == "pass"


def epoch(number: int, train: float, robust: float | None) -> dict[str, float | None]:
    return {"epoch": number, "train_accuracy": train, "robust_accuracy": robust}


def test_a_training_that_collapsed_shows_in_its_metrics() -> None:
    collapsed = [epoch(1, 0.8, 0.5), epoch(2, 0.85, 0.55), epoch(3, 0.99, 0.02)]
    honest = [epoch(1, 0.5, 0.4), epoch(2, 0.6, 0.5), epoch(3, 0.65, 0.48)]
    recovered = [epoch(1, 0.8, 0.5), epoch(2, 0.9, 0.1), epoch(3, 0.6, 0.55)]
    assert training_history(collapsed).verdict == "suspect"
    assert training_history(honest).verdict == "pass"
    assert training_history(recovered).verdict == "pass"
    assert training_history([epoch(1, 0.8, None)]).verdict == "skipped"


def test_averaged_outputs_are_less_random() -> None:
    torch.manual_seed(0)
    noisy = planted.masked(planted.RandomNoise(), planted.plain())
    x, _ = digits(8)
    single, mean = (
        relative_spread(torch.stack([m(x).softmax(1) for _ in range(6)])) for m in (noisy, Averaged(noisy, 30))
    )
    assert mean < single
    assert are_probabilities(Averaged(noisy)(x).exp())


def test_checks_keep_their_group() -> None:
    assert run_check(numerics.denormal, "F", context(planted.plain())).group == "F"


class Alternating(nn.Module):
    """Answers class 0, but class 1 for the first ``count`` examples at every fifth call."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.calls = count, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        z = torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)
        if self.calls % 5 == 0:
            z[: self.count] = z[: self.count].flip(1)
        return z


@pytest.mark.parametrize("count", [0, 1, 12])
def test_unsettled_counts_examples_with_changing_verdicts(count: int) -> None:
    x = torch.rand(30, 4)
    for wanted in (0, 1):  # right but for one answer, wrong but for one answer
        assert model_flags.count_unsettled(Alternating(count), x, torch.full((30,), wanted)) == count


def test_verdict_randomness_skips_deterministic_models() -> None:
    found = model_flags.verdict_randomness(context(planted.plain()))
    assert found.verdict == "skipped"


def test_verdict_randomness_skips_averaging_protocols() -> None:
    torch.manual_seed(0)
    single = context(planted.masked(planted.RandomNoise(), planted.plain()))
    assert model_flags.verdict_randomness(single).verdict != "skipped"
    assert model_flags.verdict_randomness(replace(single, claim="linf-0.2-rand@1")).verdict == "skipped"


class Shaken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-6 * torch.randn_like(x)


def test_noise_that_changes_no_verdict_passes() -> None:
    found = model_flags.verdict_randomness(context(planted.masked(Shaken(), planted.plain())))
    assert (found.verdict, found.measured) == ("pass", 0.0)
