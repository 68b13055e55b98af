"""Words follow the data: features and rows of a table, samples of a signal, grey levels only for 8-bit images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel, report
from advreg.constraints import FeatureRules
from advreg.data import Table
from advreg.report import formatting, prose, read, waveforms
from advreg.report.changed_cells import changed_rows
from advreg.report.facts import ThreatFacts
from advreg.report.waveforms import wave_cards


def page(folder: Path, x: torch.Tensor, box: tuple[float, float] = (0.0, 1.0), columns: tuple[str, ...] = ()) -> str:
    """Return the report of a linear model that attacks break, on these inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 2)).eval()
    y = net(x).argmax(1)
    data = Table(x, y, ("no", "yes"), "own", "test", box, columns) if columns else (x, y)
    threat = ThreatModel("linf", 0.3 * (box[1] - box[0]), box)
    advreg.evaluate(net, data, threat, protocol="fgsm", out=folder)
    return report.write(folder).read_text()


def body(text: str) -> str:
    return text.partition("<body")[2].partition("<script")[0]


def test_a_table_has_features_and_rows(tmp_path: Path) -> None:
    x = 4 * torch.rand(20, 3, generator=torch.Generator().manual_seed(1)) - 2
    text = body(page(tmp_path, x, (-2.0, 2.0), ("income", "age", "debt")))
    assert "Every feature may change by at most 1.2." in text
    assert "linf:1.2@-2,2" in text
    assert "rows correctly" in text
    assert "Attacked rows" in text
    assert "income" in text
    for word in ("pixel", "grey level", "image"):
        assert word not in text, word


def test_a_signal_has_samples(tmp_path: Path) -> None:
    text = body(page(tmp_path, torch.rand(20, 2, 8, generator=torch.Generator().manual_seed(1))))
    assert "Every sample may change by at most 0.3." in text
    assert "signals correctly" in text
    assert "pixel" not in text


@pytest.mark.parametrize(("levels", "words"), [(True, "(76.5 of 255 grey levels)"), (False, "at most 0.3.")])
def test_grey_levels_belong_to_8_bit_images(tmp_path: Path, levels: bool, words: str) -> None:
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    text = body(page(tmp_path, (x * 255).round() / 255 if levels else x))
    assert words in text
    assert "Every pixel may change" in text
    assert ("grey levels" in text) == levels


def test_results_of_8_bit_images_keep_their_keys(tmp_path: Path) -> None:
    page(tmp_path / "image", (torch.rand(20, 1, 4, 4) * 255).round() / 255)
    page(tmp_path / "table", torch.rand(20, 3), columns=("a", "b", "c"))
    keys = {}
    for name in ("image", "table"):
        (file,) = (tmp_path / name).rglob("results.json")
        keys[name] = set(json.loads(file.read_text())["data"])
    assert keys["image"] == {"name", "split", "n", "sha256", "classes"}
    assert keys["table"] - keys["image"] == {"kind", "columns"}


def test_model_card_names_the_task(tmp_path: Path) -> None:
    page(tmp_path, torch.rand(20, 3), columns=("a", "b", "c"))
    card = report.model_card(read.run(tmp_path))
    assert 'pipeline_tag: "tabular-classification"' in card
    assert "| Rows | 20" in card


def test_changed_cells_name_what_binds_them(tmp_path: Path) -> None:
    rules = FeatureRules(
        integer=(1,), groups=((2, 3),), relations=("sum = a + count",), names=("a", "count", "p", "q", "sum")
    )
    box = torch.tensor([0.0] * 5), torch.tensor([1.0, 9, 1, 1, 99])
    threat = ThreatModel("l1", 9.0, box, scale=[0.5, 3.0, 1.0, 1.0, torch.inf], rules=rules)
    g = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.rand(20, 1, generator=g), torch.randint(9, (20, 1), generator=g), torch.eye(2).repeat(10, 1)], 1
    )
    x = torch.cat([x, x[:, :2].sum(1, keepdim=True)], 1)
    net = nn.Linear(5, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0] * 5, [0.2, 0.3, 3.0, -3.0, 0.1]]))
        net.bias.copy_(torch.tensor([3.0, 0.0]))
    data = Table(x, net(x).argmax(1), ("no", "yes"), "own", "test", None, rules.names)
    advreg.evaluate(net.eval(), data, threat, out=tmp_path)
    facts = read.run(tmp_path).evaluations[0]
    assert "(one of p, q)" in body(report.write(tmp_path).read_text())
    shown = facts.examples
    clean = np.array([[0.5, 3, 1, 0, 3.5]] * 2, dtype=np.float32)
    moved = np.array([[0.75, 9, 0, 1, 9.75], [1.0, 4, 1, 0, 5]], dtype=np.float32)
    keep = {name: getattr(shown, name)[:2] for name in vars(shown)} | {"clean": clean, "adversarial": moved}
    keep |= {"broken": np.ones(2, dtype=bool), "clean_predicted": keep["labels"]}
    first, second = changed_rows(replace(facts, examples=replace(shown, **keep)))
    group = "one of p, q"
    assert {cell.name: cell.bound for cell in first.cells} == {
        "a": "0.5 of 9 units", "count": "max 9", "p": group, "q": group, "sum": "sum = a + count"
    }  # fmt: skip
    assert {cell.name: cell.bound for cell in second.cells} == {
        "a": "max 1", "count": "0.33 of 9 units, whole numbers", "sum": "sum = a + count"
    }  # fmt: skip


def test_a_ratio_is_shown_in_decibels_and_signals_as_curves(tmp_path: Path) -> None:
    x = torch.randn(12, 2, 40, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(80, 2)).eval()
    threat = ThreatModel.parse("snr:5@-9,9")
    advreg.evaluate(net, (x, net(x).argmax(1)), threat, out=tmp_path)
    folder = next((tmp_path / "evaluation").iterdir())
    advreg.robustness_curve(net, (x, net(x).argmax(1)), norm=threat, eps=[0.1, 1.0], out=folder)
    text = body(report.write(tmp_path).read_text())
    assert "at most 5 dB below its signal" in text
    assert "snr:5@-9,9" in report.model_card(read.run(tmp_path)) + text
    assert "at eps 20 dB" in text
    facts = read.run(tmp_path).evaluations[0]
    cards = wave_cards(facts)
    assert cards
    for card in cards:
        assert card.ratio == pytest.approx(5, abs=1e-3)
        assert len(card.channels) == 2
    assert text.count('<svg class="wave"') == 2 * len(cards)


def test_a_long_signal_keeps_its_peaks() -> None:
    wave = torch.zeros(100_000).numpy().astype(float)
    wave[54_321] = 7.0
    drawn = waveforms.draw(wave, wave, wave)
    assert f",{3:.1f}" in drawn
    assert len(drawn) < 40_000


@pytest.mark.parametrize("text", ["4/255", "1/3", "0.1", "0.125", "2/3", "8", "0.05", "1/7", "12.75"])
def test_eps_is_shown_as_it_was_typed(text: str) -> None:
    threat = ThreatModel.parse(f"l2:{text}")
    assert formatting.eps(ThreatFacts("l2", float(threat.eps))) == text
    assert f" {text} long" in prose.threat(ThreatFacts("l2", float(threat.eps)))
