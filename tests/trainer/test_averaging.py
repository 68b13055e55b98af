"""Averages of weights equal their closed forms; BatchNorm is copied, or taken again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import advreg
from advreg.errors import ConfigError
from advreg.trainer import averaging
from advreg.training import eval_mode, recipes
from advreg.training.policies import Moment
from tests.training import small


def walk(make, values, steps=None):
    """Move one weight through these values, averaging after each; return the averages and the average's own memory."""
    model = nn.Linear(1, 1, bias=False).double()
    average, seen = make(model), []
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        average.update(model, Moment(1, step, steps or len(values)))
        seen.append(average.model.weight.item())
    return seen, average


VALUES = [1.0, 4.0, -2.0, 0.5, 7.0, 3.0, 2.0, 8.0]


def test_ema_is_its_closed_form():
    seen, _ = walk(lambda model: averaging.ema(model, decay=0.9, warmup=False), VALUES)
    for n, value in enumerate(seen):
        closed = 0.9**n * VALUES[0] + sum(0.1 * 0.9 ** (n - k) * VALUES[k] for k in range(1, n + 1))
        assert value == pytest.approx(closed, abs=1e-12)


def test_a_warm_ema_forgets_the_beginning():
    seen, _ = walk(lambda model: averaging.ema(model, decay=0.5), VALUES)
    expected = VALUES[0]
    for t, value in enumerate(VALUES[1:], 1):
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
        assert seen[t] == pytest.approx(expected, abs=1e-12)


def test_swa_is_the_network_before_start_and_the_mean_after():
    seen, _ = walk(lambda model: averaging.swa(model, start=0.5), VALUES)
    means = [sum(VALUES[4:n]) / (n - 4) for n in range(5, 9)]
    assert seen == pytest.approx(VALUES[:4] + means, abs=1e-12)


def test_swa_takes_one_in_so_many_steps_and_the_last():
    values = [float(k) for k in range(10)]
    seen, _ = walk(lambda model: averaging.swa(model, start=0.3, every=3), values)
    assert seen == pytest.approx([0, 1, 2, 2, 2, 5, 5, 5, 6.5, 22 / 3], abs=1e-12)


@pytest.mark.parametrize(
    "make", [lambda model: averaging.ema(model, 0.9), lambda model: averaging.swa(model, start=0.2)], ids=["ema", "swa"]
)
def test_resumed_it_goes_on_to_the_bit(make):
    _, half = walk(make, VALUES[:4], steps=8)
    model = nn.Linear(1, 1, bias=False).double()
    again = make(model)
    again.load_state_dict({key: value.clone() for key, value in half.state_dict().items()})
    for step, value in enumerate(VALUES[4:], 4):
        nn.init.constant_(model.weight, value)
        again.update(model, Moment(1, step, 8))
    _, whole = walk(make, VALUES)
    assert torch.equal(again.model.weight, whole.model.weight)


def test_a_copy_has_a_life_of_its_own():
    model = nn.Linear(1, 1, bias=False).double()
    average = averaging.swa(model, start=0.0)
    other = copy.deepcopy(average)
    for step in range(4):
        nn.init.constant_(model.weight, float(step))
        other.update(model, Moment(1, step, 4))
    nn.init.constant_(model.weight, 5.0)
    average.update(model, Moment(1, 0, 4))
    assert (other.model.weight.item(), average.model.weight.item()) == (1.5, 5.0)


def test_buffers_are_copies_and_the_network_is_left_alone():
    torch.manual_seed(0)
    model = small.network().train()
    average = averaging.ema(model, decay=0.5, warmup=False)
    for step in range(3):
        model(torch.rand(8, 1, 8, 8))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        average.update(model, Moment(1, step, 3))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, buffer in model.named_buffers():
        assert torch.equal(average.model.get_buffer(name), buffer)
        assert average.model.get_buffer(name) is not buffer


