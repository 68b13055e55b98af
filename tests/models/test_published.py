"""Checkpoints of others: every usual layout loads to the same network, weights alone, and published figures are beside ours."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advreg import published, report
from advreg.errors import ModelError, WeightsError
from advreg.models import load
from advreg.models.weights import load_weights, read_state
from advreg.models.zoo import build
from tests.report.fake_run import results, write_evaluation

DEPTH = 10
SHAPES = {name: tuple(value.shape) for name, value in build(f"wide-resnet-{DEPTH}-1").state_dict().items()}
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = build(f"wide-resnet-{DEPTH}-1")
        made(torch.rand(8, 3, 32, 32))  # running statistics of its own
    return made.eval()


def trades_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names of the usual WideResNet code, with the copy of a stage that it never runs."""
    found = {}
    for name, value in state.items():
        name = re.sub(r"^blocks\.(\d+)\.", lambda m: f"block{int(m[1]) + 1}.layer.0.", name)
        name = name.replace("shortcut", "convShortcut")
        for new, old in (("conv.", "conv1."), ("norm.0.", "bn1."), ("linear.", "fc.")):
            name = old + name.removeprefix(new) if name.startswith(new) else name
        found[name] = value
    unused = {f"sub_{name}": torch.zeros_like(value) for name, value in found.items() if name.startswith("block1.")}
    return found | unused


def forward_of_trades(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """WideResNet-10-1 written out with functions, from the names of the usual code."""

    def norm(x: Tensor, name: str) -> Tensor:
        part = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *part))

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for k in (1, 2, 3):
        name, stride = f"block{k}.layer.0", 1 if k == 1 else 2
        active = norm(x, f"{name}.bn1")
        change = F.conv2d(active, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        change = F.conv2d(norm(change, f"{name}.bn2"), state[f"{name}.conv2.weight"], padding=1)
        other = state.get(f"{name}.convShortcut.weight")
        x = (x if other is None else F.conv2d(active, other, stride=stride)) + change
    features = F.avg_pool2d(norm(x, "bn1"), 8).flatten(1)
    return F.linear(features, state["fc.weight"], state["fc.bias"])


def layouts(state: dict[str, Tensor]) -> dict[str, object]:
    under = {prefix: {f"{prefix}{name}": value for name, value in state.items()} for prefix in ("1.", "model.", "net.")}
    ones = {"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}
    copies = {f"module.attacker.model.{name}": value for name, value in state.items()}
    robustness = {f"module.model.{name}": value for name, value in state.items()} | copies
    robustness |= {f"module.normalizer.new_{name}": value.flatten() for name, value in ones.items()}
    other = {name: torch.zeros_like(value) for name, value in state.items()}
    return {
        "trades": trades_names(state),
        "trades in parallel": {"state_dict": {f"module.{k}": v for k, v in trades_names(state).items()}},
        "sequential with normalisation": under["1."] | {f"0.{name}": value for name, value in ones.items()},
        "wrapper": {"net": under["model."] | {"mu": ones["mean"], "sigma": ones["std"]}},
        "robustness library": {"model": robustness},
        "averaged": {"n_averaged": torch.tensor(7)} | {f"module.{name}": value for name, value in state.items()},
        "average beside the last": {"state_dict": other, "state_dict_ema": state, "epoch": 3},
        "average, nested": {"model": {"ema": {"shadow": state}}, "args": {"lr": 0.1}},
    }  # fmt: skip


@pytest.mark.parametrize("layout", sorted(layouts({name: torch.zeros(shape) for name, shape in SHAPES.items()})))
def test_every_layout_gives_the_same_network(layout: str, net: nn.Module, tmp_path: Path) -> None:
    torch.save(layouts(net.state_dict())[layout], tmp_path / "w.pt")
    found = build(f"wide-resnet-{DEPTH}-1").eval()
    load_weights(found, tmp_path / "w.pt")
    assert torch.equal(found(X), net(X))


def test_trades_names_compute_what_their_code_computes(net: nn.Module) -> None:
    assert torch.allclose(forward_of_trades(trades_names(net.state_dict()), X), net(X), atol=1e-5)


def test_a_normalisation_must_be_that_of_the_model(net: nn.Module, tmp_path: Path) -> None:
    scales = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.25]}
    wrapped = {f"model.{name}": value for name, value in net.state_dict().items()}
    torch.save(wrapped | {f"normalize.{k}": torch.tensor(v) for k, v in scales.items()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"a normalisation with mean \[0\.5, 0\.4, 0\.3\]"):
        load_weights(build(f"wide-resnet-{DEPTH}-1"), tmp_path / "w.pt")
    whole = build(f"wide-resnet-{DEPTH}-1", **scales).eval()
    load_weights(whole, tmp_path / "w.pt")
    mean, std = (torch.tensor(scales[key]).view(3, 1, 1) for key in ("mean", "std"))
    assert torch.allclose(whole(X), net((X - mean) / std), atol=1e-6)


@pytest.mark.parametrize("change", ["missing", "more", "head"])
def test_other_weights_are_still_rejected(change: str, net: nn.Module, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    if change == "missing":
        state.pop("module.linear.bias")
    elif change == "more":
        state["module.extra.weight"] = torch.ones(3)
    else:
        state["module.linear.bias"] = torch.ones(7)
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="does not fit this model"):
        load_weights(build(f"wide-resnet-{DEPTH}-1"), tmp_path / "w.pt")


def test_average_is_read_first(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(1)}, "model_ema": {"w": torch.ones(1)}}, tmp_path / "w.pt")
    assert read_state(tmp_path / "w.pt")["w"].item() == 1


