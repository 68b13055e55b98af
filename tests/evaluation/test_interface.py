"""The call of `evaluate`: where the threat goes, which protocol is the default, and how results print."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

import advreg
from advreg.cli.app import evaluate as command
from advreg.cli.evaluate import EvaluateOptions
from advreg.errors import ThreatError
from advreg.evaluation import DEFAULT_PROTOCOL, resolve
from advreg.results import LedgerContents, read_ledger

X = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    """A small linear network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()


def test_the_threat_is_third_by_keyword_or_text(net: nn.Module) -> None:
    data, threat = (X, net(X).argmax(1)), advreg.ThreatModel("linf", 0.05)
    by_position, by_keyword = advreg.evaluate(net, data, threat), advreg.evaluate(net, data, threat=threat)
    by_text = advreg.evaluate(net, data, "linf:0.05")
    assert by_position.threat == by_keyword.threat == by_text.threat
    assert by_position.robust_accuracy == by_keyword.robust_accuracy == by_text.robust_accuracy


def test_diagnose_takes_a_threat_as_text(net: nn.Module) -> None:
    assert advreg.diagnose(net, (X, net(X).argmax(1)), "l2:0.2", quick=True).threat == advreg.ThreatModel("l2", 0.2)


@pytest.mark.parametrize(
    ("threat", "message"), [("linf", "write norm:eps"), (0.3, "threat is 0.3; give a ThreatModel")]
)
def test_what_is_no_threat_is_one_line(net: nn.Module, threat: Any, message: str) -> None:
    with pytest.raises(ThreatError, match=message):
        advreg.evaluate(net, (X, net(X).argmax(1)), threat)


def test_one_default_protocol_in_python_and_on_the_command_line() -> None:
    defaults = [inspect.signature(f).parameters["protocol"].default for f in (advreg.evaluate, advreg.robustness_curve)]
    assert [*defaults, inspect.signature(command).parameters["protocol"].default] == [DEFAULT_PROTOCOL] * 3
    assert EvaluateOptions("model").protocol == DEFAULT_PROTOCOL


def test_robust_interval_is_the_interval_of_the_robust_accuracy(net: nn.Module) -> None:
    found = advreg.evaluate(net, (X, net(X).argmax(1)), "linf:0.05", protocol="fgsm")
    assert found.robust_interval == found.interval
    assert "robust_interval" not in found.record()  # the name on disk stays


def test_results_print_in_one_short_line(net: nn.Module) -> None:
    data = X.repeat_interleave(2, 2).repeat_interleave(2, 3), torch.arange(24) % 4
    wide = nn.Sequential(nn.AvgPool2d(2), net).eval()
    found = advreg.evaluate(wide, data, "linf:0.05")
    choice = advreg.choose_epsilon(wide, data, eps=[0.01, 0.1])
    curve = advreg.robustness_curve(wide, data, norm="linf", eps=[0.0, 0.1])
    told = advreg.diagnose(wide, data, "linf:0.05", quick=True, adapt=True)
    protocol = resolve("strong", "linf")
    parts = [
        *found.by_attack,
        *found.per_class,
        *found.checks,
        *choice.rows,
        *curve.points,
        *protocol.stages,
        *told.checks,
    ]
    assert told.adapted is not None
    for each in (found, choice, curve, told, protocol, told.adapted, *told.adapted.attempts, *parts):
        text = repr(each)
        assert text.startswith(type(each).__name__ + "("), text
        assert len(text) < 300, text
        assert not any(part in text for part in ("\n", "tensor(", "functools")), text


def test_the_ledger_reader_returns_header_and_rows(net: nn.Module, tmp_path: Any) -> None:
    found = advreg.evaluate(net, (X, net(X).argmax(1)), "linf:0.05", protocol="basic", out=tmp_path)
    ledger = read_ledger(tmp_path / "evaluation" / found.protocol / "ledger.jsonl")
    assert (ledger.header["protocol"], ledger.header["n"]) == (found.protocol, 24)
    assert len(ledger.clean) == 24
    assert ledger.broken == set(found.broken.nonzero()[:, 0].tolist())
    assert len(ledger.rows) == 24 + sum(attack.tried for attack in found.by_attack)
    assert read_ledger(tmp_path / "none.jsonl") == LedgerContents({}, [])
