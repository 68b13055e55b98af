"""Evaluations of tasks: scores in the ledger, worst cases, intervals, resume, curves, and errors."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advreg
from advreg import tasks
from advreg.errors import AdvregError
from advreg.evaluation import resolve
from advreg.objectives import cross_entropy, is_label_largest, margin
from advreg.results import read_ledger
from advreg.statistics import clopper_pearson_interval
from advreg.tasks import Task
from advreg.threat import ThreatModel

THREAT = ThreatModel("linf", 0.1)


def network(outputs: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, outputs)).eval().requires_grad_(False)


def inputs(n: int = 30) -> Tensor:
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(1))


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_ledger(next(folder.glob("evaluation/*/ledger.jsonl"))).rows


def test_a_task_of_its_own_has_the_figures_of_classes() -> None:
    model, x = network(4), inputs()
    y = model(x).argmax(1)
    own = Task("own", is_label_largest, {"ce": cross_entropy}, near=margin)
    stages = resolve("quick", "linf").stages
    protocol = advreg.evaluation.Protocol("mine", 1, tuple(s for s in stages if "warm" not in s.name))
    expected = advreg.evaluate(model, (x, y), "linf:0.2", protocol=protocol)
    found = advreg.evaluate(model, (x, y), "linf:0.2", protocol=protocol, task=own)
    assert torch.equal(found.broken, expected.broken)
    assert (found.interval, found.clean_interval) == (expected.interval, expected.clean_interval)
    assert found.protocol == f"own-{expected.protocol}"
    assert (found.forwards, found.backwards) == (expected.forwards, expected.backwards)


def test_one_logit_has_the_verdicts_of_a_task_of_its_own() -> None:
    net, x = network(1), inputs(40)
    z = net(x)[:, 0]
    y = (z > z.median()).long()
    cut = float(z.median().sigmoid())
    signed = lambda z, y: (1 - 2 * y) * (z[:, 0] - z.new_tensor(cut).logit())  # noqa: E731
    own = Task("one", lambda z, y: signed(z, y) < 0, {"signed": signed}, near=signed)
    threat = ThreatModel("linf", 0.05)
    expected = advreg.pgd(net, x, y, threat, task=own)
    found = advreg.pgd(advreg.models.one_logit(net, cut), x, y, threat)
    assert 0 < int(found.broken.sum()) < 40
    assert torch.equal(found.broken, expected.broken)


def test_scores_are_in_the_ledger_where_they_are_not_0_or_1(tmp_path: Path) -> None:
    model, x = network(5), inputs()
    y = (model(x) > 0).long()
    shared = advreg.evaluate(model, (x, y), THREAT, task="labels:score=share", out=tmp_path / "share")
    whole = advreg.evaluate(model, (x, y), THREAT, task="labels", out=tmp_path / "all")
    assert all("score" in row and row["label"] is None for row in rows(tmp_path / "share"))
    assert not any("score" in row for row in rows(tmp_path / "all"))
    lowest = dict.fromkeys(range(30), 1.0)
    for row in rows(tmp_path / "share"):
        lowest[row["id"]] = min(lowest[row["id"]], row["score"])
    assert shared.scores is not None
    assert shared.scores.tolist() == [lowest[i] for i in range(30)]
    assert shared.robust_accuracy == pytest.approx(sum(lowest.values()) / 30)
    assert shared.interval[0] < shared.robust_accuracy < shared.interval[1]
    assert whole.interval == clopper_pearson_interval(round(whole.robust_accuracy * 30), 30)
    record = json.loads(next((tmp_path / "share").glob("evaluation/*/results.json")).read_text())
    assert record["task"] == "labels-share"
    assert shared.by_attack[-1].robust_accuracy == pytest.approx(shared.robust_accuracy)


def test_an_interrupted_evaluation_of_a_task_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    model, x = network(5), inputs()
    y = (model(x) > 0).long()
    for name in ("whole", "cut"):
        advreg.evaluate(model, (x, y), THREAT, task="labels:score=share", out=tmp_path / name)
    whole, cut = (next((tmp_path / name).glob("evaluation/*/ledger.jsonl")) for name in ("whole", "cut"))
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:48]))
    found = advreg.evaluate(model, (x, y), THREAT, task="labels:score=share", out=tmp_path / "cut")
    assert cut.read_text() == whole.read_text()
    assert found.robust_accuracy == json.loads((whole.parent / "results.json").read_text())["robust_accuracy"]


def test_more_attacks_never_raise_the_mean_score() -> None:
    model, x = network(5), inputs()
    y = (model(x) > 0).long()
    found = [
        advreg.evaluate(model, (x, y), THREAT, task="labels:score=share", protocol=name)
        for name in ("quick", "standard")
    ]
    attacks = found[1].by_attack
    assert all(b.robust_accuracy <= a.robust_accuracy for a, b in itertools.pairwise(attacks))
    assert found[1].robust_accuracy <= found[0].robust_accuracy + 0.02


def test_the_curve_of_a_task_never_rises(tmp_path: Path) -> None:
    model, x = network(5), inputs(12)
    y = (model(x) > 0).long()
    curve = advreg.robustness_curve(
        model, (x, y), norm="linf", eps=[0, 0.05, 0.1], task="labels:score=share", out=tmp_path
    )
    figures = [point.robust_accuracy for point in curve.points]
    assert figures[0] == 1.0
    assert figures == sorted(figures, reverse=True)
    assert figures[-1] < 1.0
    assert json.loads((tmp_path / "curve.json").read_text())["task"] == "labels-share"


def test_a_user_writes_a_task_in_under_ten_lines() -> None:
    def angle(z: Tensor, y: Tensor) -> Tensor:
        return 1 - torch.cosine_similarity(z, y, dim=1)

    task = advreg.Task("direction", lambda z, y: 1 - angle(z, y) / 2, {"angle": angle})
    model, x = network(3), inputs()
    found = advreg.evaluate(model, (x, model(x)), "linf:0.1", task=task)
    assert found.clean_accuracy == pytest.approx(1.0)
    assert found.robust_accuracy < 0.99


@pytest.mark.parametrize(
    ("outputs", "y", "options", "words"),
    [
        (5, torch.zeros(30, 4), {"task": "labels"}, ["outputs are (8, 5)", "give a logit and a 0 or 1"]),
        (5, torch.full((30, 5), 2), {"task": "labels"}, ["give 0 or 1"]),
        (1, torch.zeros(30), {"task": "number"}, ["number needs tolerance", "number:tolerance=..."]),
        (1, torch.zeros(30, 2), {"task": "number:tolerance=0.5"}, ["outputs are (8, 1)", "y (B,)"]),
        (1, torch.zeros(30), {"task": "numbre:tolerance=1"}, ["allowed: classes", "number"]),
        (1, torch.zeros(30), {"task": "number:tolerence=1"}, ["no option 'tolerence'", "tolerance"]),
        (1, torch.zeros(30), {"task": "number:tolerance=0"}, ["tolerance is 0", "above 0"]),
        (1, torch.zeros(30).long(), {}, ["one logit: advreg.models.one_logit(model)"]),
        (5, torch.zeros(30, 5).long(), {}, ["several labels: task='labels'"]),
        (5, torch.ones(30, 5), {}, ["several labels: task='labels'"]),
        (4, torch.zeros(30).long(), {"task": "ordinal:tolerance=4"}, ["every class is within 4"]),
        (4, torch.full((30,), 7), {"task": "ordinal"}, ["classes 0 to 3"]),
        (5, torch.zeros(30, 5), {"task": "labels", "protocol": "plus"}, ["'plus' is not one of task labels", "quick"]),
        (1, torch.full((30,), 2), {"task": "pairs:threshold=0.5"}, ["give 1 for the same"]),
        (1, torch.full((30,), torch.nan), {"task": "number:tolerance=1"}, ["NaN or infinity in 30"]),
    ],
)
def test_what_does_not_fit_a_task_raises_one_line(outputs: int, y: Tensor, options: Any, words: list[str]) -> None:
    with pytest.raises(AdvregError) as caught:
        advreg.evaluate(network(outputs), (inputs(), y), THREAT, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_a_model_of_another_task_is_named() -> None:
    model = nn.Conv2d(3, 4, 3, padding=1).eval()
    with pytest.raises(AdvregError, match="task='pixels'"):
        advreg.evaluate(model, (torch.rand(4, 3, 8, 8), torch.zeros(4).long()), THREAT)
    with pytest.raises(AdvregError, match="masks: task='pixels'"):
        advreg.evaluate(model, (torch.rand(4, 3, 8, 8), torch.zeros(4, 8, 8).long()), THREAT)


def test_every_task_by_name_has_an_id_of_its_own() -> None:
    made = ["classes", "labels", "labels:score=share", "ordinal", "number:tolerance=0.5", "number:tolerance=1,2"]
    made += [
        "pixels",
        "pixels:ignore=-1",
        "boxes",
        "boxes:overlap=0.75",
        "pairs:threshold=-0.25",
        "number:tolerance=1e-3",
    ]
    names = [tasks.as_task(text).name for text in made]
    assert len(set(names)) == len(names)