def test_published_models_build_and_have_plausible_figures() -> None:
    assert len(published.models()) == 11
    for name, model in published.models().items():
        with torch.device("meta"):
            built = build(model.network, **model.options)
        assert sum(p.numel() for p in built.parameters()) > 36e6, name
        for figure in model.figures:
            norm, _, eps = figure.threat.partition(":")
            assert published.figure_of(f"robustbench:{name}", norm, float(Fraction(eps))) == figure
            assert 0 <= figure.robust <= figure.clean < 1


def test_robustbench_names_load_local_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = published.PublishedModel("Tiny", f"wide-resnet-{DEPTH}-1", "none", ())
    monkeypatch.setattr(published, "models", lambda: {"Tiny": small})
    state = build(f"wide-resnet-{DEPTH}-1").state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in trades_names(state).items()}}, tmp_path / "w.pt")
    model = load("robustbench:Tiny", weights=tmp_path / "w.pt")
    assert model.advreg_spec["name"] == "robustbench:Tiny"
    with pytest.raises(ModelError, match="nothing is downloaded"):
        load("robustbench:Tiny")
    with pytest.raises(ModelError, match="Did you mean 'Tiny'"):
        load("robustbench:Tny", weights=tmp_path / "w.pt")


def test_page_shows_the_published_figure_under_its_threat_alone(tmp_path: Path) -> None:
    for eps in (8 / 255, 4 / 255):
        record = results(f"linf-{eps:.6g}-standard@1", "linf", eps, 0.59)
        write_evaluation(tmp_path / "a", record | {"model": {"name": "robustbench:Carmon2019Unlabeled"}}, shown=0)
    text = report.write(tmp_path / "a").read_text()
    assert text.count("clean accuracy 89.69%, robust accuracy 59.53% at linf:8/255 (RobustBench, arXiv:2010.09670") == 1
    rows = report.comparison([tmp_path / "a"])
    assert sorted(row.published.robust if row.published else 0 for row in rows) == [0, 0.5953]
    assert json.dumps(report.model_card(report.read.run(tmp_path / "a")))


def test_a_program_that_a_file_names_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"name": "export:/elsewhere/model.pt2", "options": {}}))
    with pytest.raises(ModelError, match="which runs code; add --trust-code"):
        load(str(tmp_path))
    with pytest.raises(ModelError, match="is no file"):
        load(str(tmp_path), trust_code=True)
