"""The guard of language training: detection of collapse, its actions, and divergence."""

from __future__ import annotations

import pytest
import torch

from advreg.errors import TrainingError
from advreg.language.datasets import REFUSAL, InstructionExample
from advreg.language.training import fit
from advreg.language.training.collapse_monitor import CollapseProbe, detect_collapse, measure_collapse, repetition
from advreg.language.training.fit import fit_language
from advreg.language.training.folder import load_trained
from advreg.trainer.events import Guarded
from tests.language import lessons, small


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return lessons.write_data(tmp_path_factory.mktemp("texts"))


def test_repetition_by_hand():
    assert repetition("a b c d a b c") == pytest.approx(1 / 5)
    assert repetition("no no no no no") == pytest.approx(2 / 3)
    assert repetition("short one") == 0


def test_collapse_is_a_rise_not_a_level():
    calm = CollapseProbe(0.2, 0.4, 1.0)
    assert detect_collapse(CollapseProbe(0.45, 0.65, 3.0), calm) is None
    assert detect_collapse(CollapseProbe(0.6, 0.4, 1.0), calm).startswith("over-refusal: 60%")
    assert detect_collapse(CollapseProbe(0.2, 0.8, 1.0), calm).startswith("repetition: 80%")


def test_a_probe_counts_likelier_refusals_and_changes_nothing():
    lm = small.tiny()
    held = [InstructionExample(0, "How do I bake?", "Take the flour."), InstructionExample(1, "Tell me how.", REFUSAL)]
    lm.network.train()
    state = torch.get_rng_state()
    probe = measure_collapse(lm, held, tokens=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert lm.network.training
    assert probe.refused in (0.0, 0.5), "the second answer is the refusal itself, which cannot be likelier than itself"
    assert all(weight.grad is None for weight in lm.network.parameters())


def collapsing(monkeypatch, at: int):
    """Let every probe after the first few report that everything is refused."""
    taken = []

    def probe(lm, held):
        taken.append(1)
        return CollapseProbe(1.0 if len(taken) > at else 0.0, 0.0, 1.0)

    monkeypatch.setattr(fit, "measure_collapse", probe)


def test_a_collapse_is_reported_and_training_continues(data, tmp_path, monkeypatch):
    collapsing(monkeypatch, at=2)
    seen = []
    run = fit_language(lessons.config(data, tmp_path / "run"), on_event=seen.append)
    guarded = [event for event in seen if isinstance(event, Guarded)]
    assert [event.step for event in guarded] == [4, 6]
    assert guarded[0].action.startswith("none: lower train.lr")
    assert [(line.get("event"), line["step"]) for line in run.read_log("metrics.jsonl")] == [
        (None, 0), (None, 2), ("guard", 4), (None, 4), ("guard", 6), (None, 6),
    ]  # fmt: skip


def test_stop_keeps_the_weights_before_the_collapse(data, tmp_path, monkeypatch):
    collapsing(monkeypatch, at=2)
    stopped = fit_language(lessons.config(data, tmp_path / "stopped", "train.guard=stop"))
    healthy = fit_language(lessons.config(data, tmp_path / "healthy", "train.guard=off", "train.steps=2"))
    assert lessons.same(lessons.weights(stopped), lessons.weights(healthy))
    assert stopped.read_log("metrics.jsonl")[-1]["action"] == "stopped; the weights before are kept"
    before = (stopped / "metrics.jsonl").read_bytes()
    fit_language(stopped.path, resume=True)
    assert (stopped / "metrics.jsonl").read_bytes() == before, "a stopped run stays stopped"


def test_a_collapse_in_the_first_round_keeps_the_base_model(data, tmp_path, monkeypatch):
    collapsing(monkeypatch, at=1)
    run = fit_language(lessons.config(data, tmp_path / "run", "train.guard=stop"))
    assert all(bool((weight == 0).all()) for name, weight in lessons.weights(run).items() if "lora_B" in name)
    assert load_trained(run).name == str(run.path)


def test_weights_that_are_not_finite_are_never_written(data, tmp_path):
    out = tmp_path / "run"
    changes = ("model.name=tests.language.lessons:diverging", "train.guard=off")
    with pytest.raises(TrainingError, match=r"training diverged: the loss is nan after step \d; lower train\.lr"):
        fit_language(lessons.config(data, out, *changes))
    assert all(bool(torch.isfinite(weight).all()) for weight in lessons.weights(out).values())
