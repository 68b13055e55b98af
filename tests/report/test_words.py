"""Words follow the data: features and rows of a table, samples of a signal, grey levels only for 8-bit images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import advreg
from advreg import ThreatModel, report
from advreg.data import Table
from advreg.report import formatting, prose, read
from advreg.report.facts import ThreatFacts


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


@pytest.mark.parametrize("text", ["4/255", "1/3", "0.1", "0.125", "2/3", "8", "0.05", "1/7", "12.75"])
def test_eps_is_shown_as_it_was_typed(text: str) -> None:
    threat = ThreatModel.parse(f"l2:{text}")
    assert formatting.eps(ThreatFacts("l2", float(threat.eps))) == text
    assert f" {text} long" in prose.threat(ThreatFacts("l2", float(threat.eps)))
