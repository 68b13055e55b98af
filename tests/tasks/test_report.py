"""Report, card and comparison of tasks: scores by their name, and paired tests of scores by bootstrap."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import advreg
from advreg import tasks
from advreg.evaluation import robustness_curve
from advreg.report import html, paired_tests, read
from advreg.report.facts import RunFacts
from advreg.report.model_card import metadata, model_card


def measured(folder: Path, task: tasks.Task, seed: int) -> RunFacts:
    torch.manual_seed(seed)
    net, x = nn.Linear(6, 4).eval(), torch.rand(40, 6, generator=torch.Generator().manual_seed(7))
    y = (x[:, :4] > 0.5).long()
    found = advreg.evaluate(net, (x, y), "linf:0.1", task=task, protocol="fgsm", out=folder)
    place = folder / "evaluation" / found.protocol
    robustness_curve(net, (x, y), norm="linf", eps=[0, 0.1], task=task, protocol="fgsm", out=place)
    (folder / "run.toml").write_text('[task]\nname = "labels"\n')
    return read.run(folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunFacts]:
    return [measured(tmp_path / name, tasks.labels("share"), seed) for seed, name in enumerate(("one", "two"))]


def test_a_report_speaks_of_scores(runs: list[RunFacts]) -> None:
    page = html.page(runs[0])
    assert "Score under attack at other eps" in page
    assert "Score under attack goes from" in page
    for words in ("Robust accuracy at", "Clean accuracy", "classified correctly", "Attack success rate"):
        assert words not in page
    assert runs[0].figures.short == "score"


def test_a_model_card_names_scores_and_the_task_of_the_hub(runs: list[RunFacts]) -> None:
    result = metadata(runs[0])["model-index"][0]["results"][0]
    assert [metric["type"] for metric in result["metrics"]] == ["score", "robust_score"]
    card = model_card(runs[0])
    assert "| Clean score |" in card
    assert "ccuracy |" not in card


def test_two_mean_scores_are_compared_by_bootstrap(runs: list[RunFacts]) -> None:
    (pair,) = paired_tests.paired_tests(runs)
    one, two = (run.evaluations[0].robust_accuracy for run in runs)
    assert pair.of_scores
    assert pair.difference == pytest.approx(one - two)
    assert pair.interval[0] <= pair.difference <= pair.interval[1]
    assert "paired bootstrap" in html.comparison_page(runs)


def test_right_and_broken_examples_of_a_task_are_compared_exactly(tmp_path: Path) -> None:
    runs = [measured(tmp_path / name, tasks.labels(), seed) for seed, name in enumerate(("one", "two"))]
    (pair,) = paired_tests.paired_tests(runs)
    scores = [run.evaluations[0].scores for run in runs]
    assert pair.only_first == sum(scores[0][i] > scores[1][i] for i in range(40))
    assert not pair.of_scores


def test_a_segmentation_has_its_task_and_miou_in_the_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.rand(3, 3, 4, 4), torch.randint(0, 3, (3, 4, 4))
    advreg.evaluate(nn.Conv2d(3, 3, 1).eval(), (x, y), "linf:0.1", task="pixels", protocol="fgsm", out=tmp_path)
    card = model_card(read.run(tmp_path))
    front = dict(line.split(": ", 1) for line in card.split("---")[1].strip().splitlines())
    assert json.loads(front["pipeline_tag"]) == "image-segmentation"
    assert "miou" in front["model-index"]