def test_reestimated_statistics_are_those_of_the_inputs():
    torch.manual_seed(0)
    model, batches = small.network(), [torch.rand(8, 1, 8, 8) for _ in range(3)]
    model[0].eval()
    modes, before = [m.training for m in model.modules()], model[1].momentum
    averaging.recompute_batchnorm_stats(model, batches)
    features = [model[0](x).detach() for x in batches]
    means = torch.stack([f.mean((0, 2, 3)) for f in features]).mean(0)
    spread = torch.stack([f.transpose(0, 1).flatten(1).var(1) for f in features]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, spread)
    assert [m.training for m in model.modules()] == modes
    assert model[1].momentum == before
    assert all(weight.grad is None for weight in model.parameters())


def test_reestimated_an_average_answers_for_itself():
    """After its statistics are taken again, an average of equal networks answers as the network does."""
    torch.manual_seed(0)
    model, x = small.network().train(), torch.rand(64, 1, 8, 8)
    average = averaging.swa(model, start=0.0)
    average.update(model, Moment(1, 0, 1))
    for network in (model, average.model):
        averaging.recompute_batchnorm_stats(network, [x])
    with eval_mode(model), eval_mode(average.model):
        torch.testing.assert_close(average.model(x), model(x))


def test_recomputing_skips_batchnorms_without_input():
    torch.manual_seed(0)
    model, threat = recipes.split_batchnorm(small.network(), predictors=["1"]).train(), advreg.ThreatModel("linf", 0.1)
    average = averaging.ema(model, decay=0.5)
    for step in range(3):
        recipes.ar_at()(model, torch.rand(6, 1, 8, 8), torch.arange(6) % 3, advreg.attacks.craft, threat).backward()
        average.update(model, Moment(1, step, 3))
    before = {route: recipes.merge_batchnorm(average.model, route).state_dict() for route in ("clean", "adv")}
    averaging.recompute_batchnorm_stats(average.model, [torch.rand(8, 1, 8, 8)])
    after = {route: recipes.merge_batchnorm(average.model, route).state_dict() for route in ("clean", "adv")}
    assert all(torch.equal(before["clean"][name], value) for name, value in after["clean"].items())
    assert not torch.equal(before["adv"]["1.running_mean"], after["adv"]["1.running_mean"])
    assert torch.equal(average.model[1].predictor[1].running_mean, model[1].predictor[1].running_mean)
    assert average.model[1].predictor[1].running_mean.any()


def test_reestimating_on_nothing_changes_nothing():
    torch.manual_seed(0)
    model = small.network().train()
    model(torch.rand(8, 1, 8, 8))
    before = copy.deepcopy(model.state_dict())
    averaging.recompute_batchnorm_stats(model, [])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_reestimating_that_fails_leaves_modes_and_momentum():
    def batches():
        yield torch.rand(8, 1, 8, 8)
        raise ZeroDivisionError

    model = small.network().eval()
    with pytest.raises(ZeroDivisionError):
        averaging.recompute_batchnorm_stats(model, batches())
    assert not any(module.training for module in model.modules())
    assert model[1].momentum == 0.1


def test_a_configuration_names_it():
    model = nn.Linear(2, 2)
    assert isinstance(averaging.AVERAGES.build("swa", {"start": 0.5, "every": 10}, model), averaging.AveragedWeights)
    for name, options, message in (
        ("emma", {}, "average.name is 'emma'; allowed: ema, swa. Did you mean 'ema'"),
        ("ema", {"model": 1}, "average 'ema' has no option 'model'; allowed: decay, warmup"),
        ("ema", {"decay": 1.0}, "average.options.decay is 1.0; allowed: less than 1"),
        ("swa", {"every": 0}, "average.options.every is 0; allowed: greater than or equal to 1"),
    ):
        with pytest.raises(ConfigError) as error:
            averaging.AVERAGES.build(name, options, model)
        assert message in str(error.value)
