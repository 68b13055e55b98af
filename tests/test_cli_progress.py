"""Progress without a terminal: a line every 10 seconds by a fake clock, and none for short jobs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import advreg
from advreg.cli import heartbeat, progress
from advreg.cli.heartbeat import LineProgress, ProgressState, line_progress
from advreg.diagnosis import DiagnosisProgress
from advreg.evaluation.evaluate import EvaluationProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def logged() -> tuple[LineProgress, Clock, list[str]]:
    clock, written = Clock(), list[str]()
    return LineProgress(written.append, "evaluating", clock), clock, written


def test_line_appears_every_ten_seconds() -> None:
    lines, clock, written = logged()
    for second in range(1, 36):
        clock.now = 100.0 + second
        lines.update(ProgressState("apgd-t", "512 of 1,000 examples", second / 100, 0.875))
    assert len(written) == 3
    assert (
        written[0]
        == "evaluating: apgd-t, 512 of 1,000 examples, robust so far 87.5%, 10 s so far, about 1 min 30 s left"
    )


def test_short_job_writes_no_line() -> None:
    lines, clock, written = logged()
    for second in (1, 5, 9.9):
        clock.now = 100.0 + second
        lines.update(ProgressState("pgd", "all", 1.0, 0.5))
        lines.tick()
    assert written == []


def test_long_step_is_reported_again() -> None:
    lines, clock, written = logged()
    clock.now = 102.0
    lines.update(ProgressState("square", "256 of 256 examples", 0.5, 0.5))
    for second in (9, 11, 15, 21, 22):
        clock.now = 100.0 + second
        lines.tick()
    assert [line.split(", ")[3] for line in written] == ["11 s so far", "21 s so far"]


def test_skipped_work_of_a_resumed_job_is_no_pace() -> None:
    lines, clock, written = logged()
    clock.now = 100.5
    lines.update(ProgressState("pgd", "", 0.8, None))
    clock.now = 110.5
    lines.update(ProgressState("pgd", "", 0.9, None))
    assert written == ["evaluating: pgd, , 10 s so far, about 10 s left"]


def test_lines_appear_between_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_POLL", 0.01)
    lines, clock, _ = logged()
    heard = threading.Event()
    lines.write = lambda line: heard.set()
    lines.update(ProgressState("square", "all", 0.5))
    clock.now += 10.0
    with line_progress(lines):
        assert heard.wait(5.0)
    assert not [t for t in threading.enumerate() if t.name == "advreg-progress"]


@pytest.mark.parametrize("verb", ["evaluating", "diagnosing"])
def test_verbs_write_lines_without_a_terminal(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at = {
        "evaluating": EvaluationProgress("square", 256, 1000, 240, 3.0, 0.2),
        "diagnosing": DiagnosisProgress("black-box", 4, 20, 0.9375),
    }[verb]
    for every, quiet, expected in ((0.0, False, True), (10.0, False, False), (0.0, True, False)):
        monkeypatch.setattr(heartbeat, "EVERY", every)
        with getattr(progress, verb)(quiet=quiet) as watch:
            watch(at)
        err = capsys.readouterr().err
        assert (f"{verb}: " in err) == expected
        assert ("robust so far 93.8%" in err) == expected


def test_share_of_an_evaluation_rises_to_one() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x, seen = torch.rand(1500, 1, 2, 2), list[EvaluationProgress]()
    data = x, net(x).argmax(1)
    threat = advreg.ThreatModel("linf", 0.01)
    advreg.evaluate(net, data, threat=threat, protocol="basic", on_progress=seen.append)
    shares = [at.share for at in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert shares[0] < 0.1


def test_diagnosis_reports_robust_accuracy_so_far(tmp_path: Path) -> None:
    from tests.diagnosis import planted
    from tests.diagnosis.conftest import TINY, digits

    seen: list[DiagnosisProgress] = []
    masked = planted.named("thermometer code").make()
    found = advreg.diagnose(masked, digits(), planted.BROAD, budget=TINY, on_progress=seen.append)
    assert (seen[0].check, seen[0].robust_accuracy) == ("the figure", None)
    robust = [at.robust_accuracy for at in seen[1:] if at.robust_accuracy is not None]
    assert robust[0] == found.robust_accuracy
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < robust[0]
    assert {at.total for at in seen} == {len(seen) - 1}
